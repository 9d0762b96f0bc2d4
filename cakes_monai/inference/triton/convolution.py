# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The convolution of CAKES in one launch: each output channel with its own taps only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple_rep
from torch import Tensor

from cakes_monai.inference.triton.operands import channels_last, check_alike, check_operand
from cakes_monai.inference.triton.packed_weights import PackedWeights

__all__ = ["sub_kernel_convolution"]

#: How float32 can be multiplied.
_PRECISIONS = ("tf32x3", "tf32", "ieee")

#: Voxels and input channels of a step where nothing is tuned: the smallest that a matrix product takes.
_SMALLEST = (16, 16)


def sub_kernel_convolution(
    x: Tensor,
    weights: PackedWeights,
    stride: Sequence[int] | int = 1,
    bias: Tensor | None = None,
    precision: str = "tf32x3",
    tile: tuple[int, int] | None = None,
) -> Tensor:
    """
    Convolve as a CakesConv does, with zeros beyond the border; an implicit matrix product on the tensor cores.

    One launch computes the layer. A program has some voxels and one block of output channels and loops over the taps of
    this block; sums are float32. The result is the same from run to run. There are no gradients.

    Args:
        x: input; what is not channels-last in memory is copied.
        weights: of the type and on the device of ``x``.
        stride: along D, H and W.
        bias: added to each output channel.
        precision: how float32 is multiplied: "tf32x3" (nearly float32), "tf32" or "ieee" (no tensor cores).
        tile: voxels and input channels of a step, powers of two from 16; None measures a few at the first call with a
            new shape.

    Raises:
        ValueError: for an input of another type, device or number of channels, or one that needs gradients, or another
            precision.

    Shapes:
        - x: ``(N, C, D, H, W)``
        - output: ``(N, channels, ceil(D/stride), ceil(H/stride), ceil(W/stride))``, channels-last in memory
    """
    check_operand("x", x)
    check_alike("x", x, weights.weight)
    if x.shape[1] != weights.in_channels:
        raise ValueError(f"x has {x.shape[1]} channels, the weights are for {weights.in_channels}.")
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is {precision!r}, allowed are {', '.join(_PRECISIONS)}.")
    strides = ensure_tuple_rep(stride, 3)
    size = [(length - 1) // step + 1 for length, step in zip(x.shape[2:], strides, strict=True)]
    shape = (len(x), weights.split.out_channels, *size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    if y.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _launch(channels_last(x), weights, y, strides, bias, precision, tile)
    return y


def _launch(
    x: Tensor,
    weights: PackedWeights,
    y: Tensor,
    strides: tuple[int, ...],
    bias: Tensor | None,
    precision: str,
    tile: tuple[int, int] | None,
) -> None:
    from cakes_monai.inference.triton import convolution_kernel

    voxels, num_blocks = y.numel() // y.shape[1], len(weights.blocks)
    kernel, blocks = convolution_kernel.tuned_convolve, dict[str, Any]()
    if tile is not None or not x.is_cuda:
        kernel = convolution_kernel.convolve
        blocks = dict(zip(("block_voxels", "block_inputs"), tile or _SMALLEST, strict=True), cache="")

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (-(-voxels // meta["block_voxels"]) * num_blocks,)

    kernel[grid](
        x,
        weights.weight,
        weights.weight if bias is None else bias,  # a pointer that is not read
        weights.starts,
        weights.taps,
        weights.places,
        y,
        voxels,
        *x.shape[2:],
        *y.shape[2:],
        *strides,
        in_channels=x.shape[1],
        out_channels=y.shape[1],
        num_blocks=num_blocks,
        has_bias=bias is not None,
        is_scattered=weights.is_scattered,
        precision=precision,
        is_widened=x.dtype == torch.bfloat16 and not x.is_cuda,  # the interpreter multiplies the bits of bfloat16
        block_channels=weights.block_size,
        enable_fp_fusion=True,  # the default of Triton changes
        **blocks,
    )
