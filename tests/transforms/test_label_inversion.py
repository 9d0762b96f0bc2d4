# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Probabilities brought to the file's geometry slab by slab give the labels that MONAI's own transforms give."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd, LoadImaged, Orientationd

from cakes_monai.transforms import InvertLabels, InvertLabelsd, SpacingSafed

AXES = [["L", "R"], ["P", "A"], ["I", "S"]]


def affine_of(spacing: tuple[float, float, float], order: str, angle: float) -> np.ndarray:
    """Affine of an image whose axes go where ``order`` says, turned by an angle."""
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    axes = np.zeros((3, 3))
    for column, letter in enumerate(order):
        row, sign = directions[letter]
        axes[row, column] = sign * spacing[column]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ axes, [-20, 13, 7]
    return affine


def probabilities(path: Path, affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[Compose, dict]:
    """A preprocessed image, smooth random logits for three classes in its place, and what was done."""
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine), path)
    preprocessing = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=AXES),
            SpacingSafed("image", pixdim=(1, 1, 1), dtype=np.float32),
        ]
    )
    item = decollate_batch(list_data_collate([preprocessing({"image": str(path)})]))[0]
    coarse = torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.interpolate(coarse, item["image"].shape[1:], mode="trilinear")[0]
    item["pred"] = MetaTensor(4 * logits).copy_meta_from(item["image"])
    return preprocessing, item


@pytest.mark.parametrize(
    "affine",
    [
        affine_of((0.8, 0.8, 2.5), "LPS", 0.0),
        affine_of((0.7, 0.9, 3.1), "PIR", 0.3),
        affine_of((1, 1, 1), "RAS", 0.0),
        affine_of((1.6, 1.3, 0.6), "SLA", -0.2),
    ],
    ids=["CT", "swapped and oblique", "nothing to do", "finer than 1 mm"],
)
@pytest.mark.parametrize("slab_voxels", [1, 900, 10**9])
def test_equals_inverted_probabilities(affine: np.ndarray, slab_voxels: int, tmp_path: Path) -> None:
    """Whatever the slabs are, labels, shape and affine are those of Invertd and AsDiscreted (ties aside)."""
    shape = (22, 27, 18)
    preprocessing, item = probabilities(tmp_path / "scan.nii.gz", affine, shape)
    item = Activationsd("pred", softmax=True)(item)
    invert = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)
    expected = AsDiscreted("pred", argmax=True)(invert(item))["pred"]
    found = InvertLabels(slab_voxels)(item["pred"])
    assert found.shape == expected.shape == (1, *shape)
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 1, 2}
    assert (torch.as_tensor(found) == torch.as_tensor(expected)).float().mean() > 0.9995
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    assert found.meta["filename_or_obj"] == str(tmp_path / "scan.nii.gz")


def test_dictionary_form(tmp_path: Path) -> None:
    """Only the keys are changed, and the given dictionary is not."""
    _, item = probabilities(tmp_path / "scan.nii.gz", affine_of((0.8, 0.8, 2.5), "LPS", 0.0), (22, 27, 18))
    result = InvertLabelsd("pred")(item)
    assert result["image"] is item["image"]
    assert item["pred"].shape[0] == 3
    assert torch.equal(torch.as_tensor(result["pred"]), torch.as_tensor(InvertLabels()(item["pred"])))


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4, 4), MetaTensor(torch.zeros(3, 4, 4, 4))])
def test_probabilities_without_a_file(image: torch.Tensor) -> None:
    """What does not know the geometry of its file is refused."""
    with pytest.raises(ValueError, match=r"Tensor of shape \(3, 4, 4, 4\); allowed is a MetaTensor"):
        InvertLabels()(image)
