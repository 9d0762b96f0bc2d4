# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the kernels run for a convolution: blocks of channels, their taps, and where each weight comes from."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cakes_monai.native.library import Group, Product, lanes
from cakes_monai.native.packing import Block, Tap, pack_channels

__all__ = ["GradientRows", "Program", "Sides", "forward_program", "input_gradient_program", "weight_gradient_rows"]

#: Taps of a kernel along D, H and W.
Sides = tuple[int, int, int]

_AT_ONCE = (4, 2, 1)  # blocks of a group


@dataclass(frozen=True)
class Program:
    """
    Tables of kernels.cpp.

    Args:
        groups: of blocks with the same taps.
        taps: ``(taps, 5)``: offset along D, H and W, first input channel and the one behind the last.
        channels: ``(blocks, lanes)``: the output channel of each lane, -1 for none.
        index: where each packed weight is in the flat weights behind each other; their number stands for zero.
    """

    groups: ctypes.Array[Group]
    taps: NDArray[np.int32]
    channels: NDArray[np.int32]
    index: Tensor

    def pack(self, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Put weights into the order in which they are read."""
        flat = torch.cat([*(weight.detach().reshape(-1) for weight in weights), weights[0].new_zeros(1)])
        return flat[self.index].to(dtype)


class WeightPlaces:
    """
    Where the weight of an output channel, an input channel and a tap is in flat weights.

    Args:
        kernels: output channels and sides of each weight ``(channels, C, kD, kH, kW)``.
        in_channels: input channels C.
    """

    def __init__(self, kernels: Sequence[tuple[int, Sides]], in_channels: int) -> None:
        sides = np.repeat([own for _, own in kernels], [count for count, _ in kernels], axis=0)
        taps = sides.prod(1)
        self.sides, self.step = sides, taps
        self.first = np.concatenate([[0], np.cumsum(taps * in_channels)[:-1]])
        self.zero = int((taps * in_channels).sum())

    def index(self, out: NDArray[np.int64], inputs: NDArray[np.int64], tap: Tap) -> NDArray[np.int64]:
        """Places for ``out`` and ``inputs`` (of one shape together); -1 or a tap that is not there is zero."""
        sides = self.sides[out]
        place = np.array(tap) + sides // 2
        there = ((place >= 0) & (place < sides)).all(-1) & (out >= 0) & (inputs >= 0)
        number = (place[..., 0] * sides[..., 1] + place[..., 1]) * sides[..., 2] + place[..., 2]
        return np.where(there, self.first[out] + inputs * self.step[out] + number, self.zero)


def _all_taps(sides: Sides) -> tuple[Tap, ...]:
    depth, height, width = (range(-(side // 2), side // 2 + 1) for side in sides)
    return tuple(product(depth, height, width))


def forward_program(
    kernels: Sequence[tuple[int, Sides]],
    in_channels: int,
    paired: bool,
    taps: Sequence[frozenset[Tap]] | None = None,
    order: Sequence[int] | None = None,
) -> Program:
    """
    Convolve.

    Args:
        kernels: output channels and sides of each weight.
        in_channels: input channels.
        paired: whether two input channels are multiplied together (bfloat16).
        taps: of each output channel; None are all of its kernel.
        order: output channel i of the result is channel ``order[i]`` of the weights; None for as they are.
    """
    if taps is None:
        taps = [frozenset(_all_taps(sides)) for count, sides in kernels for _ in range(count)]
    places = WeightPlaces(kernels, in_channels)
    target = np.arange(len(taps)) if order is None else np.argsort(order)
    inputs = np.arange(in_channels)

    def weights(block: Block[Tap], tap: Tap) -> NDArray[np.int64]:
        return places.index(_lanes(block.channels)[None], inputs[:, None], tap)

    def entries(block: Block[Tap]) -> list[tuple[Tap, Tap, int, int]]:
        return [(tap, tap, 0, in_channels) for tap in block.taps]

    return _program(pack_channels(taps, lanes()), entries, weights, target, paired)


def input_gradient_program(kernels: Sequence[tuple[int, Sides]], in_channels: int, paired: bool) -> Program:
    """Convolve the gradient of the output to that of the input, stride 1: each tap with the channels that have it."""
    places = WeightPlaces(kernels, in_channels)
    firsts = range(0, in_channels, lanes())
    blocks = [Block[Tap](tuple(range(first, min(first + lanes(), in_channels))), ()) for first in firsts]
    ranges = _tap_ranges(kernels, 2 if paired else 1)

    def weights(block: Block[Tap], entry: tuple[Tap, int, int, int, int]) -> NDArray[np.int64]:
        tap, begin, end, first, last = entry
        out = np.arange(begin, end)
        out[(out < first) | (out >= last)] = -1
        return places.index(out[:, None], _lanes(block.channels)[None], tap)

    def entries(block: Block[Tap]) -> list[tuple[tuple[Tap, int, int, int, int], Tap, int, int]]:
        return [((tap, begin, end, *own), tuple(-step for step in tap), begin, end) for tap, begin, end, own in ranges]  # type: ignore[misc]

    return _program(blocks, entries, weights, np.arange(in_channels), paired)


def _tap_ranges(kernels: Sequence[tuple[int, Sides]], even: int) -> list[tuple[Tap, int, int, tuple[int, int]]]:
    """Runs of neighbouring output channels with a tap: widened to multiples of ``even``, and as they are."""
    found = []
    for tap in _all_taps((3, 3, 3)):
        first = 0
        runs: list[list[int]] = []
        for count, sides in kernels:
            if count and all(abs(step) <= side // 2 for step, side in zip(tap, sides, strict=True)):
                if runs and runs[-1][1] == first:
                    runs[-1][1] += count
                else:
                    runs.append([first, first + count])
            first += count
        found += [(tap, begin // even * even, -(-end // even) * even, (begin, end)) for begin, end in runs]
    return found


def _lanes(channels: Sequence[int]) -> NDArray[np.int64]:
    return np.array([*channels, *[-1] * (lanes() - len(channels))])


def _program(blocks: Sequence[Block[Tap]], entries, weights, target: NDArray[np.int64], paired: bool) -> Program:  # type: ignore[no-untyped-def]  # functions of the two programs
    groups: list[Group] = []
    taps: list[tuple[int, ...]] = []
    index: list[NDArray[np.int64]] = []
    offset = first_block = 0
    for _, same in groupby(blocks, key=lambda block: block.taps):
        alike = list(same)
        while alike:
            count = next(size for size in _AT_ONCE if size <= len(alike))
            group, alike = alike[:count], alike[count:]
            own = entries(group[0])
            groups.append(Group(first_block, count, len(taps), len(own), offset))
            packed = [_paired(weights(block, key), paired) for key, *_ in own for block in group]
            index += packed
            offset += sum(map(len, packed))
            taps += [(*tap, begin, end) for _, tap, begin, end in own]
            first_block += count
    channels = np.array([_lanes(block.channels) for block in blocks])
    channels = np.where(channels < 0, -1, target[channels])
    return Program(
        (Group * len(groups))(*groups),
        np.array(taps, np.int32),
        channels.astype(np.int32),
        torch.from_numpy(np.concatenate(index)),
    )


def _paired(index: NDArray[np.int64], paired: bool) -> NDArray[np.int64]:
    """``(inputs, lanes)``, paired ``(inputs/2, lanes, 2)``, as one row."""
    return (index.reshape(-1, 2, index.shape[1]).swapaxes(1, 2) if paired else index).reshape(-1)


@dataclass(frozen=True)
class GradientRows:
    """
    Products whose sums are the gradient of the weights, ``(rows, C)``.

    Args:
        products: table of kernels.cpp.
        rows: their number, channels times taps of all kernels.
        kernels: output channels and sides of each weight.
    """

    products: ctypes.Array[Product]
    rows: int
    kernels: tuple[tuple[int, Sides], ...]

    def split(self, gradient: Tensor) -> list[Tensor]:
        """Gradients ``(channels, C, kD, kH, kW)`` of the weights."""
        found = []
        first = 0
        for count, sides in self.kernels:
            rows = count * sides[0] * sides[1] * sides[2]
            own = gradient[first : first + rows].view(*sides, count, -1)
            found.append(own.permute(3, 4, 0, 1, 2))
            first += rows
        return found


@lru_cache(maxsize=256)
def weight_gradient_rows(kernels: tuple[tuple[int, Sides], ...]) -> GradientRows:
    """Rows by kernel, tap and output channel."""
    products = []
    row = first = 0
    for count, sides in kernels:
        for tap in _all_taps(sides):
            products.append(Product(*tap, first, first + count, row))
            row += count
        first += count
    return GradientRows((Product * len(products))(*products), row, kernels)
