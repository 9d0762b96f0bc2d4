# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The labels of NIH Pancreas-CT laid onto their DICOM series, where their headers do not put them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from cakes_monai.data.slice_stack import stacked_slices

__all__ = ["NIHLabeld"]

FILE = ImageMetaKey.FILENAME_OR_OBJ


class NIHLabeld(MapTransform):
    """
    Bring labels of NIH Pancreas-CT into the voxel order of their image and give them its affine.

    The voxel ``[x, y, k]`` of such a label file belongs to column x and row y of the slice with the k-th smallest
    InstanceNumber. Its affine says something else: the y axis points the other way and the origin is not the scan's.
    So resampling by headers puts the label beside the pancreas, and so does taking the voxels as they are where
    InstanceNumber runs against the position, by which readers stack slices.

    Stands right after ``LoadImaged(..., ensure_channel_first=True)``, before anything that turns or resamples. The
    image is read from the folder of its series by ``ITKReader``, which is MONAI's choice for a folder, or by
    ``PydicomReader``. Afterwards image and label fit each other as in any other data set. Only the label is changed.

    As a check the median of the image, which must be in HU, is taken over the labelled voxels. It must be that of soft
    tissue; on fat, air or bone lies a label whose orientation is another than that of this data set.

    Args:
        keys: keys of the labels.
        image_key: key of the image they belong to.
        hu_range: lowest and highest median of the image in the labelled voxels.
        allow_missing_keys: whether a missing label is passed over.

    Raises:
        ValueError: when constructed with a ``hu_range`` that is none; when the image is not the folder of a DICOM
            series as it was loaded, shapes differ, slices have no InstanceNumber or two have the same, nothing is
            labelled, or the median is not that of soft tissue.

    Shapes:
        - label and image: ``(1, columns, rows, slices)``

    Example:
        >>> cases = nih_pancreas_fold("Pancreas-CT", "training")
        >>> load = Compose([LoadImaged(("image", "label"), ensure_channel_first=True), NIHLabeld("label")])
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        hu_range: Sequence[float] = (-50.0, 250.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(hu_range) != 2 or not hu_range[0] < hu_range[1]:
            raise ValueError(f"NIHLabeld: hu_range is {hu_range}; allowed: a lowest and a higher highest median.")
        self.image_key = image_key
        self.hu_range = tuple(hu_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the labels laid onto their image."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._laid_on(result[key], result[self.image_key], str(key))
        return result

    def _laid_on(self, label: Any, image: Any, key: str) -> MetaTensor:
        file = str(getattr(label, "meta", {}).get(FILE, key))
        folder = str(getattr(image, "meta", {}).get(FILE, ""))
        if not isinstance(image, MetaTensor) or not Path(folder).is_dir():
            raise ValueError(f"{file}: its image {folder or 'has no file'}; allowed: the folder of a DICOM series.")
        if label.shape != image.shape or image.ndim != 4 or len(image) != 1:
            raise ValueError(
                f"{file}: label of shape {_times(label)}, its image {folder} is of shape {_times(image)}; allowed: the "
                "same, one channel, columns, rows and slices."
            )
        slices = stacked_slices(folder, image.affine.cpu().numpy(), image.shape[1:], ("InstanceNumber",))
        values = torch.as_tensor(label)[..., _planes(slices, folder)]
        self._check_tissue(torch.as_tensor(image)[values > 0], file, folder)
        return MetaTensor(values, meta={**deepcopy(image.meta), FILE: file})

    def _check_tissue(self, labelled: torch.Tensor, file: str, folder: str) -> None:
        if not labelled.numel():
            raise ValueError(f"{file}: no voxel is labelled; allowed: a label of the pancreas.")
        median, (low, high) = float(labelled.median()), self.hu_range
        if not low <= median <= high:
            raise ValueError(
                f"{file}: the labelled voxels of {folder} have a median of {median:g} HU, so the label does not lie on "
                f"the pancreas (another orientation?); allowed: {low:g} to {high:g}."
            )


def _planes(slices: Sequence[pydicom.Dataset], folder: str) -> list[int]:
    """Plane of the label for each slice: how many InstanceNumbers are smaller than the slice's own."""
    numbers = [slice_.get("InstanceNumber") for slice_ in slices]
    if any(number in (None, "") for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{folder}: slices without InstanceNumber, or two with the same; allowed: one number for each."
        )
    return np.argsort(np.argsort([int(number) for number in numbers])).tolist()


def _times(image: torch.Tensor) -> str:
    return "x".join(str(size) for size in image.shape)
