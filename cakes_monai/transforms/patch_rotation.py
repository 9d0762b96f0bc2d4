# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Rotations by 90 degrees that leave the shape of a patch as it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from monai.config import KeysCollection
from monai.transforms import Compose, RandRotate90d

__all__ = ["patch_rotations"]


def patch_rotations(keys: KeysCollection, patch_size: Sequence[int], prob: float = 0.75) -> Compose:
    """
    Make random rotations by 90, 180 or 270 degrees in every plane in which the patch is a square.

    With ``prob`` 0.75 each of 0, 90, 180 and 270 degrees is as likely (C2FNAS, section 4.1). A patch of 96x96x96 is
    rotated in all three planes, one of 128x128x32 in the first one only.

    Args:
        keys: keys of the patches.
        patch_size: their size.
        prob: probability of a rotation, for each plane.
    """
    planes = [(a, b) for a, b in combinations(range(len(patch_size)), 2) if patch_size[a] == patch_size[b]]
    return Compose([RandRotate90d(keys, prob=prob, max_k=3, spatial_axes=plane) for plane in planes])
