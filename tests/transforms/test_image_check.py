# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which images and label maps are refused right after loading, and in which words."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset, ThreadDataLoader
from monai.transforms import Compose, LoadImaged, Orientationd, ScaleIntensityd

from cakes_monai.data import decathlon_fold
from cakes_monai.transforms import CheckImage, CheckImaged, CheckLabeld

SHAPE = (4, 5, 6)


def image(
    shape: tuple[int, ...] = (1, *SHAPE), affine: np.ndarray | None = None, name: str = "scan.nii.gz"
) -> MetaTensor:
    """An image of the values 0, 1, 2, ..."""
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    return MetaTensor(
        values, affine=torch.from_numpy(np.eye(4) if affine is None else affine), meta={"filename_or_obj": name}
    )


def label(values: torch.Tensor | None = None, affine: np.ndarray | None = None) -> MetaTensor:
    """A label map with the classes 0, 1 and 2."""
    given = image(affine=affine, name="label.nii.gz")
    given.copy_(torch.arange(120.0).reshape(1, *SHAPE) % 3 if values is None else values)
    return given


def test_sound_image_is_passed_on_itself() -> None:
    """A sound image comes out as the very same object, and other entries stay."""
    data = {"image": image(), "image_path": "scan.nii.gz", "number": 3}
    result = CheckImaged(keys="image")(data)
    assert result == data
    assert result["image"] is data["image"]
    assert result is not data


@pytest.mark.parametrize(
    ("shape", "num_channels", "text"),
    [
        ((1, 4, 5), 1, "2D image of shape 4x5; allowed: 3D, at least 2 voxels along each axis, 1 channel"),
        ((1, 4, 5, 1), 1, "2D image of shape 4x5x1; allowed: 3D"),
        ((1, 4, 5, 6, 7), 1, "4D image of shape 4x5x6x7; allowed: 3D"),
        ((3, 4, 5, 6), 1, r"4D or multi-channel image of shape 4x5x6 with 3 channel\(s\); allowed: 3D, .* 1 channel"),
        ((1, 4, 5, 6), 3, r"image of shape 4x5x6 with 1 channel\(s\); allowed: .* 3 channel"),
        ((1, 4, 0, 6), 1, "image without voxels, of shape 4x0x6; allowed"),
        ((0,), 1, "image without voxels, of shape 0; allowed"),
    ],
)
def test_shape(shape: tuple[int, ...], num_channels: int, text: str) -> None:
    """Anything but a 3D image of the right channels is refused by file, with its shape and what is allowed."""
    with pytest.raises(ValueError, match=f"^scan.nii.gz: {text}"):
        CheckImaged(keys="image", num_channels=num_channels)({"image": image(shape)})


def test_channels_as_asked_for() -> None:
    """Three channels pass where three are asked for."""
    CheckImage(num_channels=3)(image((3, 4, 5, 6)))


@pytest.mark.parametrize(
    ("affine", "text"),
    [
        (np.diag([1, 0, 3, 1.0]), "voxel spacing 1x0x3 mm; allowed: above 0 along each axis"),
        (np.diag([1, np.nan, 3, 1]), "affine with NaN or infinity, spacing 1xnanx3 mm; allowed: finite"),
        (
            np.array([[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
            "affine with NaN or infinity, spacing 1x1x1",
        ),
        (np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]]), "singular affine, .* in one plane"),
    ],
)
def test_affine(affine: np.ndarray, text: str) -> None:
    """An affine without spacing, with NaN or infinity, or with axes in one plane is refused."""
    with pytest.raises(ValueError, match=f"scan.nii.gz: {text}"):
        CheckImage()(image(affine=affine))


