# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How networks are run."""

from __future__ import annotations

from cakes_monai.inference.autocast_inferer import AutocastInferer, has_fast_bfloat16
from cakes_monai.inference.path_latency import latency_table, measure_path_latency, path_layers

__all__ = ["AutocastInferer", "has_fast_bfloat16", "latency_table", "measure_path_latency", "path_layers"]
