# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Patches at random places, of the whole volume or around what is labelled."""

from __future__ import annotations

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.transforms import MapTransform, RandCropByPosNegLabeld, RandSpatialCropSamplesd

__all__ = ["random_patches"]


def random_patches(
    keys: KeysCollection,
    patch_size: Sequence[int],
    num_samples: int,
    label_key: str = "label",
    foreground_prob: float = 0.0,
) -> MapTransform:
    """
    Make MONAI's transform that crops patches from a volume at least as large.

    Args:
        keys: keys of image and label.
        patch_size: voxels along each axis.
        num_samples: patches of a volume.
        label_key: key of the label.
        foreground_prob: share of patches around a labelled voxel, the others are around an unlabelled one; 0 for places
            that do not depend on the label, as in C2FNAS and CAKES.

    Raises:
        ValueError: for a share that is none.
    """
    if not 0 <= foreground_prob <= 1:
        raise ValueError(f"foreground_prob is {foreground_prob}, allowed are 0 to 1.")
    if foreground_prob == 0:
        return RandSpatialCropSamplesd(keys, roi_size=patch_size, num_samples=num_samples, random_size=False)
    return RandCropByPosNegLabeld(
        keys,
        label_key=label_key,
        spatial_size=patch_size,
        pos=foreground_prob,
        neg=1 - foreground_prob,
        num_samples=num_samples,
    )