def test_odd_but_sound_affines() -> None:
    """Oblique, flipped and very thin voxels are sound."""
    cos, sin = np.cos(0.4), np.sin(0.4)
    CheckImage()(image(affine=np.array([[cos, -sin, 0, 9], [sin, cos, 0, 8], [0, 0, -5, 7], [0, 0, 0, 1]])))
    CheckImage()(image(affine=np.diag([1e-3, 1e-3, 1e-3, 1])))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_voxels_that_are_no_numbers(value: float) -> None:
    """NaN and infinite voxels are counted."""
    spoiled = image()
    spoiled[0, 1, 2, 3:5] = value
    with pytest.raises(ValueError, match=r"scan.nii.gz: 2 of 120 voxels are NaN or infinite; allowed: finite"):
        CheckImage()(spoiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.uint8])
def test_constant_image(dtype: torch.dtype) -> None:
    """An image of one value only is refused with that value, in any type."""
    with pytest.raises(ValueError, match="all voxels are 7; allowed: an image of more than one value"):
        CheckImage()(torch.full((1, *SHAPE), 7, dtype=dtype))


def test_without_metadata() -> None:
    """Tensors and arrays without a file are checked, too, and named by their key."""
    CheckImaged(keys="image")({"image": torch.arange(120.0).reshape(1, *SHAPE)})
    with pytest.raises(ValueError, match=r"^image: 2D image of shape 4x5;"):
        CheckImaged(keys="image")({"image": np.ones((1, 4, 5))})


def test_missing_key() -> None:
    """A missing key is an error unless it is allowed."""
    assert CheckImaged(keys="image", allow_missing_keys=True)({"other": 1}) == {"other": 1}
    assert CheckLabeld("label", "image", 3, allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError):
        CheckImaged(keys="image")({"other": 1})


def test_wrong_arguments() -> None:
    """Numbers of channels and classes that make no sense are refused at once."""
    with pytest.raises(ValueError, match="num_channels is 0, allowed are 1 or more"):
        CheckImaged(keys="image", num_channels=0)
    with pytest.raises(ValueError, match="num_classes is 1, allowed are 2"):
        CheckLabeld(keys="label", image_key="image", num_classes=1)


def test_sound_label() -> None:
    """A label map that fits comes out as the very same object."""
    data = {"image": image(), "label": label()}
    result = CheckLabeld("label", "image", 3)(data)
    assert result["label"] is data["label"]
    assert result["image"] is data["image"]


def test_label_of_another_shape() -> None:
    """Both files and both shapes are told; a second channel is refused as well."""
    check = CheckLabeld("label", "image", 3)
    text = r"^label.nii.gz: label of shape 1x4x5x6 .* image scan.nii.gz is of shape 1x4x5x7; allowed: one channel"
    with pytest.raises(ValueError, match=text):
        check({"image": image((1, 4, 5, 7)), "label": label()})
    with pytest.raises(ValueError, match="label of shape 2x4x5x6"):
        check({"image": image(), "label": torch.zeros((2, *SHAPE))})


@pytest.mark.parametrize(
    ("wrong", "listed"),
    [
        ([3], "3"),
        ([-1, 255], "-1, 255"),
        ([0.5, float("nan")], "0.5, nan"),
        ([3, 4, 5, 6, 7, 8, 9], "3, 4, 5, 6, 7 and 2 more"),
    ],
)
def test_label_values(wrong: list[float], listed: str) -> None:
    """Values that are no class or no integer are listed, five at most."""
    values = torch.zeros((1, *SHAPE))
    values.view(-1)[: len(wrong)] = torch.tensor(wrong)
    with pytest.raises(ValueError, match=f"label.nii.gz: label values {listed}; allowed: the integers 0 to 2."):
        CheckLabeld("label", "image", 3)({"image": image(), "label": label(values)})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16])
def test_label_types(dtype: torch.dtype) -> None:
    """Labels may be of any type."""
    CheckLabeld("label", "image", 3)({"image": image(), "label": label().to(dtype)})


