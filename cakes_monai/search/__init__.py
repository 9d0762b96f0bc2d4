# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What searches decide, without torch."""

from __future__ import annotations

from cakes_monai.search.kernel_derivation import KernelDerivation, manual_architecture
from cakes_monai.search.kernel_ranking import RULES, KeptPaths, Ranking, rank_kernels
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
from cakes_monai.search.split_summary import SplitSummary, split_summary

__all__ = [
    "BUDGET_UNITS",
    "RULES",
    "Budget",
    "KeptPaths",
    "KernelDerivation",
    "PathLayer",
    "Ranking",
    "SplitSummary",
    "c2fnas_path_layers",
    "cost_betas",
    "latency_budget",
    "manual_architecture",
    "network_budget",
    "parameter_betas",
    "rank_kernels",
    "split_summary",
]
