# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What searches decide, without torch."""

from __future__ import annotations

from cakes_monai.search.engine import Engine, Result, Task, make_engine
from cakes_monai.search.evolution import REASONS, TopologyEvolution
from cakes_monai.search.fold_list import CROSS_VALIDATION, FoldList
from cakes_monai.search.journal import Journal, read_journal
from cakes_monai.search.journal_records import JournalContent
from cakes_monai.search.kernel_derivation import KernelDerivation, manual_architecture
from cakes_monai.search.kernel_ranking import RULES, KeptPaths, Ranking, rank_kernels
from cakes_monai.search.operation_sampling import (
    SEARCHED_OPERATIONS,
    RankCorrelation,
    draw_candidates,
    draw_operations,
    rank_correlation,
)
from cakes_monai.search.path_costs import (
    BUDGET_UNITS,
    Budget,
    PathLayer,
    c2fnas_path_layers,
    cost_betas,
    latency_budget,
    network_budget,
    parameter_betas,
)
from cakes_monai.search.progress import progress_line
from cakes_monai.search.proposer import WIDTH_MULTIPLIERS, CandidateList, Proposer
from cakes_monai.search.split_summary import SplitSummary, split_summary
from cakes_monai.search.topology_space import TopologySpace, as_topology, cluster_topologies, legal_topologies
from cakes_monai.search.trial import Proposal, Trial, best_trial

__all__ = [
    "BUDGET_UNITS",
    "CROSS_VALIDATION",
    "REASONS",
    "RULES",
    "SEARCHED_OPERATIONS",
    "WIDTH_MULTIPLIERS",
    "Budget",
    "CandidateList",
    "Engine",
    "FoldList",
    "Journal",
    "JournalContent",
    "KeptPaths",
    "KernelDerivation",
    "PathLayer",
    "Proposal",
    "Proposer",
    "RankCorrelation",
    "Ranking",
    "Result",
    "SplitSummary",
    "Task",
    "TopologyEvolution",
    "TopologySpace",
    "Trial",
    "as_topology",
    "best_trial",
    "c2fnas_path_layers",
    "cluster_topologies",
    "cost_betas",
    "draw_candidates",
    "draw_operations",
    "latency_budget",
    "legal_topologies",
    "make_engine",
    "manual_architecture",
    "network_budget",
    "parameter_betas",
    "progress_line",
    "rank_correlation",
    "rank_kernels",
    "read_journal",
    "split_summary",
]
