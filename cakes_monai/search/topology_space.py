# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The topologies a coarse search chooses from, and their clusters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from math import comb

import numpy as np

from cakes_monai.architecture import Topology

__all__ = ["TopologySpace", "as_topology", "cluster_topologies", "legal_topologies"]

_MAX_TOPOLOGIES = 1_000_000  # far more than a search can tell apart; without it 40 cells would fill the memory
_NUM_STARTS = 20  # of k-means, of which the best is kept


def as_topology(code: Topology | Sequence[int]) -> Topology:
    """
    The topology of a code, which is the level of every cell (C2FNAS, section 4.1).

    Raises:
        ValueError: when the code jumps levels or is otherwise illegal, with the code.

    Example:
        >>> as_topology([0, 1, 0]).levels
        (0, 1, 0)
    """
    if isinstance(code, Topology):
        return code
    try:
        return Topology(tuple(code))
    except ValueError as error:
        raise ValueError(f"code {list(code)}: {error}") from error


def legal_topologies(num_cells: int = 12, num_downs: int | Iterable[int] = 3) -> tuple[Topology, ...]:
    """
    All topologies with the two priors of C2FNAS (section 3.3): U-shaped, as many up- as down-samplings.

    Of the cells, the first of which may already go down, ``2 * num_downs`` change the level, first all down-samplings
    and then all up-samplings. With 12 cells and 3 down-samplings that is C(12, 6) = 924, the paper's 9.24 x 10^2.

    Args:
        num_cells: cells of every topology.
        num_downs: down-samplings, which are the deepest level; several numbers give the topologies of all of them.

    Returns:
        The topologies in the lexicographic order of their codes.

    Raises:
        ValueError: for numbers that are not whole or negative, too few cells for the levels, or more than a million
            topologies.
    """
    downs = _checked_downs(num_cells, num_downs)
    codes = (
        _code(num_cells, changes, count) for count in downs for changes in combinations(range(num_cells), 2 * count)
    )
    return tuple(Topology(code) for code in sorted(codes))


def cluster_topologies(
    topologies: Iterable[Topology | Sequence[int]], num_clusters: int = 8, seed: int = 0
) -> tuple[tuple[Topology, ...], ...]:
    """
    Clusters of similar topologies: k-means on their codes with the Euclidean distance (C2FNAS, section 4.1).

    The codes lie on a grid, so that many are equally far from two centres, and in a symmetric space whole clusterings
    are equally good. Which of them k-means finds would be up to rounding, which depends on the processor (seen with
    scikit-learn 1.9 and OpenBLAS kernels with and without fused multiply-add). Therefore the codes are moved by up to
    1e-6, always the same way, which decides between what is equal and nothing else.

    Args:
        topologies: different topologies or codes, all with the same number of cells.
        num_clusters: number of clusters.
        seed: any whole number from 0.

    Returns:
        The clusters in the order of their first members, which are in lexicographic order; none is empty.

    Raises:
        ValueError: for an illegal code, one that is given twice, codes of different length, or a number of clusters
            that is not from 1 to the number of topologies.
    """
    members = sorted((as_topology(code) for code in topologies), key=lambda topology: topology.levels)
    _check_members(members, num_clusters)
    codes = np.array([topology.levels for topology in members], dtype=np.float64)
    clusters: dict[int, list[Topology]] = {}
    for topology, label in zip(members, _labels(codes, num_clusters, seed), strict=True):
        clusters.setdefault(label, []).append(topology)
    assert len(clusters) == num_clusters
    return tuple(tuple(cluster) for cluster in clusters.values())  # members are in order, so first members are too


