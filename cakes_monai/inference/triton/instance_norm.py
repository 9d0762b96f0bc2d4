# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Instance norm, activation and sum without a copy into another layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cakes_monai.inference.triton.operands import channels_last, check_alike, check_operand

__all__ = ["instance_norm_act"]

_MOST_CHUNKS = 256  # every program of the second kernel reads the statistics of all
_MOST_CHANNELS = 32  # of one program: with 256 chunks as many statistics as fit into its registers
_PROGRAMS = 4  # wanted for each multiprocessor
_WARPS = 8


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    act: str | None = "relu",
    add: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """
    Instance norm, then ReLU, then the sum with another tensor: ``x`` is read twice, nothing between is written.

    Two launches: statistics of chunks of voxels, in float32 and without sums of squares; then each chunk merges the
    statistics of all and normalises its own voxels. The result is the same from run to run. There are no gradients.

    Args:
        x: input in float16, bfloat16 or float32; what is not channels-last in memory is copied.
        weight: factor of each channel; None for 1.
        bias: added to each channel behind the factor; None for 0.
        eps: added to the variance.
        act: "relu" or None.
        add: added behind the activation, e.g. the other branch of a cell; like ``x``.
        tile: numbers a program works on at a time, a power of two; None for 8192.

    Raises:
        ValueError: for another activation, or ``add`` of another shape, type or device than ``x``.

    Shapes:
        - x, add and output: ``(N, C, D, H, W)``; the output is channels-last in memory
    """
    check_operand("x", x)
    if add is not None:
        check_operand("add", add)
        check_alike("add", add, x)
        if add.shape != x.shape:
            raise ValueError(f"add has shape {tuple(add.shape)}, x has {tuple(x.shape)}, they must be the same.")
    if act not in ("relu", None):
        raise ValueError(f"act is {act!r}, allowed are 'relu' and None.")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    if y.numel():
        other = None if add is None else channels_last(add)
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _launch(channels_last(x), _Chunks.of(x, tile), weight, bias, eps, act, other, y)
    return y


@dataclass(frozen=True)
class _Chunks:
    """How the voxels of an image are divided among programs."""

    voxels: int
    chunk: int
    block_channels: int
    block_voxels: int
    grid: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, tile: int | None) -> _Chunks:
        tile = tile or (8192 if x.is_cuda else 256)  # the interpreter is slow
        batch, channels = x.shape[:2]
        voxels = x.shape[2:].numel()
        block_channels = min(_power_of_two(channels), _MOST_CHANNELS)
        block_voxels = tile // block_channels
        channel_blocks = -(-channels // block_channels)
        wanted = -(-_PROGRAMS * _multiprocessors(x.device) // (batch * channel_blocks))
        chunk = max(-(-voxels // min(wanted, _MOST_CHUNKS)), block_voxels)
        chunk = -(-chunk // block_voxels) * block_voxels
        grid = (-(-voxels // chunk), channel_blocks, batch)
        return cls(voxels, chunk, block_channels, block_voxels, grid)


def _launch(
    x: Tensor,
    chunks: _Chunks,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    act: str | None,
    add: Tensor | None,
    y: Tensor,
) -> None:
    from cakes_monai.inference.triton.norm_kernels import chunk_statistics, normalise

    means, deviations = torch.empty(2, len(x), chunks.grid[0], x.shape[1], dtype=torch.float32, device=x.device)
    options = {"block_channels": chunks.block_channels, "block_voxels": chunks.block_voxels, "num_warps": _WARPS}
    options |= {"num_channels": x.shape[1], "enable_fp_fusion": True}  # the default of Triton changes
    chunk_statistics[chunks.grid](x, means, deviations, chunks.voxels, chunks.chunk, **options)
    normalise[chunks.grid](
        x,
        means,
        deviations,
        *(x if operand is None else operand for operand in (weight, bias, add)),  # a pointer that is not read
        y,
        chunks.voxels,
        chunks.chunk,
        eps,
        has_weight=weight is not None,
        has_bias=bias is not None,
        has_relu=act == "relu",
        has_add=add is not None,
        block_chunks=_power_of_two(chunks.grid[0]),
        **options,
    )


def _power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
