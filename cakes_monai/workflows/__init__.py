# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Stages of a search, from networks and deciders."""

from __future__ import annotations

from cakes_monai.workflows.architecture_saver import ArchitectureSaver
from cakes_monai.workflows.kernel_search import KernelSupernet, derive_kernels, kernel_budget

__all__ = ["ArchitectureSaver", "KernelSupernet", "derive_kernels", "kernel_budget"]