@dataclass(frozen=True)
class TopologySpace:
    """
    All topologies of a number of cells and levels, in clusters; the defaults are those of C2FNAS.

    Args:
        num_cells: cells of every topology.
        num_downs: down-samplings; several numbers give the topologies of all of them.
        num_clusters: number of clusters.
        seed: of k-means.

    Raises:
        ValueError: as :func:`legal_topologies`, or for a number of clusters not from 1 to the number of topologies.

    Example:
        >>> len(TopologySpace().topologies), len(TopologySpace(5, (1, 2), num_clusters=3).topologies)
        (924, 15)
    """

    num_cells: int = 12
    num_downs: int | tuple[int, ...] = 3
    num_clusters: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        downs = _checked_downs(self.num_cells, self.num_downs)
        object.__setattr__(self, "num_downs", downs)  # 3 and (3,) are the same space
        _check_num_clusters(self.num_clusters, _count(self.num_cells, downs))

    @cached_property
    def topologies(self) -> tuple[Topology, ...]:
        """All topologies, in the lexicographic order of their codes."""
        return legal_topologies(self.num_cells, self.num_downs)

    @cached_property
    def clusters(self) -> tuple[tuple[Topology, ...], ...]:
        """The topologies in clusters, see :func:`cluster_topologies`."""
        return cluster_topologies(self.topologies, self.num_clusters, self.seed)


def _checked_downs(num_cells: int, num_downs: int | Iterable[int]) -> tuple[int, ...]:
    """The different numbers of down-samplings, in order."""
    downs = sorted({num_downs} if isinstance(num_downs, int) else set(num_downs))
    if not isinstance(num_cells, int) or num_cells < 1:
        raise ValueError(f"num_cells is {num_cells!r}, allowed are whole numbers from 1.")
    if not downs or not all(isinstance(count, int) and count >= 0 for count in downs):
        raise ValueError(f"num_downs is {num_downs!r}, allowed are whole numbers from 0, at least one.")
    if 2 * downs[-1] > num_cells:
        raise ValueError(
            f"num_downs is {downs[-1]}: going down and up again takes {2 * downs[-1]} cells, num_cells is {num_cells}."
        )
    if (count := _count(num_cells, downs)) > _MAX_TOPOLOGIES:
        raise ValueError(f"{num_cells} cells with {downs} down-samplings have {count:,} topologies, the limit is 10^6.")
    return tuple(downs)


def _count(num_cells: int, downs: Iterable[int]) -> int:
    return sum(comb(num_cells, 2 * count) for count in downs)


def _code(num_cells: int, changes: tuple[int, ...], num_downs: int) -> tuple[int, ...]:
    """Level of each cell when the first ``num_downs`` of the cells ``changes`` go down and the others up."""
    return tuple(
        sum(1 if number < num_downs else -1 for number, place in enumerate(changes) if place <= cell)
        for cell in range(num_cells)
    )


def _check_members(members: Sequence[Topology], num_clusters: int) -> None:
    _check_num_clusters(num_clusters, len(members))
    for before, topology in pairwise(members):
        if topology == before:
            raise ValueError(f"code {list(topology.levels)} is given twice.")
    if len(lengths := {len(topology.levels) for topology in members}) > 1:
        raise ValueError(f"codes have {' and '.join(map(str, sorted(lengths)))} cells, they must have equally many.")


def _check_num_clusters(num_clusters: int, num_topologies: int) -> None:
    if not isinstance(num_clusters, int) or not 1 <= num_clusters <= num_topologies:
        raise ValueError(
            f"num_clusters is {num_clusters!r}, allowed are 1 to {num_topologies}, the number of topologies."
        )


def _labels(codes: np.ndarray[tuple[int, ...], np.dtype[np.float64]], num_clusters: int, seed: int) -> list[int]:
    from sklearn.cluster import KMeans  # here, because it takes a second that no other part of this package needs
    from threadpoolctl import threadpool_limits

    moved = codes + 1e-6 * np.random.RandomState(0).random_sample(codes.shape)
    with threadpool_limits(1):  # on a busy machine threads wait for each other a hundred times longer than they compute
        return KMeans(num_clusters, n_init=_NUM_STARTS, random_state=seed).fit(moved).labels_.tolist()
