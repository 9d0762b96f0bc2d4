# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The value object that flows through everything: which sub-kernels, in which cells, on which topology."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from cakes_monai.architecture_file import FORMAT, ArchitectureFile, check_format, check_keys, made

__all__ = [
    "KERNEL_SETS",
    "OPERATIONS",
    "SUB_KERNELS",
    "Architecture",
    "Cell",
    "KernelSplit",
    "Topology",
    "even_cells",
    "kernel_size",
    "sub_kernel_set",
]

#: The sub-kernels of a 3x3x3 kernel as "DxHxW", in the one order in which channels are laid out.
SUB_KERNELS = ("3x3x3", "1x3x3", "3x1x3", "3x3x1", "3x1x1", "1x3x1", "1x1x3")

#: The sub-kernel sets of CAKES by the dimensions they hold.
KERNEL_SETS = {
    "1d": SUB_KERNELS[4:],
    "2d": SUB_KERNELS[1:4],
    "3d": SUB_KERNELS[:1],
    "12d": SUB_KERNELS[1:],
    "23d": SUB_KERNELS[:4],
    "123d": SUB_KERNELS,
}

#: What a cell can do with its input (C2FNAS, section 3.4, and CAKES), except "cakes" as convolutions in a row.
_FIXED_OPERATIONS = {"2d": ("3x3x1",), "3d": ("3x3x3",), "p3d": ("3x3x1", "1x1x3")}
OPERATIONS = (*_FIXED_OPERATIONS, "cakes")

_C2FNAS_LEVELS = (0, 0, 1, 1, 2, 3, 2, 2, 1, 0, 0, 0)
_C2FNAS_PANC = ("2d", "p3d", "3d", "3d", "3d", "2d", "3d", "3d", "p3d", "3d", "2d", "3d")


def kernel_size(sub_kernel: str) -> tuple[int, int, int]:
    """
    Taps of a sub-kernel along D, H and W.

    Raises:
        ValueError: when ``sub_kernel`` is none of :data:`SUB_KERNELS`.

    Example:
        >>> kernel_size("1x3x3")
        (1, 3, 3)
    """
    if sub_kernel not in SUB_KERNELS:
        raise ValueError(f"unknown sub-kernel {sub_kernel!r}, allowed are {', '.join(SUB_KERNELS)}.")
    depth, height, width = (int(taps) for taps in sub_kernel.split("x"))
    return depth, height, width


def sub_kernel_set(kernels: str | Iterable[str]) -> tuple[str, ...]:
    """
    Sub-kernels in the canonical order, from the name of a set or from any sub-kernels.

    Raises:
        ValueError: for an unknown set, an unknown or repeated sub-kernel, or none at all.

    Example:
        >>> sub_kernel_set("1d")
        ('3x1x1', '1x3x1', '1x1x3')
    """
    if isinstance(kernels, str) and kernels in KERNEL_SETS:
        return KERNEL_SETS[kernels]
    if isinstance(kernels, str):
        raise ValueError(f"unknown set {kernels!r}, allowed are {', '.join(KERNEL_SETS)} or a list of sub-kernels.")
    split = KernelSplit(tuple((name, 1) for name in kernels))
    return tuple(split.as_dict())


