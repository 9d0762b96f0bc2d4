# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of instance norm, activation and sum; only to be imported where Triton is installed."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["chunk_statistics", "normalise"]


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _add(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return a + b


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def chunk_statistics(
    x: tl.tensor,
    means: tl.tensor,
    deviations: tl.tensor,
    voxels: tl.tensor,
    chunk: tl.tensor,
    num_channels: tl.constexpr,
    block_channels: tl.constexpr,
    block_voxels: tl.constexpr,
) -> None:
    """
    Write the mean and the sum of squared deviations from it of each channel in one chunk of voxels.

    Every row of the tile keeps its own mean and deviations (Welford), which are merged in the end (Chan): no squares of
    numbers that are large against their spread are subtracted, and threads exchange nothing on the way.
    """
    image = tl.program_id(2).to(tl.int64)
    row = tl.arange(0, block_voxels)
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    exists = (channel < num_channels)[None, :]
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, voxels)
    mean = tl.full((block_voxels, block_channels), 0.0, tl.float32)
    deviation = tl.full((block_voxels, block_channels), 0.0, tl.float32)
    for step in range((chunk + block_voxels - 1) // block_voxels):
        voxel = start + step * block_voxels + row
        is_inside = (voxel < end)[:, None] & exists
        source = x + (image * voxels + voxel)[:, None] * num_channels + channel[None, :]
        value = tl.load(source, mask=is_inside, other=0.0).to(tl.float32)
        difference = tl.where(is_inside, value - mean, 0.0)
        mean += difference * (1.0 / (step + 1))
        deviation += tl.where(is_inside, difference * (value - mean), 0.0)
    count = (tl.maximum(end - start - row + block_voxels - 1, 0) // block_voxels).to(tl.float32)[:, None]
    chunk_mean = tl.reduce(mean * count, 0, _add) / (end - start)
    offset = mean - chunk_mean[None, :]
    chunk_deviation = tl.reduce(deviation + count * offset * offset, 0, _add)
    target = (image * tl.num_programs(0) + tl.program_id(0)) * num_channels + channel
    tl.store(means + target, chunk_mean, mask=channel < num_channels)
    tl.store(deviations + target, chunk_deviation, mask=channel < num_channels)


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def normalise(
    x: tl.tensor,
    means: tl.tensor,
    deviations: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    y: tl.tensor,
    voxels: tl.tensor,
    chunk: tl.tensor,
    eps: tl.tensor,
    num_channels: tl.constexpr,
    has_weight: tl.constexpr,
    has_bias: tl.constexpr,
    has_relu: tl.constexpr,
    has_add: tl.constexpr,
    block_chunks: tl.constexpr,
    block_channels: tl.constexpr,
    block_voxels: tl.constexpr,
) -> None:
    """Merge the statistics of all chunks (Chan), then normalise the voxels of one chunk."""
    image = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    is_channel = channel < num_channels
    exists = is_channel[None, :]

    other = tl.arange(0, block_chunks)
    count = tl.maximum(tl.minimum(voxels - other * chunk, chunk), 0).to(tl.float32)[:, None]
    source = (image * tl.num_programs(0) + other)[:, None] * num_channels + channel[None, :]
    is_chunk = (other < tl.num_programs(0))[:, None] & exists
    chunk_mean = tl.load(means + source, mask=is_chunk, other=0.0)
    deviation = tl.load(deviations + source, mask=is_chunk, other=0.0)
    mean = tl.reduce(chunk_mean * count, 0, _add) / voxels
    offset = chunk_mean - mean[None, :]
    variance = tl.reduce(deviation + count * offset * offset, 0, _add) / voxels
    scale = 1.0 / tl.sqrt(variance + eps)
    if has_weight:
        scale *= tl.load(weight + channel, mask=is_channel, other=0.0).to(tl.float32)
    shift = tl.full((block_channels,), 0.0, tl.float32)
    if has_bias:
        shift += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)

    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, voxels)
    for step in range((chunk + block_voxels - 1) // block_voxels):
        voxel = start + step * block_voxels + tl.arange(0, block_voxels)
        is_inside = (voxel < end)[:, None] & exists
        place = (image * voxels + voxel)[:, None] * num_channels + channel[None, :]
        value = tl.load(x + place, mask=is_inside, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * scale[None, :] + shift[None, :]
        if has_relu:
            value = tl.where(value < 0.0, 0.0, value)  # NaN stays
        if has_add:
            value += tl.load(add + place, mask=is_inside, other=0.0).to(tl.float32)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=is_inside)
