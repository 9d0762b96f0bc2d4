# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The coarse stage of C2FNAS: topologies, each trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import monai
import torch

from cakes_monai import __version__
from cakes_monai.architecture import Architecture, Cell
from cakes_monai.plots import draw_clusters, draw_topology, save_figure
from cakes_monai.search import Proposal, Proposer, TopologyEvolution, TopologySpace, Trial
from cakes_monai.workflows.trial_search import TrialSearch

__all__ = ["TopologySearch"]


class TopologySearch(TrialSearch):
    """
    Evolution over clusters of similar topologies (C2FNAS, section 3.3 and algorithm 1).

    ``output_dir`` gets journal.jsonl, architecture.json (the best topology so far), topology.png (figure 5) and
    clusters.png (figure 4) while it runs.

    Args:
        space: the topologies and their clusters.
        evolution: arguments of :class:`~cakes_monai.search.TopologyEvolution`: seed, num_initial_per_cluster,
            explore_prob, max_networks.
        operation: of all cells, "3d" in the paper.
        arguments: of :class:`TrialSearch`.
    """

    kind = "topology"

    def __init__(
        self, space: TopologySpace, evolution: Mapping[str, Any], operation: str = "3d", **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.space, self.evolution = space, dict(evolution)
        self.cell = Cell(operation)
        self.proposer(())  # wrong numbers are an error now

    def proposer(self, trials: Sequence[Trial]) -> Proposer:
        """The evolution with these trials."""
        return TopologyEvolution(self.space.clusters, trials=trials, **self.evolution)

    def limit(self, proposer: Proposer) -> int | None:
        """Number of networks of the whole search."""
        return proposer.max_networks if isinstance(proposer, TopologyEvolution) else None

    def architecture(self, proposal: Proposal) -> Architecture:
        """The topology with the same operation in every cell."""
        topology = proposal.topology
        return Architecture(topology, (self.cell,) * len(topology.levels), {"stage": "topology"})

    def report(self, proposer: Proposer) -> None:
        """Write the best topology so far, and the pictures."""
        ended = [trial for trial in proposer.trials if trial.ended is not None]
        if ended:
            save_figure(draw_clusters(ended), self.output_dir / "clusters.png")
        if (best := proposer.best) is not None:
            found = self.architecture(best.proposal)
            origin = {
                "stage": "topology",
                "seed": self.evolution.get("seed", 0),
                "networks": len(ended),
                "failed": sum(trial.state == "failed" for trial in ended),
                "trial": best.index,
                "score": best.score,
                "versions": {"cakes_monai": __version__, "torch": str(torch.__version__), "monai": monai.__version__},
            }
            found = Architecture(found.topology, found.cells, origin)
            found.save(self.output_dir / "architecture.json")
            save_figure(draw_topology(found), self.output_dir / "topology.png")