@dataclass(frozen=True)
class KernelSplit:
    """
    Number of output channels of each sub-kernel of one convolution (CAKES, equation 7).

    Args:
        counts: pairs of sub-kernel and number of channels, in any order; sub-kernels without channels are dropped.

    Raises:
        ValueError: for an unknown or repeated sub-kernel, a count that is no whole number of at least 0, or no channel.
    """

    counts: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.counts]
        for name, count in self.counts:
            kernel_size(name)
            if names.count(name) > 1:
                raise ValueError(f"sub-kernel {name!r} is given twice.")
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ValueError(f"sub-kernel {name!r} has {count!r} channels, allowed are whole numbers from 0.")
        kept = sorted(((n, c) for n, c in self.counts if c), key=lambda pair: SUB_KERNELS.index(pair[0]))
        if not kept:
            raise ValueError("no sub-kernel has a channel, at least one must.")
        object.__setattr__(self, "counts", tuple(kept))

    @classmethod
    def of(cls, split: KernelSplit | Mapping[str, int]) -> KernelSplit:
        """``split`` itself, or the split a mapping such as ``{"3x3x3": 28, "1x3x3": 36}`` describes."""
        if isinstance(split, KernelSplit):
            return split
        if not isinstance(split, Mapping):
            raise ValueError(f"a split maps sub-kernels to channels, e.g. {{'3x3x3': 28}}, not {split!r}.")
        return cls(tuple(split.items()))

    @classmethod
    def even(cls, sub_kernels: Sequence[str], out_channels: int, granularity: int = 1, first: int = 0) -> KernelSplit:
        """
        The papers' manual setting: channels divided evenly, what is left over goes to the first sub-kernel.

        With a granularity above 1 much may be left over; it goes to one sub-kernel after the other.

        Args:
            sub_kernels: the sub-kernels, in any order.
            out_channels: channels to divide.
            granularity: every sub-kernel gets a multiple of this many channels; 1 in the papers.
            first: number of the sub-kernel that gets of what is left over first.

        Raises:
            ValueError: when ``granularity`` does not divide ``out_channels``.

        Example:
            >>> KernelSplit.even(SUB_KERNELS, 64).as_dict()["3x3x3"]
            10
            >>> KernelSplit.even(SUB_KERNELS, 64, granularity=16, first=3).as_dict()
            {'3x3x1': 16, '3x1x1': 16, '1x3x1': 16, '1x1x3': 16}
        """
        ordered = sorted(sub_kernels, key=SUB_KERNELS.index)
        if granularity < 1 or out_channels % granularity:
            raise ValueError(f"granularity {granularity} does not divide {out_channels} channels.")
        share, rest = divmod(out_channels // granularity, len(ordered))
        shares = [share] * len(ordered)
        for number in range(rest):
            shares[(first + number * (granularity > 1)) % len(ordered)] += 1
        return cls(tuple((name, granularity * own) for name, own in zip(ordered, shares, strict=True)))

    def scaled(self, out_channels: int) -> KernelSplit:
        """
        The same shares of another number of channels; what is left over goes to the largest remainders.

        Example:
            >>> KernelSplit.of({"3x3x3": 3, "1x3x3": 1}).scaled(6).as_dict()
            {'3x3x3': 5, '1x3x3': 1}
        """
        shares = [divmod(count * out_channels, self.out_channels) for _, count in self.counts]
        rest = out_channels - sum(share for share, _ in shares)
        first = sorted(range(len(shares)), key=lambda index: -shares[index][1])[:rest]
        names = [name for name, _ in self.counts]
        return KernelSplit(tuple((names[i], share + (i in first)) for i, (share, _) in enumerate(shares)))

    @property
    def out_channels(self) -> int:
        """Channels of all sub-kernels together."""
        return sum(count for _, count in self.counts)

    @property
    def taps(self) -> int:
        """Kernel weights for one input channel, which are the sizes of all output channels' sub-kernels added up."""
        return sum(count * prod(kernel_size(name)) for name, count in self.counts)

    def as_dict(self) -> dict[str, int]:
        """Channels by sub-kernel, in the canonical order."""
        return dict(self.counts)


@dataclass(frozen=True)
class Topology:
    """
    Resolution level of every cell; level l works at 1/2^(l+1) of the input resolution (C2FNAS, section 4.1).

    A topology is U-shaped: it starts from the stem at level 0, goes down, comes up again and ends at level 0.

    Args:
        levels: level of each cell; neighbours differ by at most one.

    Raises:
        ValueError: when the levels jump, go down after an up-sampling or do not end at level 0.
    """

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        levels = tuple(self.levels)
        object.__setattr__(self, "levels", levels)
        if not levels or not all(isinstance(level, int) and level >= 0 for level in levels):
            raise ValueError(f"levels must be whole numbers from 0, one for each cell, not {list(levels)}.")
        steps = [level - before for before, level in zip((0, *levels), levels, strict=False)]
        for cell, step in enumerate(steps):
            if abs(step) > 1:
                raise ValueError(f"level of cell {cell} differs by {abs(step)} from the one before, allowed is 1.")
            if step == 1 and -1 in steps[:cell]:
                raise ValueError(f"cell {cell} goes down after an up-sampling, a topology is U-shaped.")
        if levels[-1] != 0:
            raise ValueError(f"the last cell is at level {levels[-1]}, it must be at level 0.")

    @property
    def divisor(self) -> int:
        """Image sizes that are multiples of this need no padding."""
        return int(2 ** (max(self.levels) + 1))

    @cached_property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """
        Indices of the cells every cell takes its input from; -1 is the stem.

        The second input is the cell before the previous one when it is at the same level, or after an up-sampling the
        last cell of the encoder at this level (C2FNAS, section 4.1).
        """
        levels = (0, *self.levels)  # the stem in front
        inputs = []
        for cell in range(1, len(levels)):
            previous = cell - 1
            sources = [previous]
            if levels[cell] < levels[previous]:
                sources.append(max(i for i in range(previous) if levels[i] == levels[cell]))
            elif cell > 1 and levels[cell - 2] == levels[cell]:
                sources.append(cell - 2)
            inputs.append(tuple(source - 1 for source in sources))
        return tuple(inputs)


@dataclass(frozen=True)
class Cell:
    """
    The operation of one cell.

    Args:
        operation: "2d", "3d" or "p3d" (C2FNAS, section 3.4), or "cakes".
        kernels: for "cakes" the split of each input's convolution, for the others nothing.

    Raises:
        ValueError: for an unknown operation, or kernels where there must be none, or none where there must be some.
    """

    operation: str
    kernels: tuple[KernelSplit, ...] = ()

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ValueError(f"unknown operation {self.operation!r}, allowed are {', '.join(OPERATIONS)}.")
        if bool(self.kernels) != (self.operation == "cakes"):
            raise ValueError(
                f"{self.operation!r} with {len(self.kernels)} kernels; 'cakes' must have some, others none."
            )

    def convolutions(self, branch: int, channels: int) -> tuple[KernelSplit, ...]:
        """Splits of the convolutions that follow each other on input number ``branch``."""
        if self.operation == "cakes":
            return (self.kernels[branch],)
        return tuple(KernelSplit(((name, channels),)) for name in _FIXED_OPERATIONS[self.operation])


def even_cells(
    topology: Topology, sub_kernels: Sequence[str], init_filters: int, granularity: int = 1
) -> tuple[Cell, ...]:
    """
    Cells of the papers' manual setting: the channels of every convolution divided evenly.

    With a granularity above 1 a convolution may have channels for some sub-kernels only; the next one goes on with the
    others, so that all have the same share of the network.

    Args:
        topology: levels of the cells.
        sub_kernels: the sub-kernels that share the channels.
        init_filters: filters of the first convolution.
        granularity: every sub-kernel gets a multiple of this many channels; 1 in the papers.

    Raises:
        ValueError: as :meth:`KernelSplit.even`, naming the cell.
    """
    cells = []
    first = 0
    for cell, (level, inputs) in enumerate(zip(topology.levels, topology.inputs, strict=True)):
        channels = init_filters * 2 ** (level + 1)
        splits = []
        for _ in inputs:
            try:
                splits.append(KernelSplit.even(sub_kernels, channels, granularity, first))
            except ValueError as error:
                raise ValueError(f"cells[{cell}]: {error}") from error
            if granularity > 1:
                first += channels // granularity
        cells.append(Cell("cakes", tuple(splits)))
    return tuple(cells)


@dataclass(frozen=True)
class Architecture(ArchitectureFile):
    """
    A network of the C2FNAS family: topology and one :class:`Cell` for each of its places.

    Args:
        topology: levels of the cells.
        cells: what the cells do, as many as the topology has levels.
        origin: how it came about (search stage, seed, versions ...); anything JSON can say.

    Raises:
        ValueError: when the cells do not fit the topology or the channel sums of the splits do not fit each other.

    Example:
        >>> Architecture.published("cakes-manual-123d").cells[0].kernels[0].out_channels
        64
    """

    topology: Topology
    cells: tuple[Cell, ...]
    origin: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.topology.levels):
            raise ValueError(f"{len(self.cells)} cells for {len(self.topology.levels)} levels, there must be as many.")
        for index, (cell, inputs) in enumerate(zip(self.cells, self.topology.inputs, strict=True)):
            if cell.kernels and len(cell.kernels) != len(inputs):
                raise ValueError(f"cells[{index}]: {len(cell.kernels)} splits, the cell has {len(inputs)} inputs.")
        if (init_filters := self.init_filters) is not None:
            self.check_channels(init_filters)

    @property
    def init_filters(self) -> int | None:
        """Filters of the first convolution that the splits are made for; None when no cell has a split."""
        filters = Counter(
            split.out_channels // 2 ** (level + 1)
            for cell, level in zip(self.cells, self.topology.levels, strict=True)
            for split in cell.kernels
        )
        return filters.most_common(1)[0][0] if filters else None

    def check_channels(self, init_filters: int) -> None:
        """
        Raise a ValueError unless every split fits a network whose first convolution has ``init_filters`` filters.

        Raises:
            ValueError: naming the first split that does not fit.
        """
        for index, (cell, level) in enumerate(zip(self.cells, self.topology.levels, strict=True)):
            channels = init_filters * 2 ** (level + 1)
            for branch, split in enumerate(cell.kernels):
                if split.out_channels != channels:
                    raise ValueError(
                        f"cells[{index}].kernels[{branch}]: sub-kernels give {split.out_channels} channels, "
                        f"the cell has {channels} (level {level}, init_filters {init_filters})."
                    )

    @property
    def splits(self) -> dict[str, KernelSplit]:
        """Split of every replaced convolution by the name of its place in the network."""
        return {
            f"cells.{index}.operations.{branch}": split
            for index, cell in enumerate(self.cells)
            for branch, split in enumerate(cell.kernels)
        }

    @classmethod
    def of_splits(
        cls, topology: Topology, splits: Mapping[str, KernelSplit], origin: Mapping[str, Any] | None = None
    ) -> Architecture:
        """
        The architecture of "cakes" cells with these :attr:`splits`.

        Raises:
            ValueError: when a convolution of the topology has no split.
        """
        cells = []
        for cell, inputs in enumerate(topology.inputs):
            names = [f"cells.{cell}.operations.{branch}" for branch in range(len(inputs))]
            if missing := [name for name in names if name not in splits]:
                raise ValueError(f"no split is given for {', '.join(missing)}.")
            cells.append(Cell("cakes", tuple(splits[name] for name in names)))
        return cls(topology, tuple(cells), dict(origin or {}))

    def scaled(self, init_filters: int) -> Architecture:
        """The same topology and operations for another width; splits keep their shares (C2FNAS, section 5.3)."""
        cells = tuple(
            Cell(cell.operation, tuple(split.scaled(init_filters * 2 ** (level + 1)) for split in cell.kernels))
            for cell, level in zip(self.cells, self.topology.levels, strict=True)
        )
        return Architecture(self.topology, cells, {**self.origin, "scaled_to": init_filters})

    @classmethod
    def published(cls, name: str, init_filters: int = 32) -> Architecture:
        """
        An architecture of the papers, all on the topology of C2FNAS-Panc.

        Args:
            name: "c2fnas-2d", "c2fnas-3d", "c2fnas-p3d" (one operation everywhere), "c2fnas-panc" (C2FNAS, figure 5),
                "cakes-manual-1d", "cakes-manual-2d" or "cakes-manual-123d" (CAKES, table 1).
            init_filters: filters of the first convolution, 32 in the papers.

        Raises:
            ValueError: for any other name.
        """
        family, _, kind = name.rpartition("-")
        topology = Topology(_C2FNAS_LEVELS)
        if name == "c2fnas-panc":
            cells = tuple(Cell(operation) for operation in _C2FNAS_PANC)
        elif family == "c2fnas" and kind in _FIXED_OPERATIONS:
            cells = (Cell(kind),) * len(_C2FNAS_LEVELS)
        elif family == "cakes-manual" and kind in ("1d", "2d", "123d"):
            cells = even_cells(topology, KERNEL_SETS[kind], init_filters)
        else:
            raise ValueError(f"no published architecture {name!r}, there are {', '.join(cls.published_names())}.")
        return cls(topology, cells, {"published": name})

    @classmethod
    def find(cls, architecture: str | os.PathLike[str], init_filters: int = 32) -> Architecture:
        """
        An architecture by what an option gives: the name of a published one or the path of architecture.json.

        Args:
            architecture: one of :meth:`published_names`, or a path.
            init_filters: filters of the first convolution of a published one; a file says its own.

        Raises:
            ValueError: when it is no such name and no such file, and as :meth:`load`.

        Example:
            >>> Architecture.find("c2fnas-panc").cells[0].operation
            '2d'
        """
        if architecture in cls.published_names():
            return cls.published(str(architecture), init_filters)
        if not Path(architecture).exists():
            names = ", ".join(cls.published_names())
            raise ValueError(
                f"{architecture}: cannot be read (no such file), and is no published architecture; allowed are the "
                f"path of architecture.json and {names}."
            )
        return cls.load(architecture)

    @staticmethod
    def published_names() -> tuple[str, ...]:
        """The names :meth:`published` knows."""
        return (
            "c2fnas-2d",
            "c2fnas-3d",
            "c2fnas-p3d",
            "c2fnas-panc",
            "cakes-manual-1d",
            "cakes-manual-2d",
            "cakes-manual-123d",
        )

    def dumps(self) -> str:
        """The text of architecture.json: one line for each cell."""
        head = {name: json.dumps(value) for name, value in self.to_json().items() if name != "cells"}
        cells = ",\n  ".join(json.dumps(cell) for cell in self.to_json()["cells"])
        lines = [f' "{name}": {value}' for name, value in head.items()]
        return "{\n" + ",\n".join([*lines, f' "cells": [\n  {cells}\n ]']) + "\n}\n"

    def to_json(self) -> dict[str, Any]:
        """The architecture in dicts and lists, as in architecture.json."""
        cells = [
            {"operation": cell.operation} | ({"kernels": [s.as_dict() for s in cell.kernels]} if cell.kernels else {})
            for cell in self.cells
        ]
        return {
            "format": FORMAT,
            "origin": dict(self.origin),
            "topology": {"levels": list(self.topology.levels)},
            "cells": cells,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Architecture:
        """
        The inverse of :meth:`to_json`.

        Raises:
            ValueError: for an unknown format, missing or unknown keys and everything the parts refuse.
        """
        check_format(content)
        check_keys(content, "the file", required={"format", "topology", "cells"}, optional={"origin"})
        check_keys(content["topology"], "topology", required={"levels"})
        topology = made("topology.levels", Topology, tuple(content["topology"]["levels"]))
        cells = tuple(made(f"cells[{i}]", _cell_from_json, cell) for i, cell in enumerate(content["cells"]))
        return cls(topology, cells, dict(content.get("origin", {})))


def _cell_from_json(content: Mapping[str, Any]) -> Cell:
    check_keys(content, "the cell", required={"operation"}, optional={"kernels"})
    splits = [made(f"kernels[{i}]", KernelSplit.of, split) for i, split in enumerate(content.get("kernels", ()))]
    return Cell(content["operation"], tuple(splits))
