# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Sub-kernels of an architecture counted as in the appendix of CAKES."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cakes_monai.architecture import SUB_KERNELS, Architecture, KernelSplit, kernel_size
from cakes_monai.backbone_architecture import BackboneArchitecture

__all__ = ["SplitSummary", "split_summary"]


@dataclass(frozen=True)
class SplitSummary:
    """
    Sub-kernels by layer, by dimension and by axis.

    Args:
        layers: split of each replaced convolution by name.
    """

    layers: Mapping[str, KernelSplit]

    @property
    def dimensions(self) -> dict[str, int]:
        """Output channels with a 1D, 2D and 3D sub-kernel (CAKES, appendix: 1378, 1065 and 117)."""
        counts = {"1D": 0, "2D": 0, "3D": 0}
        for name, count in self._counts():
            counts[f"{kernel_size(name).count(3)}D"] += count
        return counts

    @property
    def axes(self) -> dict[str, int]:
        """Output channels whose sub-kernel reaches along D, H and W (CAKES, appendix: 1285, 1260 and 1314)."""
        counts = dict.fromkeys("DHW", 0)
        for name, count in self._counts():
            for axis, taps in zip("DHW", kernel_size(name), strict=True):
                counts[axis] += count * (taps == 3)
        return counts

    def to_json(self) -> dict[str, Any]:
        """The summary in dicts."""
        layers = {name: split.as_dict() for name, split in self.layers.items()}
        return {"layers": layers, "dimensions": self.dimensions, "axes": self.axes}

    def table(self) -> str:
        """One line for each layer, then the totals."""
        width = max(len(name) for name in self.layers)
        lines = [f"{'':{width}} " + " ".join(f"{name:>6}" for name in SUB_KERNELS)]
        for name, split in self.layers.items():
            counts = split.as_dict()
            lines.append(f"{name:{width}} " + " ".join(f"{counts.get(kernel, 0):6d}" for kernel in SUB_KERNELS))
        for title, totals in (("sub-kernels", self.dimensions), ("operations along", self.axes)):
            lines.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in totals.items()))
        return "\n".join(lines)

    def _counts(self) -> list[tuple[str, int]]:
        return [pair for split in self.layers.values() for pair in split.counts]


def split_summary(architecture: Architecture | BackboneArchitecture) -> SplitSummary:
    """
    Count the sub-kernels of an architecture.

    Raises:
        ValueError: when the architecture has no "cakes" cell.
    """
    if not architecture.splits:
        raise ValueError("the architecture has no 'cakes' cell, so no sub-kernels to count.")
    return SplitSummary(architecture.splits)
