# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The three orthogonal planes of a volume that show most of its structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation

__all__ = ["Plane", "Planes", "Spacing", "Volume", "take_planes"]

Volume: TypeAlias = ArrayLike | torch.Tensor
Spacing: TypeAlias = Sequence[float] | None
Affine: TypeAlias = NDArray[np.float64] | None
# View, the axis of a RAS volume it looks along, and the directions at its left, right, top and bottom border.
VIEWS = (("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "APSI"))


@dataclass(frozen=True)
class Plane:
    """One plane as it is drawn: rows from top to bottom, columns from left to right."""

    view: str  #: axial, coronal or sagittal
    place: tuple[int, int]  #: index of the plane, counted towards R, A or S, and the number of planes
    letters: str  #: anatomical directions at the left, right, top and bottom border
    spacing: tuple[float, float]  #: height and width of a pixel in mm
    image: NDArray[Any]  #: grey values
    labels: NDArray[Any]  #: structure of every pixel, 0 is none
    reference: NDArray[Any] | None  #: the same for the ground truth

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in mm."""
        return self.image.shape[0] * self.spacing[0], self.image.shape[1] * self.spacing[1]

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """Pixels of any structure, segmented or in the reference."""
        return self.labels > 0 if self.reference is None else (self.labels > 0) | (self.reference > 0)


@dataclass(frozen=True)
class Planes:
    """All that the picture of a case needs: three planes, and the volume of every structure in ml."""

    planes: tuple[Plane, ...]
    volumes: tuple[float, ...]
    reference_volumes: tuple[float, ...] | None = None


def take_planes(
    image: Volume, labels: Volume, spacing: Spacing, names: Sequence[str], reference: Volume | None = None
) -> Planes:
    """
    Reduce volumes to what a picture shows of them: three planes, and the volume of every structure.

    Arguments and errors as in :func:`~cakes_monai.plots.draw_contours`.
    """
    grey, affine = _array_and_affine(image)
    given = (("labels", labels), ("reference", reference))
    maps = [_label_map(name, m, grey.shape, affine, len(names)) for name, m in given if m is not None]
    affine = np.eye(4) if affine is None else affine
    turn, sizes = (
        io_orientation(affine),
        np.linalg.norm(affine[:3, :3], axis=0) if spacing is None else np.asarray(spacing, float),
    )
    sizes = sizes[np.argsort(turn[:, 0])]  # a voxel size goes where its axis goes
    grey, maps = apply_orientation(grey, turn), [apply_orientation(labels, turn) for labels in maps]
    planes = [_plane(view, grey, maps, sizes, _fullest(maps, view[1], len(names))) for view in VIEWS]
    voxel = abs(np.linalg.det(affine[:3, :3])) if spacing is None else sizes.prod()  # mm3
    volumes = [tuple((np.bincount(m.ravel(), minlength=len(names) + 1)[1:] * voxel / 1000).tolist()) for m in maps]
    return Planes(_grey_scaled(planes), *volumes)


def _array_and_affine(values: Volume) -> tuple[NDArray[Any], Affine]:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return array, values.affine.cpu().double().numpy() if isinstance(values, MetaTensor) else None


def _label_map(name: str, values: Volume, shape: tuple[int, ...], affine: Affine, count: int) -> NDArray[Any]:
    labels, own = _array_and_affine(values)
    if len(shape) != 3 or labels.shape != shape:
        raise ValueError(f"{name}: shape {labels.shape}, the image has {shape}; both must be the same (D0, D1, D2).")
    if own is not None and affine is not None and not np.allclose(own, affine, rtol=1e-3, atol=1e-2):
        raise ValueError(f"{name}: the affine is not the image's; resample the label map to the image first.")
    low, high, whole = labels.min(), labels.max(), labels.dtype.kind != "f" or not (labels % 1).any()
    if low < 0 or high > count or not whole:
        raise ValueError(f"{name}: values from {low} to {high}; {count} names allow whole numbers from 0 to {count}.")
    return labels.astype(np.min_scalar_type(count))


def _fullest(maps: Sequence[NDArray[Any]], axis: int, count: int) -> int:
    """Plane with the most of all structures, each relative to its largest cross-section so that small ones count."""
    voxels = [[np.bincount(p.ravel(), minlength=count + 1)[1:] for p in np.moveaxis(m, axis, 0)] for m in maps]
    score = np.sum([v / np.maximum(np.max(v, axis=0), 1) for v in voxels], axis=(0, 2))
    best = np.flatnonzero(score >= score.max() * (1 - 1e-9))
    return int(best[len(best) // 2])  # the middle one where the structures do not change, and of an empty image


def _plane(
    view: tuple[str, int, str], grey: NDArray[Any], maps: list[NDArray[Any]], sizes: NDArray[Any], index: int
) -> Plane:
    name, axis, letters = view
    # The remaining axes point to R or A (columns) and to A or S (rows); pictures run to L or P and to P or I.
    image, labels, *reference = (np.take(v, index, axis)[::-1, ::-1].T for v in (grey, *maps))
    width, height = np.delete(sizes, axis).tolist()
    return Plane(name, (index, grey.shape[axis]), letters, (height, width), image, labels, *(reference or [None]))


def _grey_scaled(planes: Sequence[Plane]) -> tuple[Plane, ...]:
    """Scale grey values to 0..255: the structures' median and three times the distance of what lies beside them."""
    images = [np.nan_to_num(p.image.astype(np.float32)) for p in planes]
    values = np.concatenate([i.ravel() for i in images])
    inside = np.concatenate([p.foreground.ravel() for p in planes])
    beside = np.concatenate([binary_dilation(p.foreground, iterations=4).ravel() for p in planes]) & ~inside
    tissue = values >= values.mean()  # what is left when nothing is segmented
    middle = np.median(values[inside if inside.any() else tissue])
    reach = 3 * np.median(np.abs(values[beside if beside.any() else tissue] - middle))
    low, high = np.clip((middle - reach, middle + reach), *np.percentile(values, (0.5, 99.5)))
    scaled = [((i - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8) for i in images]
    return tuple(replace(plane, image=image) for plane, image in zip(planes, scaled, strict=True))
