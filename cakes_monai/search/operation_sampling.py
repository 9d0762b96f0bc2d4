# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine stage of C2FNAS: which operations are drawn while the super-network is trained, and which are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np
from numpy.typing import ArrayLike

from cakes_monai.architecture import OPERATIONS

__all__ = ["SEARCHED_OPERATIONS", "RankCorrelation", "draw_candidates", "draw_operations", "rank_correlation"]

#: What the fine stage of the paper chooses from (C2FNAS, section 3.4); "cakes" can be a fourth choice.
SEARCHED_OPERATIONS = tuple(operation for operation in OPERATIONS if operation != "cakes")


def draw_operations(
    seed: int, iteration: int, num_cells: int = 12, operations: Sequence[str] = SEARCHED_OPERATIONS
) -> tuple[str, ...]:
    """
    The single path of one iteration: an operation for every cell, all equally likely (C2FNAS, section 3.4).

    It is a function of its arguments: the same in every process, and after a resume what it would have been.

    Args:
        seed: any whole number.
        iteration: number of the iteration.
        num_cells: cells of the topology.
        operations: what a cell can do.

    Raises:
        ValueError: for no cells, no, unknown or repeated operations.
    """
    _check(num_cells, operations)
    return _path(Random(f"path/{seed}/{iteration}"), num_cells, operations)


def draw_candidates(
    seed: int, count: int = 2000, num_cells: int = 12, operations: Sequence[str] = SEARCHED_OPERATIONS
) -> tuple[tuple[str, ...], ...]:
    """
    Different random candidates to be evaluated with the weights of the super-network (C2FNAS, section 4.1).

    Args:
        seed: any whole number; with the same one fewer candidates are the first of more.
        count: number of candidates, 2000 in the paper. When there are not more, all there are, in a fixed order.
        num_cells: cells of the topology.
        operations: what a cell can do.

    Raises:
        ValueError: for a count below 1, no cells, no, unknown or repeated operations.
    """
    _check(num_cells, operations)
    if count < 1:
        raise ValueError(f"count is {count}, allowed is 1 or more.")
    if count >= len(operations) ** num_cells:
        return tuple(product(operations, repeat=num_cells))
    random, drawn = Random(f"candidates/{seed}"), dict[tuple[str, ...], None]()  # a dict keeps the order
    while len(drawn) < count:
        drawn[_path(random, num_cells, operations)] = None
    return tuple(drawn)


@dataclass(frozen=True)
class RankCorrelation:
    """
    How well one score orders networks as another one does; 1 is the same order, -1 the opposite.

    Args:
        kendall: Kendall's tau-b.
        spearman: Spearman's rho.
        count: number of networks.
        p_value: how likely chance alone gives a tau so far from 0 (two-sided, exact for small numbers without ties).
    """

    kendall: float
    spearman: float
    count: int
    p_value: float


def rank_correlation(estimated: ArrayLike, trained: ArrayLike) -> RankCorrelation:
    """
    Compare, say, the scores of candidates in the super-network with those after training from scratch.

    Args:
        estimated: a score of each network.
        trained: another score of each, in the same order.

    Raises:
        ValueError: when there are not equally many, fewer than two, one is not finite, or all of one kind are equal.
    """
    first, second = np.asarray(estimated, dtype=np.float64), np.asarray(trained, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(f"scores of shapes {first.shape} and {second.shape}, there must be two of the same N >= 2.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("scores must be finite; leave out networks without one.")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise ValueError("all scores of one kind are equal, they give no order.")
    from scipy.stats import kendalltau, spearmanr  # here, because it takes a second

    tau = kendalltau(first, second)
    rho = spearmanr(first, second).statistic
    return RankCorrelation(float(tau.statistic), float(rho), len(first), float(tau.pvalue))


def _path(random: Random, num_cells: int, operations: Sequence[str]) -> tuple[str, ...]:
    """``random()`` is the only method whose numbers Python promises to keep."""
    return tuple(operations[int(random.random() * len(operations))] for _ in range(num_cells))


def _check(num_cells: int, operations: Sequence[str]) -> None:
    if num_cells < 1:
        raise ValueError(f"num_cells is {num_cells}, allowed is 1 or more.")
    unknown = [operation for operation in operations if operation not in OPERATIONS]
    if isinstance(operations, str) or unknown or not operations or len(set(operations)) < len(operations):
        raise ValueError(f"operations are {operations!r}, allowed are different ones of {', '.join(OPERATIONS)}.")
