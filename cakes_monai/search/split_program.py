# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The numbers of channels of the sub-kernels that keep the largest total path weight, as an integer program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from cakes_monai.search.path_costs import Budget

__all__ = ["best_counts"]

_MAX_NODES = 5000  # of branch and bound; a limit in time would make the result depend on the machine

Counts = dict[str, NDArray[np.int_]]


def best_counts(
    layers: Mapping[str, NDArray[np.float64]],
    granularity: int,
    one_for_each_channel: bool,
    budget: Budget | None = None,
    limit: float = np.inf,
    tolerance: float = 0.0,
) -> tuple[Counts, float]:
    """
    Number of channels of each sub-kernel in each layer.

    Only these numbers, in units of ``granularity``, are integer variables. Which paths are kept (one continuous
    variable for each) is then a transportation problem, whose vertices are whole numbers by themselves: a network of
    2560 channels and seven sub-kernels has 119 integer variables, not 17920.

    Args:
        layers: gate magnitudes ``(sub-kernels, C)``.
        granularity: numbers are multiples of this.
        one_for_each_channel: whether every channel keeps one path; otherwise a layer keeps any C of its paths.
        budget: costs; ``limit`` is used instead of its own limit.
        limit: largest total cost.
        tolerance: relative distance from the best total weight at which to stop; 0 goes on to the best.

    Returns:
        The numbers, and an upper bound of the total weight.

    Raises:
        ValueError: when no choice is found.
    """
    largest = max(float(gates.max()) for gates in layers.values()) or 1.0
    weights = np.concatenate([gates.ravel() for gates in layers.values()]) / largest
    rows = [_rows(gates, granularity, one_for_each_channel) for gates in layers.values()]
    paths, units = (sparse.block_diag([row[i] for row in rows], format="csr") for i in (0, 1))
    matrix = sparse.hstack([paths, units], format="csr")
    sums = np.concatenate([row[2] for row in rows])
    constraints = [LinearConstraint(matrix, sums, sums)]
    if budget is not None:
        costs = np.concatenate([np.asarray(budget.costs[layer], dtype=np.float64) for layer in layers]) * granularity
        room = max(limit - budget.fixed, 0.0)
        scale = float(costs.max())
        row = np.concatenate([np.zeros(len(weights)), costs / scale])
        constraints.append(LinearConstraint(row[None], -np.inf, room / scale))
    solution = _solve(weights, [gates.shape for gates in layers.values()], granularity, constraints, tolerance)
    numbers = np.rint(solution.x[len(weights) :]).astype(int) * granularity
    ends = np.cumsum([len(gates) for gates in layers.values()])[:-1]
    return dict(zip(layers, np.split(numbers, ends), strict=True)), -float(solution.mip_dual_bound) * largest


def _rows(gates: NDArray[np.float64], granularity: int, one_for_each_channel: bool) -> tuple[Any, Any, Any]:
    """Equations of one layer: coefficients of the paths, of the numbers of units, and what they add up to."""
    count, channels = gates.shape
    every = np.ones((1, channels))
    of_channels = (
        sparse.hstack([sparse.identity(channels)] * count) if one_for_each_channel else np.ones((1, gates.size))
    )
    of_sub_kernels = sparse.block_diag([every] * count)
    sums = np.ones(channels) if one_for_each_channel else np.array([float(channels)])
    units = sparse.vstack([sparse.csr_matrix((len(sums), count)), -granularity * sparse.identity(count)])
    return sparse.vstack([of_channels, of_sub_kernels]), units, np.concatenate([sums, np.zeros(count)])


def _solve(
    weights: NDArray[np.float64],
    shapes: list[tuple[int, ...]],
    granularity: int,
    constraints: list[LinearConstraint],
    tolerance: float,
) -> Any:
    most = np.concatenate([np.full(count, channels // granularity) for count, channels in shapes])
    solution = milp(
        -np.concatenate([weights, np.zeros(len(most))]),
        integrality=np.concatenate([np.zeros(len(weights)), np.ones(len(most))]),
        bounds=Bounds(0, np.concatenate([np.ones(len(weights)), most])),
        constraints=constraints,
        options={"mip_rel_gap": tolerance} | ({"node_limit": _MAX_NODES} if tolerance else {}),
    )
    if solution.x is None:
        raise ValueError(f"no split found within the budget ({solution.message}).")
    return solution
