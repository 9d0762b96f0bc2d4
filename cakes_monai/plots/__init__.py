# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the networks find."""

from __future__ import annotations

from cakes_monai.plots.contours import Plane, Planes, draw_contours, draw_planes, save_figure, take_planes

__all__ = ["Plane", "Planes", "draw_contours", "draw_planes", "save_figure", "take_planes"]
