# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Stages of a search, from networks and deciders."""

from __future__ import annotations

from cakes_monai.workflows.architecture_saver import ArchitectureSaver
from cakes_monai.workflows.cross_validation import CrossValidation
from cakes_monai.workflows.fold_summary import FoldSummary
from cakes_monai.workflows.fold_weights import fold_weights
from cakes_monai.workflows.kernel_search import KernelSupernet, derive_kernels, kernel_budget
from cakes_monai.workflows.operation_search import OperationRanking
from cakes_monai.workflows.topology_search import TopologySearch
from cakes_monai.workflows.trial_driver import TrialDriver
from cakes_monai.workflows.trial_search import TrialSearch
from cakes_monai.workflows.width_search import WidthSearch

__all__ = [
    "ArchitectureSaver",
    "CrossValidation",
    "FoldSummary",
    "KernelSupernet",
    "OperationRanking",
    "TopologySearch",
    "TrialDriver",
    "TrialSearch",
    "WidthSearch",
    "derive_kernels",
    "fold_weights",
    "kernel_budget",
]
