# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Coarse stage of C2FNAS: evolution of topologies in the unit of clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from cakes_monai.architecture import Topology
from cakes_monai.search.proposer import Proposer
from cakes_monai.search.topology_space import as_topology
from cakes_monai.search.trial import Proposal, Trial, digest

__all__ = ["REASONS", "TopologyEvolution"]

#: Why a topology is proposed: one of the first of its cluster; its cluster was the best of a draw; its cluster was
#: drawn at random to explore; or it was drawn at random because there was nothing to rank clusters by yet.
REASONS = ("initial", "best", "explore", "unranked")

T = TypeVar("T")


class TopologyEvolution(Proposer):
    """
    Topology-similarity based evolution (C2FNAS, algorithm 1 and section 4.1), asynchronous.

    The first proposals are random topologies of every cluster, first one of each, then the second of each. After
    them one trained network is drawn from each cluster, and an untrained topology of the cluster of the best one is
    proposed, of the next best one where no topology is left. With probability ``explore_prob`` it is one of a cluster
    drawn at random instead. Failed trials count as evaluated; without a score they are never drawn. Equal scores are
    won by the cluster with the smaller number.

    The paper leaves open what an idle worker gets before a cluster has its first score. Here a topology of a random
    cluster ("unranked"), so that networks that train faster are no advantage to their cluster.

    Every proposal is drawn from a generator of its own, seeded by ``seed`` and its index, and depends on which trials
    have which scores, not on the order in which they came.

    Args:
        clusters: topologies or codes by cluster, e.g. of :class:`~cakes_monai.search.TopologySpace`.
        seed: any whole number.
        num_initial_per_cluster: first networks of every cluster; of a smaller one all it has.
        explore_prob: probability of a cluster at random.
        max_networks: number of networks that are trained, the failed ones included. It can be raised later on.
        trials: the trials so far, of the journal.

    Raises:
        ValueError: for an empty cluster, a topology that is given twice, an illegal code, numbers out of range, fewer
            networks than the initial ones, or trials of another space.

    Example:
        >>> evolution = TopologyEvolution([[(0, 0, 0)], [(0, 1, 0), (1, 0, 0)]], max_networks=3)
        >>> [evolution.ask().cluster for _ in range(3)], evolution.ask()
        ([0, 1, 1], None)
    """

    def __init__(
        self,
        clusters: Sequence[Sequence[Topology | Sequence[int]]],
        seed: int = 0,
        num_initial_per_cluster: int = 2,
        explore_prob: float = 0.2,
        max_networks: int = 50,
        trials: Iterable[Trial] = (),
    ) -> None:
        self.clusters = tuple(tuple(as_topology(code).levels for code in cluster) for cluster in clusters)
        self.seed = seed
        self.num_initial_per_cluster = num_initial_per_cluster
        self.explore_prob = explore_prob
        self.max_networks = max_networks
        self._check_settings()
        super().__init__(trials)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the proposals depend on; ``max_networks`` only says when they end."""
        return {
            "seed": self.seed,
            "num_initial_per_cluster": self.num_initial_per_cluster,
            "explore_prob": self.explore_prob,
            "num_topologies": sum(len(cluster) for cluster in self.clusters),
            "num_clusters": len(self.clusters),
            "clusters": digest(self.clusters),
        }

    @property
    def initial(self) -> tuple[int, ...]:
        """Cluster of each of the first proposals."""
        rounds = range(self.num_initial_per_cluster)
        return tuple(c for turn in rounds for c, cluster in enumerate(self.clusters) if turn < len(cluster))

    def propose(self, trials: Sequence[Trial]) -> Proposal | None:
        """The proposal that follows ``trials``; None after ``max_networks`` or the last topology."""
        index = len(trials)
        taken = {trial.proposal.candidate for trial in trials}
        left = {c: rest for c, all_ in enumerate(self.clusters) if (rest := [t for t in all_ if t not in taken])}
        if index >= self.max_networks or not left:
            return None
        random = Random(f"{self.seed}/{index}")
        cluster, reason = self._cluster(trials, list(left), random)
        return Proposal(index, _drawn(random, left[cluster]), reason, cluster)

    def check(self, proposal: Proposal) -> None:
        """Raise a ValueError unless the proposal is a topology of its cluster that was not proposed before."""
        cluster = proposal.cluster
        known = cluster is not None and 0 <= cluster < len(self.clusters)
        if not known or proposal.candidate not in self.clusters[cluster or 0]:
            raise ValueError(
                f"trial {proposal.index}: {proposal.candidate!r} is not in cluster {cluster} of the space."
            )
        if any(trial.proposal.candidate == proposal.candidate for trial in self._trials):
            raise ValueError(f"trial {proposal.index}: {proposal.candidate!r} was proposed before.")

    def _cluster(self, trials: Sequence[Trial], left: Sequence[int], random: Random) -> tuple[int, str]:
        """Number of the cluster of the next topology, of those with topologies ``left``, and the reason."""
        if len(trials) < len(initial := self.initial):
            return initial[len(trials)], "initial"
        if random.random() < self.explore_prob:
            return _drawn(random, left), "explore"
        of = {c: [trial for trial in trials if trial.proposal.cluster == c] for c in left}
        scores = {c: [trial.score for trial in of[c] if trial.score is not None] for c in left}
        early = any(not scores[c] and any(trial.ended is None for trial in of[c]) for c in left)
        drawn = {c: _drawn(random, scores[c]) for c in left if scores[c]}
        if early or not drawn:
            return _drawn(random, left), "unranked"
        return max(drawn, key=lambda c: (drawn[c], -c)), "best"

    def _check_settings(self) -> None:
        topologies = [topology for cluster in self.clusters for topology in cluster]
        if not self.clusters or not all(self.clusters):
            raise ValueError("there must be a cluster, and a topology in every cluster.")
        if len(set(topologies)) < len(topologies):
            twice = next(t for number, t in enumerate(topologies) if t in topologies[:number])
            raise ValueError(f"topology {list(twice)} is given twice.")
        if self.num_initial_per_cluster < 1:
            raise ValueError(f"num_initial_per_cluster is {self.num_initial_per_cluster}, allowed is 1 or more.")
        if not 0 <= self.explore_prob <= 1:
            raise ValueError(f"explore_prob is {self.explore_prob}, allowed is 0 to 1.")
        if self.max_networks < len(self.initial):
            raise ValueError(
                f"max_networks is {self.max_networks}, but {len(self.clusters)} clusters begin with "
                f"{len(self.initial)} networks (num_initial_per_cluster {self.num_initial_per_cluster})."
            )


def _drawn(random: Random, choices: Sequence[T]) -> T:
    """One of ``choices``; ``random()`` is the only method whose numbers Python promises to keep."""
    return choices[int(random.random() * len(choices))]
