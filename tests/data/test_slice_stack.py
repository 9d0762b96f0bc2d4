# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which DICOM slice is which plane of an image, whatever the reader, the names and the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.data import ITKReader, MetaTensor, PydicomReader
from monai.transforms import LoadImage, Orientation

from cakes_monai.data import stacked_slices

SERIES = ("hippocampus_dicom/Study1/13_HCropVolume", "brain_mr_dicom/11-T1post-18670")


def load(folder: Path, reader: type = ITKReader) -> MetaTensor:
    """The image as MONAI's reader gives it, channel first."""
    return LoadImage(reader=reader(), ensure_channel_first=True)(folder)


def check_plane(plane: MetaTensor, header: pydicom.Dataset) -> None:
    """The plane is the transposed pixels of the slice, rescaled."""
    whole = pydicom.dcmread(header.filename)
    pixels = whole.pixel_array.T * float(whole.get("RescaleSlope", 1)) + float(whole.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(plane, pixels)


@pytest.mark.parametrize("reader", [ITKReader, PydicomReader])
@pytest.mark.parametrize("name", SERIES)
def test_planes_are_the_pixels_of_the_slices(data_root: Path, name: str, reader: type) -> None:
    """Plane k of a real series is the pixels of the k-th slice, for both readers, in oblique slices too."""
    image = load(data_root / name, reader)
    slices = stacked_slices(data_root / name, image.affine, image.shape[1:])
    for plane, header in zip(image[0].unbind(-1), slices, strict=True):
        check_plane(plane, header)


def test_readers_stack_in_opposite_orders(data_root: Path) -> None:
    """The real CT, numbered downwards, is stacked upwards by ITK and downwards by pydicom: the affine decides."""
    folder = data_root / "ct" / "totalsegmentator" / "example_ct_dicom"
    for reader, numbers in ((ITKReader, range(286, 266, -1)), (PydicomReader, range(267, 287))):
        image = load(folder, reader)
        slices = stacked_slices(folder, image.affine, image.shape[1:], ["InstanceNumber"])
        assert [int(header.InstanceNumber) for header in slices] == list(numbers)
        check_plane(image[0, ..., 3], slices[3])


@pytest.fixture
def made(write_series: Callable[..., Path], tmp_path: Path) -> Path:
    """A series of 5 x 4 x 6 voxels turned by 30 degrees, numbered from 11 downwards, in a wild order of files."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    axes = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    voxels = np.arange(5 * 4 * 6).reshape(5, 4, 6)
    return write_series(tmp_path / "made", voxels, (0.7, 0.9, 2.5), axes, numbers=range(11, 5, -1))


def test_all_or_few_tags(made: Path) -> None:
    """None reads all tags but the pixels, a list those beside the geometry."""
    image = load(made)
    few, whole = (stacked_slices(made, image.affine, image.shape[1:], tags)[0] for tags in (["InstanceNumber"], None))
    assert few.InstanceNumber == whole.InstanceNumber == 11
    assert "PatientID" in whole
    assert "PatientID" not in few
    assert "PixelData" not in whole


def test_turned_images_are_refused(made: Path) -> None:
    """Flipped or swapped axes belong to no slice, though shapes agree; turned slices alone keep their planes."""
    image = load(made)
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    for axes in ("RPS", "LAS"):
        turned = Orientation(axes, labels=labels)(image)
        with pytest.raises(ValueError, match=r"made: the image's affine puts slices up to [34] voxels from where"):
            stacked_slices(made, turned.affine, turned.shape[1:])
    upside_down = Orientation("LPI", labels=labels)(image)
    slices = stacked_slices(made, upside_down.affine, upside_down.shape[1:], ["InstanceNumber"])
    assert [int(header.InstanceNumber) for header in slices] == list(range(6, 12))


def test_another_shape_or_place_is_refused(made: Path) -> None:
    """A cropped image, one that lies elsewhere and a broken affine do not belong to the series."""
    image = load(made)
    with pytest.raises(ValueError, match=r"image is of shape 5x4x5, the series of 5x4x6 \(columns, rows, slices\)"):
        stacked_slices(made, image.affine, (5, 4, 5))
    moved = image.affine.clone()
    moved[:3, 3] += 100 * moved[:3, 2] / moved[:3, 2].norm()  # 100 mm are 40 slices
    with pytest.raises(ValueError, match="slices up to 40 voxels from where"):
        stacked_slices(made, moved, image.shape[1:])
    with pytest.raises(ValueError, match="slices up to nan voxels from where"):
        stacked_slices(made, moved * np.nan, image.shape[1:])
