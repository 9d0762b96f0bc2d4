# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From the ranking of a search to architecture.json and the file with the sub-kernel of every channel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cakes_monai.architecture import Architecture, Topology, even_cells, sub_kernel_set
from cakes_monai.atomic_file import written_whole
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.search.kernel_ranking import Ranking
from cakes_monai.search.split_summary import split_summary

__all__ = ["KernelDerivation", "manual_architecture"]

_FORMAT = 1


@dataclass(frozen=True)
class KernelDerivation:
    """
    What a kernel search found.

    Args:
        architecture: the network to train from scratch.
        ranking: the paths it was made of.
    """

    architecture: Architecture | BackboneArchitecture
    ranking: Ranking

    def to_json(self) -> dict[str, Any]:
        """Origin, summary and the channels of the super-network that each sub-kernel was kept for."""
        layers = {
            name: {"channels": {kernel: list(c) for kernel, c in kept.channels.items()}, "weight": kept.weight}
            for name, kept in self.ranking.layers.items()
        }
        summary = split_summary(self.architecture)
        return {
            "format": _FORMAT,
            "origin": dict(self.architecture.origin),
            "weight": self.ranking.weight,
            "weight_bound": self.ranking.bound,
            "cost": self.ranking.cost,
            "dimensions": summary.dimensions,
            "axes": summary.axes,
            "layers": layers,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json`, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")


def manual_architecture(
    sub_kernels: str | Iterable[str],
    granularity: int = 1,
    init_filters: int = 32,
    levels: Sequence[int] | None = None,
) -> Architecture:
    """
    The papers' manual setting: channels divided evenly, the rest to the first sub-kernel.

    Args:
        sub_kernels: name of a set or a list.
        granularity: every sub-kernel gets a multiple of this many channels; 1 in the papers.
        init_filters: filters of the first convolution.
        levels: levels of the cells; None are those of C2FNAS-Panc.

    Raises:
        ValueError: for an unknown set or sub-kernel, or a granularity that does not divide a layer.
    """
    names = sub_kernel_set(sub_kernels)
    topology = Architecture.published("c2fnas-3d").topology if levels is None else Topology(tuple(levels))
    cells = even_cells(topology, names, init_filters, granularity)
    origin = {"manual": list(names), "granularity": granularity}
    return Architecture(topology, cells, origin)
