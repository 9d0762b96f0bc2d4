# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel of a CakesConv; only to be imported where Triton is installed."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["convolve", "tuned_convolve"]


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def convolve(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    starts: tl.tensor,
    taps: tl.tensor,
    places: tl.tensor,
    y: tl.tensor,
    voxels: tl.tensor,
    depth: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_depth: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    stride_depth: tl.constexpr,
    stride_height: tl.constexpr,
    stride_width: tl.constexpr,
    in_channels: tl.constexpr,
    out_channels: tl.constexpr,
    num_blocks: tl.constexpr,
    has_bias: tl.constexpr,
    is_scattered: tl.constexpr,
    cache: tl.constexpr,
    precision: tl.constexpr,
    is_widened: tl.constexpr,
    block_channels: tl.constexpr,
    block_voxels: tl.constexpr,
    block_inputs: tl.constexpr,
) -> None:
    """
    Compute one block of output channels at ``block_voxels`` voxels: a matrix product with the taps of this block only.

    ``x`` and ``y`` are channels-last and contiguous, the others are the buffers of PackedWeights. Programs that follow
    each other have the same voxels, so that the input is read from the cache by all but the first of them.
    """
    program = tl.program_id(0)
    block = program % num_blocks
    voxel = program // num_blocks * block_voxels + tl.arange(0, block_voxels)
    w = voxel % out_width * stride_width
    line = voxel // out_width
    h = line % out_height * stride_height
    plane = line // out_height
    d = plane % out_depth * stride_depth
    middle = ((plane // out_depth * depth + d) * height + h) * width + w
    # Nine bits: whether there are voxels before, at and behind the middle, along each axis.
    inside = (d > 0).to(tl.int32) + 2 + 4 * (d + 1 < depth).to(tl.int32)
    inside += 8 * ((h > 0).to(tl.int32) + 2 + 4 * (h + 1 < height).to(tl.int32))
    inside += 64 * ((w > 0).to(tl.int32) + 2 + 4 * (w + 1 < width).to(tl.int32))
    inside = tl.where(voxel < voxels, inside, 0)

    begin = tl.load(starts + block)
    num_taps = tl.load(starts + block + 1) - begin
    # In registers: a number that is loaded in the loop would have to arrive before the loads that depend on it.
    first_taps = tl.load(taps + block * 3)
    next_taps = tl.load(taps + block * 3 + 1)
    last_taps = tl.load(taps + block * 3 + 2)
    column = tl.arange(0, block_channels)
    total = tl.full((block_voxels, block_channels), 0.0, tl.float32)
    # Taps in the inner loop: they read nearly the same numbers, which the first of them brings into the cache.
    tap = tl.full((), 0, tl.int32)
    first_channel = tl.full((), 0, tl.int32)
    for _ in range(num_taps * ((in_channels + block_inputs - 1) // block_inputs)):
        channel = first_channel + tl.arange(0, block_inputs)
        packed = tl.where(tap < 10, first_taps, tl.where(tap < 20, next_taps, last_taps))
        code = (packed >> (tap % 10 * 6)).to(tl.int32)
        tap_d = code & 3
        tap_h = code >> 2 & 3
        tap_w = code >> 4 & 3
        needed = (1 << tap_d) + (8 << tap_h) + (64 << tap_w)
        source = (middle + ((tap_d - 1) * height + tap_h - 1) * width + tap_w - 1).to(tl.int64) * in_channels
        is_inside = ((inside & needed) == needed)[:, None]
        row = (begin + tap) * in_channels + channel
        image_at = x + source[:, None] + channel[None, :]
        kernel_at = weight + row[:, None] * block_channels + column[None, :]
        if in_channels % block_inputs == 0:
            image = tl.load(image_at, mask=is_inside, other=0.0, cache_modifier=cache)
            kernel = tl.load(kernel_at)
        else:
            exists = channel < in_channels
            image = tl.load(image_at, mask=is_inside & exists[None, :], other=0.0, cache_modifier=cache)
            kernel = tl.load(kernel_at, mask=exists[:, None], other=0.0)
        if is_widened:
            image = image.to(tl.float32)
            kernel = kernel.to(tl.float32)
        total = tl.dot(image, kernel, total, input_precision=precision)
        is_last = tap + 1 == num_taps
        first_channel = tl.where(is_last, first_channel + block_inputs, first_channel)
        tap = tl.where(is_last, 0, tap + 1)

    if is_scattered:
        place = tl.load(places + block * block_channels + column)
    else:  # so that the compiler knows it, and stores many numbers at once
        place = tl.multiple_of(tl.load(places + block * block_channels), 8) + column
    is_channel = place >= 0
    if has_bias:
        total += tl.load(bias + place, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    target = y + voxel.to(tl.int64)[:, None] * out_channels + place[None, :]
    is_wanted = (voxel < voxels)[:, None]
    if is_scattered:
        is_wanted = is_wanted & is_channel[None, :]
    tl.store(target, total.to(y.dtype.element_ty), mask=is_wanted)


def _config(block_voxels: int, block_inputs: int, warps: int, stages: int, cache: str = "") -> Any:
    blocks = {"block_voxels": block_voxels, "block_inputs": block_inputs, "cache": cache}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


#: :func:`convolve` with the fastest of a few tiles, measured at the first call with a new shape.
tuned_convolve = triton.autotune(
    configs=[
        _config(256, 32, 8, 3),
        _config(128, 32, 4, 4),
        _config(128, 32, 4, 4, ".ca"),  # taps that read the same numbers meet in the L1 cache
        _config(128, 64, 4, 3),
        _config(128, 64, 4, 3, ".ca"),
        _config(64, 64, 4, 4),
        _config(32, 64, 4, 4),  # few voxels: more programs
    ],
    key=["voxels", "in_channels", "out_channels", "num_blocks"],
)(convolve)
