# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which output channels are computed together: blocks of one width, each with the taps its channels need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product

from cakes_monai.architecture import KernelSplit, kernel_size

__all__ = ["BLOCK_SIZES", "ChannelBlock", "block_size", "channel_blocks", "sub_kernel_taps"]

#: Output channels that a block can have; tensor cores take no fewer than 16.
BLOCK_SIZES = (16, 32, 64, 128)


@dataclass(frozen=True)
class ChannelBlock:
    """
    Output channels that are computed together, and the union of their taps.

    Args:
        taps: positions in the 3x3x3 kernel, ``9 * z + 3 * y + x``, ascending.
        channels: indices in the canonical order, ascending, at most as many as the block is wide.
    """

    taps: tuple[int, ...]
    channels: tuple[int, ...]

    def __or__(self, other: ChannelBlock) -> ChannelBlock:
        return _block({*self.taps, *other.taps}, (*self.channels, *other.channels))


def _block(taps: Iterable[int], channels: Iterable[int]) -> ChannelBlock:
    return ChannelBlock(tuple(sorted(taps)), tuple(sorted(channels)))


def sub_kernel_taps(sub_kernel: str) -> frozenset[int]:
    """
    Positions of a sub-kernel's taps in the 3x3x3 kernel, ``9 * z + 3 * y + x``.

    Example:
        >>> sorted(sub_kernel_taps("1x1x3"))
        [12, 13, 14]
    """
    ranges = [range(3) if length == 3 else (1,) for length in kernel_size(sub_kernel)]
    return frozenset(9 * z + 3 * y + x for z, y, x in product(*ranges))


def channel_blocks(split: KernelSplit, size: int) -> tuple[ChannelBlock, ...]:
    """
    Divide the output channels of a split into blocks of at most ``size``, with few taps in all.

    Sub-kernels fill whole blocks of their own. What is left of each moves into free room of blocks that have its taps
    anyway, which costs nothing; if there is too little, it gets a block; such blocks are merged where the union has
    fewer taps than they have together. Integer programming finds no more than a tenth fewer, and takes seconds.

    Args:
        split: output channels of each sub-kernel.
        size: output channels of a block.

    Returns:
        Blocks, those with the most taps first: what takes longest is begun first.

    Example:
        >>> [len(block.taps) for block in channel_blocks(KernelSplit.of({"3x3x3": 10, "1x3x3": 16, "1x1x3": 6}), 16)]
        [27, 9]
    """
    blocks: list[ChannelBlock] = []
    first = 0
    for name, count in split.counts:  # from the most taps to the fewest
        channels, taps = list(range(first, first + count)), sub_kernel_taps(name)
        first += count
        whole = count // size * size
        blocks += [_block(taps, channels[i : i + size]) for i in range(0, whole, size)]
        _place(blocks, taps, channels[whole:], size)
    _merge(blocks, size)
    return tuple(sorted(blocks, key=lambda block: (-len(block.taps), block.channels)))


def _place(blocks: list[ChannelBlock], taps: frozenset[int], channels: list[int], size: int) -> None:
    """Put channels into free room if there is enough for all of them, else into a block of their own."""
    hosts = [i for i, block in enumerate(blocks) if taps <= set(block.taps) and len(block.channels) < size]
    if sum(size - len(blocks[i].channels) for i in hosts) < len(channels):
        blocks.append(_block(taps, channels))
        return
    for i in sorted(hosts, key=lambda i: (len(blocks[i].taps), -len(blocks[i].channels))):  # room for few others first
        room = size - len(blocks[i].channels)
        blocks[i] |= _block((), channels[:room])
        channels = channels[room:]


def _merge(blocks: list[ChannelBlock], size: int) -> None:
    """Merge the two blocks whose union saves most taps until none fit into one."""
    while True:
        pairs = [(a, b) for a, b in combinations(blocks, 2) if len(a.channels) + len(b.channels) <= size]
        if not pairs:
            return
        a, b = max(pairs, key=lambda pair: len(set(pair[0].taps) & set(pair[1].taps)))  # all have the middle in common
        blocks.remove(a)
        blocks.remove(b)
        blocks.append(a | b)


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
