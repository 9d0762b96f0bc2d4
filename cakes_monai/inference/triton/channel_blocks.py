# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which output channels are computed together: blocks of one width, each with the taps its channels need."""

from __future__ import annotations

from itertools import product

from cakes_monai.architecture import KernelSplit, kernel_size
from cakes_monai.native.packing import Block, pack_channels

__all__ = ["BLOCK_SIZES", "block_size", "channel_blocks", "sub_kernel_taps"]

#: Output channels that a block can have; tensor cores take no fewer than 16.
BLOCK_SIZES = (16, 32, 64, 128)


def sub_kernel_taps(sub_kernel: str) -> frozenset[int]:
    """
    Positions of a sub-kernel's taps in the 3x3x3 kernel, ``9 * z + 3 * y + x``.

    Example:
        >>> sorted(sub_kernel_taps("1x1x3"))
        [12, 13, 14]
    """
    ranges = [range(3) if length == 3 else (1,) for length in kernel_size(sub_kernel)]
    return frozenset(9 * z + 3 * y + x for z, y, x in product(*ranges))


def channel_blocks(split: KernelSplit, size: int) -> list[Block[int]]:
    """
    Divide the output channels of a split, in their canonical order, into blocks of at most ``size``.

    See :func:`~cakes_monai.native.packing.pack_channels`.

    Args:
        split: output channels of each sub-kernel.
        size: output channels of a block.

    Returns:
        Blocks, those with the most taps first: what takes longest is begun first.

    Example:
        >>> [len(block.taps) for block in channel_blocks(KernelSplit.of({"3x3x3": 10, "1x3x3": 16, "1x1x3": 6}), 16)]
        [27, 9]
    """
    return pack_channels([sub_kernel_taps(name) for name, count in split.counts for _ in range(count)], size)


def block_size(split: KernelSplit, float32: bool = False) -> int:
    """
    Block size that a model of the GPU expects to be the fastest.

    For each tap, input channel and 128 voxels a block of N output channels reads 128 + N numbers from the L2 cache and
    does 128 * N multiply-adds. One multiprocessor of Hopper reads 32 half-precision numbers and does 2048 multiply-adds
    in a cycle, so reading takes longer below N = 128: few wide blocks with more taps can be faster than many narrow
    ones. In float32 numbers are twice as long and three TF32 products, each at half the rate, make one.

    Args:
        split: output channels of each sub-kernel.
        float32: whether the layer runs in float32.
    """
    multiply, read = (6, 2) if float32 else (1, 1)

    def cycles(size: int) -> float:
        taps = sum(len(block.taps) for block in channel_blocks(split, size))
        return taps * max(multiply * size, read * (64 + size / 2))

    return min(BLOCK_SIZES, key=cycles)
