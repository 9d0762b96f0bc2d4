# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which output channels share a vector: those with the same taps, and what is left of them so that little is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Block", "Tap", "pack_channels"]

#: Offset of an input voxel from the one of the output along D, H and W.
Tap = tuple[int, int, int]


@dataclass(frozen=True)
class Block:
    """
    Output channels that are computed together.

    Args:
        channels: the output channels, at most as many as a vector has lanes.
        taps: all taps that one of the channels has, in order.
    """

    channels: tuple[int, ...]
    taps: tuple[Tap, ...]


def pack_channels(taps: Sequence[frozenset[Tap]], lanes: int) -> list[Block]:
    """
    Divide output channels into blocks of ``lanes``, so that few products with zero are computed.

    Channels with the same taps fill whole blocks. What is left of each kind is packed beginning with the kind of most
    taps: a block takes all of that kind, then the channels that add the fewest taps to it, of equal ones those of which
    most are left.

    Args:
        taps: taps of each output channel.
        lanes: channels of a block.

    Returns:
        blocks, those with the same taps side by side, those with most taps first.

    Example:
        >>> one, three = frozenset({(0, 0, 0)}), frozenset({(0, 0, -1), (0, 0, 0), (0, 0, 1)})
        >>> [(len(block.channels), len(block.taps)) for block in pack_channels([one] * 5 + [three] * 11, 8)]
        [(8, 3), (8, 3)]
    """
    kinds: dict[frozenset[Tap], list[int]] = {}
    for channel, own in enumerate(taps):
        kinds.setdefault(own, []).append(channel)
    blocks = []
    for own, channels in kinds.items():
        whole = len(channels) // lanes * lanes
        blocks += [Block(tuple(channels[i : i + lanes]), tuple(sorted(own))) for i in range(0, whole, lanes)]
        kinds[own] = channels[whole:]
    while any(kinds.values()):
        blocks.append(_mixed_block(kinds, lanes))
    return sorted(blocks, key=lambda block: (-len(block.taps), block.taps, block.channels))


def _mixed_block(kinds: Mapping[frozenset[Tap], list[int]], lanes: int) -> Block:
    """Take one block's channels out of ``kinds``."""
    largest = max((own for own in kinds if kinds[own]), key=len)
    union, channels = set(largest), [kinds[largest].pop(0) for _ in kinds[largest].copy()]
    while len(channels) < lanes and any(kinds.values()):
        nearest = min((own for own in kinds if kinds[own]), key=lambda own: (len(own - union), -len(kinds[own])))
        union |= nearest
        channels.append(kinds[nearest].pop(0))
    return Block(tuple(sorted(channels)), tuple(sorted(union)))
