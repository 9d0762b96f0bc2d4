# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Labels of NIH Pancreas-CT on their images, voxel by voxel, and what is no such label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import ITKReader, PydicomReader
from monai.transforms import (
    Compose,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    ResampleToMatch,
    ScaleIntensityRanged,
)

from cakes_monai.data import NIHLabeld, nih_pancreas_fold
from cakes_monai.transforms import CheckImaged, CheckLabeld, SpacingSafed

WriteCase = Callable[..., dict[str, str]]
KEYS = ("image", "label")
UP, DOWN = range(1, 21), range(20, 0, -1)


def load(case: dict[str, str], reader: type = ITKReader) -> dict[str, Any]:
    """Image and label as MONAI reads them."""
    return LoadImaged(KEYS, reader=[reader()], ensure_channel_first=True)(case)


def covers(label: torch.Tensor, image: torch.Tensor) -> float:
    """Dice of a label and the bright ellipsoid: 1 when they are the same voxels."""
    labelled, bright = label.as_tensor() > 0, image.as_tensor() > 10  # midway between organ and fat
    return float(2 * (labelled & bright).sum() / (labelled.sum() + bright.sum()))


@pytest.mark.parametrize(
    ("numbers", "reader", "suffix"),
    [
        pytest.param(UP, ITKReader, ".nii.gz", id="up"),
        pytest.param(DOWN, ITKReader, ".nii.gz", id="down"),
        pytest.param(range(0, 20), ITKReader, ".nii", id="from 0"),
        pytest.param(range(119, 99, -1), ITKReader, ".nii", id="down to 100"),
        pytest.param([*range(2, 21, 2), *range(1, 21, 2)], ITKReader, ".nii.gz", id="interleaved"),
        pytest.param(UP, PydicomReader, ".nii.gz", id="up, pydicom"),
        pytest.param(DOWN, PydicomReader, ".nii", id="down, pydicom"),
    ],
)
def test_the_label_covers_the_organ(
    tmp_path: Path, write_nih_case: WriteCase, numbers: Sequence[int], reader: type, suffix: str
) -> None:
    """Every voxel of the bright ellipsoid is labelled and no other, in the image's geometry, whatever the numbers."""
    loaded = load(write_nih_case(tmp_path, 1, numbers=numbers, suffix=suffix), reader)
    laid = NIHLabeld("label")(loaded)
    torch.testing.assert_close(laid["label"].as_tensor() > 0, loaded["image"].as_tensor() > 50)
    torch.testing.assert_close(laid["label"].affine, loaded["image"].affine, rtol=0, atol=0)
    assert laid["image"] is loaded["image"]
    assert laid["label"].meta["filename_or_obj"] == loaded["label"].meta["filename_or_obj"]
    assert torch.unique(laid["label"]).tolist() == [0, 1]


def test_neither_the_header_nor_the_order_of_voxels_is_right(tmp_path: Path, write_nih_case: WriteCase) -> None:
    """Resampling by the header misses the organ altogether; taking voxels as they are does where numbers run down."""
    for number, numbers in enumerate((UP, DOWN)):
        loaded = load(write_nih_case(tmp_path, number, numbers=numbers))
        by_header = ResampleToMatch(mode="nearest", padding_mode="zeros")(loaded["label"], loaded["image"])
        assert covers(by_header, loaded["image"]) == 0
        assert covers(loaded["label"], loaded["image"]) == (1 if numbers is UP else pytest.approx(0.25, abs=0.25))


def test_real_series(data_root: Path, tmp_path: Path) -> None:
    """On the real CT, numbered from 267 downwards, a mask of soft tissue stored the NIH way comes back as it was."""
    folder = data_root / "ct" / "totalsegmentator" / "example_ct_dicom"
    slices = [pydicom.dcmread(file) for file in folder.iterdir()]
    slices.sort(key=lambda header: int(header.InstanceNumber))
    stored = np.stack([((s.pixel_array > 1024) & (s.pixel_array < 1124)).T for s in slices], -1).astype(np.uint8)
    nib.save(nib.Nifti1Image(stored, np.diag([-1, 1, 1, 1])), tmp_path / "label0001.nii.gz")
    laid = NIHLabeld("label")(load({"image": str(folder), "label": str(tmp_path / "label0001.nii.gz")}))
    expected = (laid["image"].as_tensor() > 0) & (laid["image"].as_tensor() < 100)
    torch.testing.assert_close(laid["label"].as_tensor() > 0, expected)


