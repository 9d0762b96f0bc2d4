# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How the output channels of each layer are divided among sub-kernels, and which channel gets which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cakes_monai.architecture import KernelSplit, sub_kernel_set
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.search import Budget, rank_kernels

__all__ = ["DIVISIONS", "Channels", "Division", "Kernels", "splits_of"]

#: "even": each sub-kernel has as many channels (the papers' manual setting); "best": as many as lose least.
DIVISIONS = ("even", "best")

#: What an error counts at least, as a share of the most: on other volumes a channel may matter after all.
LEAST = 1e-6

#: For each layer the output channels of each sub-kernel.
Channels = dict[str, dict[str, tuple[int, ...]]]

#: What sub-kernels to divide among, see :class:`Division`.
Kernels = str | Iterable[str] | Mapping[str, Any] | BackboneArchitecture


@dataclass(frozen=True)
class Division:
    """
    Which sub-kernels the layers have, and how many channels each.

    Args:
        kernels: the name of a set or a list of sub-kernels, for all layers; or proportions for all layers, e.g.
            ``{"3x3x3": 1, "1x3x3": 3}``; or splits by layer, also those of an architecture.
        rule: "even" or "best", for a set.
        granularity: every sub-kernel of a set gets a multiple of this many channels.

    Raises:
        ValueError: for unknown sub-kernels, sets or rules, and options that splits leave no room for.
    """

    kernels: Kernels
    rule: str = "even"
    granularity: int = 1
    names: tuple[str, ...] | None = field(init=False, default=None)
    splits: Mapping[str, KernelSplit] | None = field(init=False, default=None)
    proportions: KernelSplit | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.rule not in DIVISIONS:
            raise ValueError(f"unknown division {self.rule!r}, allowed are {', '.join(DIVISIONS)}.")
        kernels = self.kernels.splits if isinstance(self.kernels, BackboneArchitecture) else self.kernels
        if not isinstance(kernels, Mapping):
            object.__setattr__(self, "names", sub_kernel_set(kernels))
            return
        if (self.rule, self.granularity) != ("even", 1):
            raise ValueError("division and granularity are for a set of sub-kernels; splits are given.")
        if all(isinstance(count, int) for count in kernels.values()):
            object.__setattr__(self, "proportions", KernelSplit.of(kernels))
        else:
            object.__setattr__(self, "splits", {name: KernelSplit.of(split) for name, split in kernels.items()})

    def select(self, layers: Mapping[str, Any]) -> dict[str, Any]:
        """
        The layers that are divided: those with a split where splits are given by layer, else all.

        Raises:
            ValueError: when there is a split for none of the layers.
        """
        if self.splits is not None and (missing := self.splits.keys() - layers.keys()):
            raise ValueError(
                f"splits for {', '.join(sorted(missing))}; convolutions to shrink are {', '.join(layers)}."
            )
        return {name: layer for name, layer in layers.items() if self.splits is None or name in self.splits}

    def candidates(self, layer: str) -> tuple[str, ...]:
        """The sub-kernels of a layer in the canonical order."""
        if self.names is not None:
            return self.names
        split = self.proportions or (self.splits or {})[layer]
        return tuple(split.as_dict())

    def split(self, layer: str, out_channels: int) -> KernelSplit | None:
        """
        The split of a layer, None where it is open.

        Raises:
            ValueError: when the layer's channels cannot be divided like that.
        """
        try:
            return self._split(layer, out_channels)
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error

    def _split(self, layer: str, out_channels: int) -> KernelSplit | None:
        if self.names is not None:
            even = KernelSplit.even(self.names, out_channels, self.granularity)  # also checks the granularity
            return even if self.rule == "even" else None
        split = self.proportions or (self.splits or {})[layer]
        times, rest = divmod(out_channels, split.out_channels)
        if rest or (times > 1 and self.proportions is None):
            raise ValueError(f"sub-kernels give {split.out_channels} channels, the layer has {out_channels}.")
        return KernelSplit(tuple((name, count * times) for name, count in split.counts))

    def assign(
        self,
        errors: Mapping[str, NDArray[np.float64]],
        budget: Budget | None = None,
        importance: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> Channels:
        """
        Give each channel its sub-kernel, so that the errors add up to as little as possible.

        Args:
            errors: for each layer the error of every candidate in every channel, ``(candidates, out_channels)``.
            budget: with rule "best" what all layers together may cost.
            importance: for each layer what an error of 1 in each channel counts; by default 1.

        Raises:
            ValueError: for a budget that no division can meet.
        """
        kept = {name: 1 - np.minimum(values, 1) for name, values in errors.items()}
        if importance is not None and (most := max(values.max() for values in importance.values())) > 0:
            share = {name: np.maximum(values / most, LEAST) for name, values in importance.items()}
            kept = {name: values * share[name] for name, values in kept.items()}
        if self.names is not None and self.rule == "best":
            layers = rank_kernels(kept, self.names, "argmax", self.granularity, budget).layers
            return {name: dict(paths.channels) for name, paths in layers.items()}
        return {name: self._assigned(name, values) for name, values in kept.items()}

    def _assigned(self, layer: str, kept: NDArray[np.float64]) -> dict[str, tuple[int, ...]]:
        """The best choice with given numbers of channels."""
        split = self.split(layer, kept.shape[1])
        assert split is not None
        counts = split.as_dict()
        names = [name for name in self.candidates(layer) for _ in range(counts.get(name, 0))]
        rows = [self.candidates(layer).index(name) for name in names]
        slots, channels = linear_sum_assignment(kept[rows], maximize=True)
        return {
            name: tuple(sorted(int(c) for s, c in zip(slots, channels, strict=True) if names[s] == name))
            for name in counts
        }


def splits_of(channels: Channels) -> dict[str, KernelSplit]:
    """How many channels each sub-kernel has."""
    return {layer: KernelSplit(tuple((name, len(c)) for name, c in kept.items())) for layer, kept in channels.items()}
