# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks that exist, with CAKES in the place of their 3x3x3 convolutions."""

from __future__ import annotations

from cakes_monai.conversion.bundle_shrinking import shrink_bundle
from cakes_monai.conversion.layer_search import LayerSearch, find_layers
from cakes_monai.conversion.network_cost import network_cost
from cakes_monai.conversion.rebuilding import load_shrunken, rebuild
from cakes_monai.conversion.report import ShrinkReport, ShrunkLayer, Totals
from cakes_monai.conversion.shrink import shrink
from cakes_monai.conversion.supernet import BackboneSupernet, to_supernet

__all__ = [
    "BackboneSupernet",
    "LayerSearch",
    "ShrinkReport",
    "ShrunkLayer",
    "Totals",
    "find_layers",
    "load_shrunken",
    "network_cost",
    "rebuild",
    "shrink",
    "shrink_bundle",
    "to_supernet",
]
