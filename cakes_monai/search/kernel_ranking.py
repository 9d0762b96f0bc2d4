# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From gate magnitudes to the sub-kernel of every channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isclose

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from cakes_monai.architecture import KernelSplit, sub_kernel_set
from cakes_monai.search.path_costs import Budget
from cakes_monai.search.split_program import best_counts

__all__ = ["RULES", "KeptPaths", "Ranking", "rank_kernels"]

#: How gates choose: the largest gate of every channel (CAKES, equation 9), or the C largest of a layer (authors' code).
RULES = ("argmax", "top_c")

Gates = NDArray[np.float64]
Kept = NDArray[np.bool_]  # (sub-kernels, C)


@dataclass(frozen=True)
class KeptPaths:
    """
    Paths of one layer that become channels of the derived network.

    Args:
        channels: for each sub-kernel that has any, the channels of the super-network it is kept for.
        weight: sum of the gate magnitudes of these paths.
    """

    channels: Mapping[str, tuple[int, ...]]
    weight: float

    @property
    def split(self) -> KernelSplit:
        """Number of channels of each sub-kernel."""
        return KernelSplit(tuple((name, len(channels)) for name, channels in self.channels.items()))


@dataclass(frozen=True)
class Ranking:
    """
    The choice for all layers.

    Args:
        layers: the kept paths by layer.
        bound: no allowed choice has a larger total weight than this.
        cost: total cost in the unit of the budget; None without one.
    """

    layers: Mapping[str, KeptPaths]
    bound: float
    cost: float | None = None

    @property
    def splits(self) -> dict[str, KernelSplit]:
        """Split of each layer."""
        return {name: layer.split for name, layer in self.layers.items()}

    @property
    def weight(self) -> float:
        """Total path weight that is kept."""
        return sum(layer.weight for layer in self.layers.values())


def rank_kernels(
    gates: Mapping[str, ArrayLike],
    sub_kernels: str | Iterable[str],
    rule: str = "argmax",
    granularity: int = 1,
    budget: Budget | None = None,
    tolerance: float = 1e-3,
) -> Ranking:
    """
    Choose the paths with the largest total weight.

    Of equal gates the first sub-kernel in the canonical order wins, then the first channel. Without a budget the
    result is exact: by sorting, or for "argmax" with a granularity by an integer program, to 1e-6 of the largest gate.
    With a budget the total weight is at most ``tolerance`` (relative) below the best one, unless the program ends
    before at its limit of nodes; ``bound`` says how far it can be in any case. Where several choices are equally good
    under these programs, which one it is depends on the solver (HiGHS of scipy), not on chance.

    Args:
        gates: for each layer the gate magnitudes ``(sub-kernels, C)``.
        sub_kernels: the candidates that the rows stand for, in the canonical order.
        rule: "argmax" keeps one sub-kernel for every channel, "top_c" the C largest of all paths of a layer.
        granularity: every sub-kernel gets a multiple of this many channels.
        budget: what all layers together may cost.
        tolerance: largest relative distance from the best choice under a budget.

    Raises:
        ValueError: for an unknown rule, gates of another shape or not finite, a granularity that does not divide a
            layer, or a budget no choice can meet (with the smallest possible total).
    """
    names = sub_kernel_set(sub_kernels)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}, allowed are {', '.join(RULES)}.")
    layers = {layer: _checked(layer, values, names, granularity) for layer, values in gates.items()}
    kept = {layer: _unbounded(values, rule, granularity) for layer, values in layers.items()}
    bound = _weight(layers, kept)
    if budget is not None:
        check_budget(budget, {layer: values.shape[1] for layer, values in layers.items()})
        if _cost(budget, kept) > budget.limit:
            kept, bound = _within(layers, rule, granularity, budget, tolerance)
    ranked = {layer: _kept_paths(layers[layer], mask, names) for layer, mask in kept.items()}
    return Ranking(ranked, bound, None if budget is None else _cost(budget, kept))


