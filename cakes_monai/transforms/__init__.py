# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks: checks with readable errors, and a Spacing that bears other entries beside the image."""

from __future__ import annotations

from cakes_monai.transforms.image_check import CheckImage, CheckImaged, CheckLabeld
from cakes_monai.transforms.label_inversion import InvertLabels, InvertLabelsd
from cakes_monai.transforms.modality_normalization import NormalizeModality, NormalizeModalityd
from cakes_monai.transforms.patch_rotation import patch_rotations
from cakes_monai.transforms.random_patches import random_patches
from cakes_monai.transforms.spacing import SpacingSafed
from cakes_monai.transforms.volume_resampling import volume_resampling

__all__ = [
    "CheckImage",
    "CheckImaged",
    "CheckLabeld",
    "InvertLabels",
    "InvertLabelsd",
    "NormalizeModality",
    "NormalizeModalityd",
    "SpacingSafed",
    "patch_rotations",
    "random_patches",
    "volume_resampling",
]
