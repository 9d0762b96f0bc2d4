# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""SpacingSafed among other entries, and there and back again on an oblique image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.metrics import DiceMetric
from monai.transforms import Compose, EnsureTyped, Invertd, LoadImaged, Spacingd

from cakes_monai.transforms import SpacingSafed

SHAPE = (24, 28, 12)
SPACING = (1.1, 0.9, 3.1)


def oblique_affine() -> np.ndarray:
    """Affine of SPACING turned by 0.3 about z and -0.2 about x, with a flip and an origin off zero."""
    (cos_z, sin_z), (cos_x, sin_x) = ((np.cos(angle), np.sin(angle)) for angle in (0.3, -0.2))
    about_z = np.array([[cos_z, -sin_z, 0], [sin_z, cos_z, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cos_x, -sin_x], [0, sin_x, cos_x]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1, 1, 1]) @ np.diag(SPACING)
    affine[:3, 3] = 10, -20, 30
    return affine


@pytest.fixture
def case(tmp_path: Path) -> dict[str, str]:
    """Image and label of an ellipsoid within an ellipsoid on an oblique grid of anisotropic voxels."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2).astype(np.float32)
    label = (radius < 0.9).astype(np.uint8) + (radius < 0.5)
    for name, array in (("image", radius), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array, oblique_affine()), tmp_path / f"{name}.nii.gz")
    return {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}


def loaded(case: dict[str, str]) -> dict[str, Any]:
    """Image and label channels first."""
    return LoadImaged(keys=["image", "label"], ensure_channel_first=True)(case)


def test_same_as_spacingd(case: dict[str, str]) -> None:
    """Without other entries the result is that of Spacingd, voxels and affine."""
    options: dict[str, Any] = {"keys": ["image", "label"], "pixdim": (1, 1, 1), "mode": ("bilinear", "nearest")}
    ours, monai = SpacingSafed(**options)(loaded(case)), Spacingd(**options)(loaded(case))
    assert list(ours) == list(monai)
    for key in ("image", "label"):
        torch.testing.assert_close(ours[key].as_tensor(), monai[key].as_tensor())
        torch.testing.assert_close(ours[key].affine, monai[key].affine)
    torch.testing.assert_close(ours["image"].pixdim, torch.ones(3, dtype=torch.float64))


def test_other_entries_stay(case: dict[str, str]) -> None:
    """Strings, numbers, lists, None and keys that are no strings stay as they are; the input is not changed."""
    others = {"image_path": case["image"], "image_id": 5, "image_list": [1], "label_none": None, 7: "seven", "x": "y"}
    data = {**others, **loaded(case)}
    image, order = data["image"], list(data)
    result = SpacingSafed(keys=["image", "label"], pixdim=(1, 1, 1))(data)
    assert {key: result[key] for key in others} == others
    assert list(result) == order
    assert data["image"] is image
    assert result["image"].shape != image.shape


def test_metadata_dictionaries_are_seen(case: dict[str, str]) -> None:
    """A metadata dictionary beside the image gets what Spacingd gives it, whatever the MONAI version does."""
    meta = {"image_meta_dict": {"note": "kept"}}
    ours = SpacingSafed(keys="image", pixdim=(1, 1, 1))({**loaded(case), "image_meta_dict": {"note": "kept"}})
    monai = Spacingd(keys="image", pixdim=(1, 1, 1))({**loaded(case), **meta})
    assert set(ours["image_meta_dict"]) == set(monai["image_meta_dict"])
    assert ours["image_meta_dict"]["note"] == "kept"


def test_one_by_one_as_monai_label_runs_it(case: dict[str, str]) -> None:
    """A request of MONAI Label, which puts the path beside the image, goes through the transforms one by one."""
    data: dict[str, Any] = {
        "image": case["image"],
        "image_path": case["image"],
        "device": "cpu",
        "result_extension": None,
    }
    chain = [
        LoadImaged(keys="image", ensure_channel_first=True),
        SpacingSafed(keys="image", pixdim=(1, 1, 1)),
        EnsureTyped(keys="image"),
    ]
    for transform in chain:
        data = transform(data)
    assert isinstance(data["image"], MetaTensor)
    assert data["image_path"] == case["image"]


def there_and_back(case: dict[str, str], pixdim: tuple[float, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resample image and label, take the label as prediction, and invert that, batched as an evaluator does."""
    keys = ["image", "label"]
    spacing = SpacingSafed(keys=keys, pixdim=pixdim, mode=("bilinear", "nearest"))
    preprocessing = Compose([LoadImaged(keys=keys, ensure_channel_first=True), spacing])
    resampled = preprocessing({**case, "image_path": case["image"]})
    (item,) = decollate_batch(list_data_collate([resampled]))
    item["pred"] = MetaTensor(item["label"].as_tensor().clone(), meta={}, applied_operations=[])
    invert = Invertd(keys="pred", transform=preprocessing, orig_keys="image", nearest_interp=True, to_tensor=True)
    return resampled, invert(item)


@pytest.mark.parametrize("pixdim", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (2.0, 1.5, 2.5)])
def test_inverse_is_on_the_grid_of_the_image(case: dict[str, str], pixdim: tuple[float, ...]) -> None:
    """Invertd brings a prediction back to shape and affine of the oblique original, with Dice above 0.9."""
    original = loaded(case)
    resampled, item = there_and_back(case, pixdim)
    np.testing.assert_allclose(resampled["image"].pixdim, pixdim, rtol=1e-6)
    assert item["pred"].shape == (1, *SHAPE)
    np.testing.assert_allclose(item["pred"].affine, oblique_affine(), atol=1e-5)
    assert item["pred"].unique().tolist() == [0, 1, 2]
    dice = DiceMetric(include_background=False, num_classes=3)(item["pred"][None], original["label"][None])
    assert dice.min() > 0.9


def test_inverse_is_exact_on_a_finer_grid(case: dict[str, str]) -> None:
    """With a third of each spacing every voxel has a nearest one at its centre, so the label comes back exactly."""
    _, item = there_and_back(case, tuple(spacing / 3 for spacing in SPACING))
    torch.testing.assert_close(item["pred"].as_tensor(), loaded(case)["label"].as_tensor())


def test_lazy(case: dict[str, str]) -> None:
    """Lazily the resampling is only noted, as with Spacingd, and done later to the same shape."""
    now = SpacingSafed(keys="image", pixdim=(1, 1, 1))(loaded(case))["image"]
    later = SpacingSafed(keys="image", pixdim=(1, 1, 1), lazy=True)({**loaded(case), "image_path": "x"})["image"]
    assert later.shape == (1, *SHAPE)
    assert later.peek_pending_shape() == now.peek_pending_shape() == tuple(now.shape[1:])
