# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the networks find."""

from __future__ import annotations

from cakes_monai.plots.architecture_figures import TradeOff, draw_gates, draw_splits, draw_trade_off
from cakes_monai.plots.candidate_figures import draw_candidate_scores
from cakes_monai.plots.contours import draw_contours, draw_planes, save_figure
from cakes_monai.plots.planes import Plane, Planes, take_planes
from cakes_monai.plots.search_figures import draw_clusters, draw_rank_correlation, draw_topology

__all__ = [
    "Plane",
    "Planes",
    "TradeOff",
    "draw_candidate_scores",
    "draw_clusters",
    "draw_contours",
    "draw_gates",
    "draw_planes",
    "draw_rank_correlation",
    "draw_splits",
    "draw_topology",
    "draw_trade_off",
    "save_figure",
    "take_planes",
]
