# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How networks are run."""

from __future__ import annotations

from cakes_monai.inference.autocast_inferer import AutocastInferer, has_fast_bfloat16
from cakes_monai.inference.engine_inferer import EngineInferer
from cakes_monai.inference.engines import ENGINES, Engine
from cakes_monai.inference.network_ensemble import ENSEMBLES, EnsembleUpdate, network_copies
from cakes_monai.inference.optimization import LayerPlan, OptimizedNetwork, optimize_for_inference
from cakes_monai.inference.path_latency import latency_table, measure_path_latency, path_layers
from cakes_monai.inference.plans import PLANS, kernel_of
from cakes_monai.inference.window_stride import overlap_of_stride

__all__ = [
    "ENGINES",
    "ENSEMBLES",
    "PLANS",
    "AutocastInferer",
    "Engine",
    "EngineInferer",
    "EnsembleUpdate",
    "LayerPlan",
    "OptimizedNetwork",
    "has_fast_bfloat16",
    "kernel_of",
    "latency_table",
    "measure_path_latency",
    "network_copies",
    "optimize_for_inference",
    "overlap_of_stride",
    "path_layers",
]
