# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights of a CakesConv in the order in which the Triton kernel reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.architecture import KernelSplit
from cakes_monai.inference.triton.channel_blocks import BLOCK_SIZES, block_size, channel_blocks
from cakes_monai.inference.triton.operands import DTYPES
from cakes_monai.native.packing import Block

__all__ = ["PackedWeights"]


class PackedWeights(nn.Module):
    """
    Weights of all sub-kernels in blocks of output channels, each with its own taps only.

    Buffers: ``weight`` ``(taps of all blocks, C, block size)``; ``starts``, the first tap of each block in ``weight``
    and the end; ``taps`` ``(blocks, 3)``, the positions of the taps of each block, ten in an integer; ``places``
    ``(blocks, block size)``, the output channel of each column, -1 for columns of zeros that fill a block.

    Args:
        weights: ``(channels, C, kD, kH, kW)`` of each sub-kernel, e.g. ``{"3x3x3": ..., "1x1x3": ...}``.
        order: output channel i is channel ``order[i]`` by sub-kernel; None leaves them by sub-kernel.
        dtype: float16, bfloat16 or float32.
        block_size: output channels of a block, one of :data:`BLOCK_SIZES`; None lets a model of the GPU choose, see
            :func:`cakes_monai.inference.triton.channel_blocks.block_size`. Measuring all is better.

    Raises:
        ValueError: for another dtype or block size.
    """

    weight: Tensor
    starts: Tensor
    taps: Tensor
    places: Tensor

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        order: Tensor | None = None,
        dtype: torch.dtype = torch.float16,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        self.split = KernelSplit(tuple((name, len(weight)) for name, weight in weights.items()))
        size = _checked_size(self.split, dtype, block_size)
        self.blocks = channel_blocks(self.split, size)
        dense = torch.cat([_dense(weights[name].detach()) for name, _ in self.split.counts])
        outputs = torch.arange(len(dense)) if order is None else order.detach().cpu().argsort()
        starts = [0, *accumulate(len(block.taps) for block in self.blocks)]
        places = [_columns(outputs, block, size) for block in self.blocks]
        self.is_scattered = not all(_is_run(row) for row in places)
        self.register_buffer("weight", torch.cat([_rows(dense, block, size) for block in self.blocks]).to(dtype))
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int32))
        self.register_buffer("taps", torch.tensor([_codes(block.taps) for block in self.blocks], dtype=torch.int64))
        self.register_buffer("places", torch.tensor(places, dtype=torch.int32))
        self.to(dense.device)

    @property
    def block_size(self) -> int:
        """Output channels of a block."""
        return self.weight.shape[2]

    @property
    def in_channels(self) -> int:
        """Number of input channels C."""
        return self.weight.shape[1]

    @property
    def padded_share(self) -> float:
        """Multiply-adds that are executed over those of the sub-kernels: 1.0 where no block multiplies a zero."""
        return len(self.weight) * self.block_size / self.split.taps

    def extra_repr(self) -> str:  # noqa: D102
        blocks = f"{len(self.blocks)} blocks of {self.block_size}"
        return f"{self.in_channels}, {self.split.as_dict()}, {blocks}, padded_share={self.padded_share:.2f}"


def _checked_size(split: KernelSplit, dtype: torch.dtype, size: int | None) -> int:
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}, allowed are {', '.join(map(str, DTYPES))}.")
    if size is None:
        return block_size(split, dtype == torch.float32)
    if size not in BLOCK_SIZES:
        raise ValueError(f"block_size is {size}, allowed are {', '.join(map(str, BLOCK_SIZES))}.")
    return size


def _dense(weight: Tensor) -> Tensor:
    """The 3x3x3 kernel with zeros beyond the sub-kernel, ``(channels, C, 27)``."""
    depth, height, width = weight.shape[2:]
    margin = [1 - width // 2] * 2 + [1 - height // 2] * 2 + [1 - depth // 2] * 2
    return F.pad(weight, margin).flatten(2)


def _rows(dense: Tensor, block: Block[int], size: int) -> Tensor:
    """Weights of a block, ``(taps, C, size)``, with columns of zeros where it has fewer channels."""
    columns = dense[list(block.channels)][:, :, list(block.taps)]
    return F.pad(columns.permute(2, 1, 0), [0, size - len(block.channels)])


def _columns(outputs: Tensor, block: Block[int], size: int) -> list[int]:
    """Where each column of a block is written."""
    return [int(outputs[channel]) for channel in block.channels] + [-1] * (size - len(block.channels))


def _is_run(places: list[int]) -> bool:
    """Whether a block is written to channels that follow each other, from a multiple of 8: 16 bytes at a time."""
    return places[0] % 8 == 0 and places == list(range(places[0], places[0] + len(places)))


def _codes(taps: Sequence[int]) -> list[int]:
    """Positions of up to 30 taps along D, H and W, each 0 to 2 in two bits, ten taps in an integer."""
    codes = [tap // 9 | tap // 3 % 3 << 2 | tap % 3 << 4 for tap in taps]
    return [sum(code << 6 * i for i, code in enumerate(codes[start : start + 10])) for start in (0, 10, 20)]
