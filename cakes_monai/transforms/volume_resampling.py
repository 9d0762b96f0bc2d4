# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""To one spacing, or to one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Resized
from monai.utils import ensure_tuple, ensure_tuple_rep

from cakes_monai.transforms.spacing import SpacingSafed

__all__ = ["volume_resampling"]

#: What ``Resized`` calls the modes of ``Spacingd``. "nearest" of torch takes other voxels than trilinear interpolation
#: lies between: half a voxel off.
MODES_OF_RESIZE = {"bilinear": "trilinear", "nearest": "nearest-exact"}


def volume_resampling(
    keys: KeysCollection,
    pixdim: Sequence[float],
    spatial_size: Sequence[int] | None = None,
    mode: str | Sequence[str] = "bilinear",
) -> MapTransform:
    """
    Make the transform that resamples volumes to a spacing, or to a size where one is given.

    C2FNAS resamples every task to 1 mm, except the hippocampus, whose volumes all become 96x96x96 voxels. Both
    transforms can be inverted.

    Args:
        keys: keys of the volumes.
        pixdim: spacing in mm.
        spatial_size: voxels along each axis; None or empty for ``pixdim``.
        mode: "bilinear" or "nearest", for all keys or for each.

    Raises:
        ValueError: for any other mode.
    """
    modes = ensure_tuple_rep(mode, len(ensure_tuple(keys)))
    if unknown := set(modes) - set(MODES_OF_RESIZE):
        raise ValueError(f"mode: {', '.join(sorted(unknown))}; allowed: {' and '.join(MODES_OF_RESIZE)}.")
    if spatial_size:
        return Resized(keys, spatial_size, mode=[MODES_OF_RESIZE[name] for name in modes])
    return SpacingSafed(keys, pixdim=pixdim, mode=modes, dtype=np.float32)  # MONAI's default is float64
