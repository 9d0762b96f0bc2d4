# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks right after loading: errors that name the file, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from numpy.typing import NDArray

__all__ = ["CheckImage", "CheckImaged", "CheckLabeld"]

AFFINE_TOLERANCE = 0.1  # voxels; writers round affines to float32, a shift of half a voxel is a mistake
MAX_LISTED = 5  # offending label values in a message


class CheckImage(Transform):
    """
    Refuse an image that no 3D network can segment, and pass any other through unchanged.

    Refused are images that are empty, not 3D (a single slice counts as 2D), of another number of channels, with an
    affine that is singular, not finite or has zero spacing, with NaN or infinite voxels, or of one value only.

    Args:
        num_channels: number of channels an image must have.

    Raises:
        ValueError: when constructed with ``num_channels`` below 1, and for a refused image: its file, what is wrong and
            what is allowed.

    Shapes:
        - input and output: ``(C, H, W, D)``, loaded with ``ensure_channel_first=True``
    """

    def __init__(self, num_channels: int = 1) -> None:
        if num_channels < 1:
            raise ValueError(f"CheckImage: num_channels is {num_channels}, allowed are 1 or more.")
        self.num_channels = num_channels

    def __call__(self, image: NdarrayOrTensor, name: str = "image") -> NdarrayOrTensor:
        """Return ``image`` itself; ``name`` stands for the file in errors when the image does not know its file."""
        problem = next(self._problems(image), None)
        if problem is not None:
            raise ValueError(f"{_file(image, name)}: {problem}")
        return image

    def _problems(self, image: NdarrayOrTensor) -> Iterator[str]:
        """Yield what is wrong, most basic first; later checks rely on earlier ones."""
        yield from _shape_problems(tuple(image.shape), self.num_channels)
        if isinstance(image, MetaTensor):
            yield from _affine_problems(np.asarray(image.affine))
        yield from _voxel_problems(convert_to_tensor(image, track_meta=False))


class CheckImaged(MapTransform):
    """
    Dictionary form of :class:`CheckImage`, to stand right after ``LoadImaged(..., ensure_channel_first=True)``.

    Args:
        keys: keys of the images.
        num_channels: number of channels each image must have.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: see :class:`CheckImage`.
    """

    def __init__(self, keys: KeysCollection, num_channels: int = 1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.check = CheckImage(num_channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the same values."""
        for key in self.key_iterator(dict(data)):
            self.check(data[key], name=str(key))
        return dict(data)


class CheckLabeld(MapTransform):
    """
    Refuse a label map that does not fit its image or its classes, and pass any other through unchanged.

    Stands after loading. When image and label come from different formats, whose readers order the axes differently
    (DICOM and NIfTI), it stands after ``Orientationd``.

    Args:
        keys: keys of the label maps.
        image_key: key of the image they belong to.
        num_classes: number of classes with the background; values 0 to ``num_classes - 1`` are allowed.
        allow_missing_keys: whether a missing label is passed over.

    Raises:
        ValueError: when the spatial shapes differ, the label has more than one channel, values are no integers or no
            classes, or the affines put a voxel more than 0.1 voxels apart.

    Shapes:
        - label: ``(1, H, W, D)``, image: ``(C, H, W, D)``
    """

    def __init__(
        self, keys: KeysCollection, image_key: str, num_classes: int, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if num_classes < 2:
            raise ValueError(f"CheckLabeld: num_classes is {num_classes}, allowed are 2 (with background) or more.")
        self.image_key = image_key
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the same values."""
        for key in self.key_iterator(dict(data)):
            problem = next(self._problems(data[key], data[self.image_key]), None)
            if problem is not None:
                raise ValueError(f"{_file(data[key], str(key))}: {problem}")
        return dict(data)

    def _problems(self, label: NdarrayOrTensor, image: NdarrayOrTensor) -> Iterator[str]:
        image_file = _file(image, self.image_key)
        if tuple(label.shape) != (1, *image.shape[1:]):
            yield (
                f"label of shape {_times(label.shape)} (channels first), its image {image_file} is of shape "
                f"{_times(image.shape)}; allowed: one channel and the image's spatial shape."
            )
        if wrong := _wrong_values(convert_to_tensor(label, track_meta=False), self.num_classes):
            listed = ", ".join(f"{value:g}" for value in wrong[:MAX_LISTED])
            more = f" and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
            yield f"label values {listed}{more}; allowed: the integers 0 to {self.num_classes - 1}."
        if isinstance(label, MetaTensor) and isinstance(image, MetaTensor):
            apart = _voxels_apart(np.asarray(label.affine), np.asarray(image.affine), tuple(image.shape[1:]))
            if not apart <= AFFINE_TOLERANCE:  # NaN too
                yield (
                    f"affine differs from that of its image {image_file}, voxels lie up to {apart:.3g} voxels apart; "
                    f"allowed: {AFFINE_TOLERANCE:g}."
                )


def _file(image: NdarrayOrTensor, default: str) -> str:
    return str(image.meta.get("filename_or_obj", default)) if isinstance(image, MetaTensor) else default


def _times(numbers: Any) -> str:
    return "x".join(f"{float(number):g}" for number in numbers)


def _shape_problems(shape: tuple[int, ...], num_channels: int) -> Iterator[str]:
    allowed = f"allowed: 3D, at least 2 voxels along each axis, {num_channels} channel(s)."
    spatial = shape[1:]
    if 0 in shape:
        yield f"image without voxels, of shape {_times(spatial or shape)}; {allowed}"
    if len(spatial) > 3:
        yield f"{len(spatial)}D image of shape {_times(spatial)}; {allowed}"
    if len(spatial) < 3 or 1 in spatial:
        yield f"{sum(size > 1 for size in spatial)}D image of shape {_times(spatial)}; {allowed}"
    if shape[0] != num_channels:
        kind = "4D or multi-channel image" if shape[0] > 1 else "image"
        yield f"{kind} of shape {_times(spatial)} with {shape[0]} channel(s); {allowed}"


def _affine_problems(affine: NDArray[np.float64]) -> Iterator[str]:
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all():
        yield f"affine with NaN or infinity, spacing {_times(spacing)} mm; allowed: finite values."
    if not (spacing > 0).all():
        yield f"voxel spacing {_times(spacing)} mm; allowed: above 0 along each axis."
    if abs(np.linalg.det(axes / spacing)) < 1e-3:  # 1 for perpendicular axes, 0 for axes in one plane
        yield "singular affine, its three axes lie in one plane; allowed: axes that span space."


def _voxel_problems(image: torch.Tensor) -> Iterator[str]:
    finite = torch.isfinite(image)
    if not finite.all():
        yield f"{int((~finite).sum())} of {image.numel()} voxels are NaN or infinite; allowed: finite values."
    if image.min() == image.max():
        yield f"all voxels are {float(image.min()):g}; allowed: an image of more than one value."


def _wrong_values(label: torch.Tensor, num_classes: int) -> list[float]:
    values = torch.unique(label).double()
    wrong = (values < 0) | (values >= num_classes) | (values != values.round())  # NaN differs from itself
    return values[wrong].tolist()


def _voxels_apart(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Return the largest distance between the two places of a voxel, which a corner of the volume takes."""
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))]).T
    distances = np.linalg.norm(((first - second) @ corners)[:3], axis=0)
    return float(distances.max() / np.linalg.norm(second[:3, :3], axis=0).min())
