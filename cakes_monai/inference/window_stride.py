# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The papers' stride of a sliding window as the overlap that MONAI wants."""

from __future__ import annotations

from collections.abc import Sequence

from monai.utils import ensure_tuple_rep

__all__ = ["overlap_of_stride"]


def overlap_of_stride(stride: int | Sequence[int], patch_size: int | Sequence[int]) -> tuple[float, ...]:
    """
    Overlap along each axis with which MONAI moves its window by exactly ``stride`` voxels.

    MONAI's interval is ``int(size * (1 - overlap))``, which for 1 - 32/96 is 31. So the overlap given here is half a
    voxel less than that of the stride, which the rounding takes away again.

    Args:
        stride: voxels from window to window, one number or one for each axis.
        patch_size: size of the window, likewise.

    Raises:
        ValueError: when there are not as many strides as sizes, or a stride is not from 1 to the size.

    Example:
        >>> [int(96 * (1 - overlap)) for overlap in overlap_of_stride(32, (96, 96, 96))]
        [32, 32, 32]
    """
    sizes = (patch_size,) * 3 if isinstance(patch_size, int) else tuple(patch_size)
    if isinstance(stride, Sequence) and len(stride) != len(sizes):
        raise ValueError(f"stride {list(stride)} is for {len(stride)} axes, the window has {len(sizes)}.")
    strides = ensure_tuple_rep(stride, len(sizes))
    for step, size in zip(strides, sizes, strict=True):
        if not isinstance(step, int) or not 1 <= step <= size:
            raise ValueError(f"stride is {step} for a window of {size} voxels, allowed are whole numbers 1 to {size}.")
    return tuple(max(0.0, 1 - (step + 0.5) / size) for step, size in zip(strides, sizes, strict=True))
