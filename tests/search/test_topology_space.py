# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The space of topologies is complete, and its clusters are the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from math import comb

import numpy as np
import pytest

from cakes_monai.architecture import Architecture, Topology
from cakes_monai.search.topology_space import TopologySpace, as_topology, cluster_topologies, legal_topologies
from cakes_monai.search.trial import digest

CLUSTERS = """
from cakes_monai.search.topology_space import TopologySpace
from cakes_monai.search.trial import digest
print(digest([[t.levels for t in cluster] for cluster in TopologySpace().clusters]))
"""


def is_legal(levels: tuple[int, ...]) -> bool:
    """Whether the levels make a topology at all."""
    try:
        return bool(Topology(levels))
    except ValueError:
        return False


def test_the_papers_space() -> None:
    """12 cells with three down- and up-samplings have 924 topologies (C2FNAS, 4.1), C2FNAS-Panc's among them."""
    topologies = TopologySpace().topologies
    assert len(topologies) == len(set(topologies)) == 924 == comb(12, 6)
    assert all(max(topology.levels) == 3 and len(topology.levels) == 12 for topology in topologies)
    assert Architecture.published("c2fnas-panc").topology in topologies
    assert topologies[0].levels == (0, 0, 0, 0, 0, 0, 1, 2, 3, 2, 1, 0)
    assert topologies[-1].levels == (1, 2, 3, 3, 3, 3, 3, 3, 3, 2, 1, 0)


@pytest.mark.parametrize("num_cells", range(1, 8))
def test_the_space_is_complete(num_cells: int) -> None:
    """It has every legal code and no other, in lexicographic order, for each depth and for several at once."""
    deepest = num_cells // 2
    legal = [levels for levels in product(range(deepest + 1), repeat=num_cells) if is_legal(levels)]
    for downs in range(deepest + 1):
        of_depth = [levels for levels in legal if max(levels) == downs]
        assert [t.levels for t in legal_topologies(num_cells, downs)] == of_depth
        assert len(of_depth) == comb(num_cells, 2 * downs)
    assert [t.levels for t in legal_topologies(num_cells, range(deepest + 1))] == legal


def test_clusters_are_those_of_k_means() -> None:
    """Eight clusters divide the 924; in each, every code is nearest to the mean of its own cluster."""
    clusters = TopologySpace().clusters
    assert len(clusters) == 8
    assert min(len(cluster) for cluster in clusters) >= 1
    assert sorted(t.levels for cluster in clusters for t in cluster) == [t.levels for t in legal_topologies()]
    assert [cluster[0].levels for cluster in clusters] == sorted(min(t.levels for t in cluster) for cluster in clusters)
    means = np.array([np.mean([t.levels for t in cluster], axis=0) for cluster in clusters])
    for number, cluster in enumerate(clusters):
        distances = ((np.array([t.levels for t in cluster])[:, None] - means) ** 2).sum(2)
        assert (distances[:, number] <= distances.min(1) + 1e-4).all()


def test_clusters_by_hand() -> None:
    """Three topologies that go down at once and two that do so late are two clusters, in whatever order they come."""
    late, early = [(0, 0, 0, 0, 1, 0), (0, 0, 0, 1, 1, 0)], [(1, 1, 0, 0, 0, 0), (1, 1, 1, 0, 0, 0), (1, 2, 1, 0, 0, 0)]
    expected = tuple(tuple(Topology(levels) for levels in cluster) for cluster in (late, early))
    assert cluster_topologies([*early[::-1], *late], 2) == expected
    assert cluster_topologies([early[2], late[1], early[0], late[0], early[1]], 2, seed=7) == expected
    single = cluster_topologies(early, 3)
    assert single == tuple((Topology(levels),) for levels in early)


def test_clusters_do_not_depend_on_the_processor() -> None:
    """
    The clusters are the recorded ones, also with the arithmetic of a processor without fused multiply-add.

    Recorded with CLUSTERS above under scikit-learn 1.9.1. A journal of other clusters is refused, so a change here
    means that searches begun before cannot be continued.
    """
    here = digest([[t.levels for t in cluster] for cluster in TopologySpace().clusters])
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Prescott", "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", CLUSTERS], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [here] == ["f7550012619c"]


def test_seeds_and_spaces() -> None:
    """Another seed may cluster otherwise but never loses a topology; 3 and (3,) are the same space."""
    assert TopologySpace(8, 2) == TopologySpace(8, (2,))
    assert len(TopologySpace(6, (1, 2), num_clusters=3).topologies) == comb(6, 2) + comb(6, 4)
    others = {TopologySpace(seed=seed).clusters for seed in range(3)}
    assert len(others) == 3
    assert all(len({t for cluster in clusters for t in cluster}) == 924 for clusters in others)


def test_errors_name_what_is_wrong() -> None:
    """Too few cells, too many clusters, illegal and repeated codes are each refused in one line."""
    with pytest.raises(ValueError, match=r"num_downs is 3: .* takes 6 cells, num_cells is 5\."):
        legal_topologies(5, 3)
    with pytest.raises(ValueError, match="num_downs is -1"):
        TopologySpace(5, -1)
    with pytest.raises(ValueError, match="num_cells is 0, allowed are whole numbers from 1"):
        legal_topologies(0, 0)
    with pytest.raises(ValueError, match=r"40 cells with \[10\] down-samplings have 137,846,528,820 topologies"):
        TopologySpace(40, 10)
    with pytest.raises(ValueError, match="num_clusters is 16, allowed are 1 to 15, the number of topologies"):
        TopologySpace(6, 1, num_clusters=16)
    with pytest.raises(ValueError, match="num_clusters is 0, allowed are 1 to 1"):
        cluster_topologies([(0, 1, 0)], 0)
    with pytest.raises(ValueError, match=r"code \[0, 2, 0\]: level of cell 1 differs by 2"):
        as_topology([0, 2, 0])
    with pytest.raises(ValueError, match=r"code \[0, 1, 0, 1, 0\]: cell 3 goes down after an up-sampling"):
        cluster_topologies([(0, 1, 0, 1, 0)], 1)
    with pytest.raises(ValueError, match=r"code \[0, 1, 0\] is given twice"):
        cluster_topologies([(0, 1, 0), (1, 0, 0), (0, 1, 0)], 2)
    with pytest.raises(ValueError, match="codes have 2 and 3 cells"):
        cluster_topologies([(1, 0), (0, 1, 0)], 2)