def check_budget(budget: Budget, channels: Mapping[str, int]) -> None:
    """
    Raise a ValueError when even the cheapest sub-kernels everywhere cost too much.

    Args:
        budget: the budget.
        channels: output channels of each layer.
    """
    if missing := channels.keys() - budget.costs.keys():
        raise ValueError(f"the budget has no costs for {', '.join(sorted(missing))}.")
    least = budget.fixed + sum(count * min(budget.costs[layer]) for layer, count in channels.items())
    if least > budget.limit and not isclose(least, budget.limit, rel_tol=1e-12):
        raise ValueError(f"no split has at most {budget.limit:,} {budget.unit}, the smallest possible is {least:,}.")


def _checked(layer: str, values: ArrayLike, names: tuple[str, ...], granularity: int) -> Gates:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) != len(names) or not array.size:
        raise ValueError(f"{layer}: gates of shape {array.shape}, there must be ({len(names)} sub-kernels, C).")
    if not np.isfinite(array).all():
        raise ValueError(f"{layer}: gates are not finite, the training has diverged.")
    if granularity < 1 or array.shape[1] % granularity:
        raise ValueError(f"{layer}: granularity {granularity} does not divide its {array.shape[1]} channels.")
    return np.abs(array)


def _unbounded(gates: Gates, rule: str, granularity: int) -> Kept:
    """The best choice for one layer without a budget."""
    paths, channels = gates.shape
    if rule == "argmax" and granularity == 1:
        return np.arange(paths)[:, None] == gates.argmax(0)  # the first of equal ones
    if rule == "argmax":
        counts, _ = best_counts({"": gates}, granularity, one_for_each_channel=True)
        return _assigned(gates, counts[""])
    ordered = -np.sort(-gates, axis=1)
    blocks = ordered.reshape(paths, -1, granularity).sum(2)  # never increasing along a row: the best are its first
    best = np.argsort(-blocks, axis=None, kind="stable")[: channels // granularity]
    return _largest(gates, np.bincount(best // blocks.shape[1], minlength=paths) * granularity)


def _within(
    layers: Mapping[str, Gates], rule: str, granularity: int, budget: Budget, tolerance: float
) -> tuple[dict[str, Kept], float]:
    exact = _assigned if rule == "argmax" else _largest
    limit = budget.limit
    for _ in range(3):  # the solver keeps the limit to about 1e-6 only
        counts, bound = best_counts(layers, granularity, rule == "argmax", budget, limit, tolerance)
        kept = {layer: exact(gates, counts[layer]) for layer, gates in layers.items()}
        if (excess := _cost(budget, kept) - budget.limit) <= 1e-9 * abs(budget.limit):
            break
        limit -= 2 * excess
    return kept, bound


def _assigned(gates: Gates, counts: NDArray[np.int_]) -> Kept:
    """The best choice of one sub-kernel for every channel with given numbers of channels."""
    slots = np.repeat(np.arange(len(gates)), counts)
    rows, channels = linear_sum_assignment(gates[slots], maximize=True)
    kept = np.zeros(gates.shape, dtype=bool)
    kept[slots[rows], channels] = True
    return kept


def _largest(gates: Gates, counts: NDArray[np.int_]) -> Kept:
    """Each sub-kernel's largest gates."""
    places = np.argsort(np.argsort(-gates, axis=1, kind="stable"), axis=1)
    return places < counts[:, None]


def _weight(layers: Mapping[str, Gates], kept: Mapping[str, Kept]) -> float:
    return float(sum(gates[kept[layer]].sum() for layer, gates in layers.items()))


def _cost(budget: Budget, kept: Mapping[str, Kept]) -> float:
    return budget.fixed + sum(
        cost * int(count)
        for layer, mask in kept.items()
        for cost, count in zip(budget.costs[layer], mask.sum(1), strict=True)
    )


def _kept_paths(gates: Gates, kept: Kept, names: tuple[str, ...]) -> KeptPaths:
    channels = {name: tuple(np.flatnonzero(row).tolist()) for name, row in zip(names, kept, strict=True) if row.any()}
    return KeptPaths(channels, float(gates[kept].sum()))
