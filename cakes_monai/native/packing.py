# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which output channels are computed together: those with the same taps, and what is left so that little is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Generic, TypeVar

__all__ = ["Block", "Tap", "pack_channels"]

#: Offset of an input voxel from the one of the output along D, H and W.
Tap = tuple[int, int, int]

T = TypeVar("T", int, Tap)


@dataclass(frozen=True)
class Block(Generic[T]):
    """
    Output channels that are computed together.

    Args:
        channels: the output channels, ascending, at most as many as a block is wide.
        taps: all taps that one of the channels has, ascending.
    """

    channels: tuple[int, ...]
    taps: tuple[T, ...]

    def __or__(self, other: Block[T]) -> Block[T]:
        """Both, with the taps of both."""
        return Block(tuple(sorted(self.channels + other.channels)), tuple(sorted(set(self.taps + other.taps))))


def pack_channels(taps: Sequence[frozenset[T]], size: int) -> list[Block[T]]:
    """
    Divide output channels into blocks of at most ``size``, so that few products with zero are computed.

    Channels with the same taps fill whole blocks. What is left of each kind moves into free room of blocks that have
    its taps anyway, which costs nothing; if there is too little, it gets a block; such blocks are merged where the
    union has fewer taps than they have together. Integer programming finds no more than a tenth fewer, and takes
    seconds.

    Args:
        taps: taps of each output channel.
        size: channels of a block, e.g. those that a vector has lanes for.

    Returns:
        blocks, those with most taps first: what takes longest is begun first.

    Example:
        >>> one, three = frozenset({(0, 0, 0)}), frozenset({(0, 0, -1), (0, 0, 0), (0, 0, 1)})
        >>> [(len(block.channels), len(block.taps)) for block in pack_channels([one] * 5 + [three] * 11, 8)]
        [(8, 3), (8, 3)]
    """
    kinds: dict[frozenset[T], list[int]] = {}
    for channel, own in enumerate(taps):
        kinds.setdefault(own, []).append(channel)
    blocks: list[Block[T]] = []
    for own, channels in sorted(kinds.items(), key=lambda kind: (-len(kind[0]), kind[1])):
        whole, ordered = len(channels) // size * size, tuple(sorted(own))
        blocks += [Block(tuple(channels[i : i + size]), ordered) for i in range(0, whole, size)]
        if whole < len(channels):
            _place(blocks, Block(tuple(channels[whole:]), ordered), size)
    _merge(blocks, size)
    return sorted(blocks, key=lambda block: (-len(block.taps), block.taps, block.channels))


def _place(blocks: list[Block[T]], left: Block[T], size: int) -> None:
    """Put channels into free room if there is enough for all of them, else into a block of their own."""
    needed = set(left.taps)
    hosts = [i for i in range(len(blocks)) if needed <= set(blocks[i].taps) and len(blocks[i].channels) < size]
    if sum(size - len(blocks[i].channels) for i in hosts) < len(left.channels):
        blocks.append(left)
        return
    channels = left.channels
    for i in sorted(hosts, key=lambda i: (len(blocks[i].taps), -len(blocks[i].channels))):  # room for few others first
        room = size - len(blocks[i].channels)
        blocks[i] |= Block(channels[:room], ())
        channels = channels[room:]


def _merge(blocks: list[Block[T]], size: int) -> None:
    """Merge the two blocks whose union saves most taps until none fit into one."""
    while True:
        pairs = [(a, b) for a, b in combinations(blocks, 2) if len(a.channels) + len(b.channels) <= size]
        if not pairs:
            return
        a, b = max(pairs, key=lambda pair: len({*pair[0].taps} & {*pair[1].taps}))  # kernels have the middle in common
        blocks.remove(a)
        blocks.remove(b)
        blocks.append(a | b)