@pytest.mark.parametrize("numbers", [UP, DOWN], ids=["up", "down"])
def test_from_files_to_patches(tmp_path: Path, write_nih_case: WriteCase, numbers: Sequence[int]) -> None:
    """Through orientation, resampling to 1 mm and cropping the label stays on the organ: Dice above 0.95."""
    turned = np.diag([1.0, -1.0, -1.0])  # lying the other way round: rows upwards, slices from head to foot
    for number in (1, 2):
        write_nih_case(tmp_path, number, numbers=numbers, axes=turned, spacing=(0.8, 0.7, 1.5), origin=(9, 50, 80))
    chain = Compose(
        [
            LoadImaged(KEYS, ensure_channel_first=True),
            NIHLabeld("label"),
            CheckImaged("image"),
            CheckLabeld("label", "image", 2),
            Orientationd(KEYS, "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            SpacingSafed(KEYS, (1, 1, 1), mode=("bilinear", "nearest")),
        ]
    )
    (case,) = nih_pancreas_fold(tmp_path, "validation", num_folds=2)
    data = chain(case)
    assert data["image"].shape == data["label"].shape == (1, 32, 26, 30)
    assert covers(data["label"], data["image"]) > 0.95
    scale = ScaleIntensityRanged("image", -100, 240, 0, 1, clip=True)
    crop = RandCropByPosNegLabeld(KEYS, "label", (16, 16, 8), pos=1, neg=0, num_samples=4, image_key="image")
    for patch in crop.set_random_state(0)(scale(data)):
        bright = patch["image"].as_tensor() > (10 + 100) / 340
        assert float((bright == (patch["label"].as_tensor() > 0)).float().mean()) > 0.97


def test_another_orientation_is_found_out(tmp_path: Path, write_nih_case: WriteCase) -> None:
    """A label whose rows run the other way lies on fat, which is said with the median found."""
    case = write_nih_case(tmp_path, 1)
    stored = nib.load(case["label"])
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj)[:, ::-1], stored.affine), case["label"])
    with pytest.raises(
        ValueError,
        match=r"label0001\.nii\.gz: the labelled voxels of \S+ have a median of -(9|10)\d HU, so the label does not "
        r"lie on the pancreas \(another orientation\?\); allowed: -50 to 250\.$",
    ):
        NIHLabeld("label")(load(case))
    NIHLabeld("label", hu_range=(-200, 0))(load(case))  # what is allowed is an option


def test_what_does_not_fit(tmp_path: Path, write_nih_case: WriteCase) -> None:
    """An empty label, one of another size, and an image that is no series are refused with the label's file."""
    case = write_nih_case(tmp_path, 1)
    loaded = load(case)
    with pytest.raises(ValueError, match=r"label0001\.nii\.gz: no voxel is labelled; allowed: a label of the pancreas"):
        NIHLabeld("label")({**loaded, "label": loaded["label"] * 0})
    with pytest.raises(ValueError, match=r"label of shape 1x40x36x19, its image \S+ is of shape 1x40x36x20; allowed"):
        NIHLabeld("label")({**loaded, "label": loaded["label"][..., :-1]})
    with pytest.raises(ValueError, match=r"its image \S+label0001\.nii\.gz; allowed: the folder of a DICOM series"):
        NIHLabeld("label")({**loaded, "image": loaded["label"]})
    with pytest.raises(ValueError, match=r"label: its image has no file; allowed: the folder of a DICOM series"):
        NIHLabeld("label")({key: value.as_tensor() for key, value in loaded.items()})
    turned = Orientationd(KEYS, "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(loaded)
    with pytest.raises(ValueError, match="the image's affine puts slices up to"):
        NIHLabeld("label")(turned)


@pytest.mark.parametrize("number", [None, "", "7"])
def test_slices_without_a_number_of_their_own(tmp_path: Path, write_nih_case: WriteCase, number: str | None) -> None:
    """A slice without InstanceNumber, with an empty one, or with that of another cannot be found in the label."""
    case = write_nih_case(tmp_path, 1)
    file = Path(case["image"]) / "1-003.dcm"
    header = pydicom.dcmread(file)
    if number is None:
        del header.InstanceNumber
    else:
        header.InstanceNumber = number
    header.save_as(file)
    with pytest.raises(ValueError, match="slices without InstanceNumber, or two with the same"):
        NIHLabeld("label")(load(case))


def test_missing_keys_and_bad_options(tmp_path: Path, write_nih_case: WriteCase) -> None:
    """An image without label passes where that is allowed; a range upside down is refused."""
    case = write_nih_case(tmp_path, 1)
    image = LoadImaged("image", ensure_channel_first=True)({"image": case["image"]})
    assert NIHLabeld("label", allow_missing_keys=True)(image) == image
    with pytest.raises(KeyError, match="label"):
        NIHLabeld("label")(image)
    with pytest.raises(ValueError, match=r"NIHLabeld: hu_range is \(250, -50\)"):
        NIHLabeld("label", hu_range=(250, -50))
