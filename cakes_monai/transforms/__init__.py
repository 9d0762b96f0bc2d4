# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks: checks with readable errors, and a Spacing that bears other entries beside the image."""

from __future__ import annotations

from cakes_monai.transforms.image_check import CheckImage, CheckImaged, CheckLabeld
from cakes_monai.transforms.spacing import SpacingSafed

__all__ = ["CheckImage", "CheckImaged", "CheckLabeld", "SpacingSafed"]