def test_label_elsewhere() -> None:
    """A label 0.05 voxels off passes, one half a voxel (1 of 2 mm) off or flipped is refused with the distance."""
    affine = np.diag([2, 2, 2, 1.0])
    near, far, flipped = affine.copy(), affine.copy(), np.diag([-2, 2, 2, 1.0])
    near[0, 3], far[0, 3] = 0.1, 1
    check = CheckLabeld("label", "image", 3)
    check({"image": image(affine=affine), "label": label(affine=near)})
    with pytest.raises(
        ValueError, match=r"label.nii.gz: affine differs from .* scan.nii.gz, .* 0.5 voxels apart; .* 0.1"
    ):
        check({"image": image(affine=affine), "label": label(affine=far)})
    with pytest.raises(ValueError, match=r"up to 6 voxels apart"):  # index 3 of 0..3 lies at -6 instead of 6 mm
        check({"image": image(affine=affine), "label": label(affine=flipped)})


def write_pair(folder: Path, values: np.ndarray) -> dict[str, str]:
    """Write an image and a label map as NIfTI."""
    nibabel.save(nibabel.Nifti1Image(np.arange(120.0, dtype=np.float32).reshape(SHAPE), np.eye(4)), folder / "i.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), np.eye(4)), folder / "l.nii.gz")
    return {"image": str(folder / "i.nii.gz"), "label": str(folder / "l.nii.gz")}


def loading() -> Compose:
    """The beginning of a training's preprocessing."""
    return Compose(
        [
            LoadImaged(keys=["image", "label"], ensure_channel_first=True),
            CheckImaged(keys="image"),
            CheckLabeld(keys="label", image_key="image", num_classes=3),
            ScaleIntensityd(keys="image"),
        ]
    )


def test_in_datasets(tmp_path: Path) -> None:
    """In CacheDataset and PersistentDataset sound cases pass, also through a loader of threads."""
    case = write_pair(tmp_path, np.arange(120).reshape(SHAPE) % 3)
    cached = CacheDataset([case, case], loading(), num_workers=2, progress=False)
    batches = list(ThreadDataLoader(cached, batch_size=2, num_workers=0))
    assert batches[0]["image"].shape == (2, 1, *SHAPE)
    item = PersistentDataset([case], loading(), cache_dir=tmp_path / "cache")[0]
    torch.testing.assert_close(item["label"].as_tensor()[0], torch.arange(120.0).reshape(SHAPE) % 3)


def test_error_in_cache_dataset(tmp_path: Path) -> None:
    """CacheDataset's error carries ours, with the file, as its cause."""
    case = write_pair(tmp_path, np.full(SHAPE, 9))
    with pytest.raises(RuntimeError, match="CheckLabeld") as caught:
        CacheDataset([case], loading(), num_workers=None, progress=False)
    assert str(caught.value.__cause__) == f"{case['label']}: label values 9; allowed: the integers 0 to 2."


def test_one_by_one(tmp_path: Path) -> None:
    """Run one by one on a request of MONAI Label, with strings and dictionaries beside the image, the check passes."""
    case = write_pair(tmp_path, np.zeros(SHAPE))
    data = {"model": "segmentation", "image": case["image"], "image_path": case["image"], "params": {"device": "cpu"}}
    for transform in (LoadImaged(keys="image", ensure_channel_first=True), CheckImaged(keys="image")):
        data = transform(data)
    assert isinstance(data["image"], MetaTensor)
    assert data["image_path"] == case["image"]


def test_real_cases(hippocampus: Path, data_root: Path) -> None:
    """Real pairs of image and label pass; a DICOM image and its NIfTI label do once both are brought to RAS."""
    load = loading()
    for case in decathlon_fold(hippocampus, "validation")[:8]:
        load(case)
    spleen = data_root / "ct" / "spleen_msd" / "sub-spleen2_ct"
    load({"image": f"{spleen}.nii.gz", "label": f"{spleen}_seg-manual.nii.gz"})
    example = data_root / "ct" / "totalsegmentator"
    case = {"image": str(example / "example_ct_dicom"), "label": str(example / "example_seg_dicom.nii.gz")}
    keys = ["image", "label"]
    both = Orientationd(keys=keys, axcodes="RAS", labels=None)(LoadImaged(keys=keys, ensure_channel_first=True)(case))
    CheckLabeld("label", "image", num_classes=200)(both)
