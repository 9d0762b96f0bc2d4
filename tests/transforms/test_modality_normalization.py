# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""CT by its window, MR by its own voxels, channel by channel."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from cakes_monai.transforms import NormalizeModality, NormalizeModalityd


def test_a_window_of_ct() -> None:
    """-175 HU become 0, 250 HU become 1, 37.5 HU in the middle 0.5; what is outside is cut off."""
    image = torch.tensor([-1000.0, -175.0, 37.5, 250.0, 2000.0]).reshape(1, 5, 1, 1)
    assert NormalizeModality(["CT"])(image).flatten().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert NormalizeModality(["ct"], (0, 1000))(image).flatten().tolist() == pytest.approx(
        [0.0, 0.0, 0.0375, 0.25, 1.0]
    )


def test_voxels_of_mr() -> None:
    """1 and 3 have mean 2 and deviation 1: they become -1 and 1; zeros around them count for nothing and stay."""
    image = torch.tensor([0.0, 0.0, 1.0, 3.0]).reshape(1, 4, 1, 1)
    assert NormalizeModality(["MRI"])(image).flatten().tolist() == [0.0, 0.0, -1.0, 1.0]


def test_each_channel_by_itself() -> None:
    """The result of a channel depends on no other one, whatever their modalities."""
    image = torch.stack([torch.rand(4, 5, 6) * 400, torch.rand(4, 5, 6) + 7, torch.zeros(4, 5, 6)])
    together = NormalizeModality(["CT", "T2", "ADC"])(image)
    for number, modality in enumerate(["CT", "T2", "ADC"]):
        alone = NormalizeModality([modality])(image[number : number + 1])
        torch.testing.assert_close(together[number], alone[0])
    assert together[1].mean().item() == pytest.approx(0, abs=1e-5)
    assert together[1].std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def test_the_image_itself_is_left_alone() -> None:
    """A copy is returned that keeps the geometry and what was done to the image before."""
    image = MetaTensor(torch.rand(1, 4, 4, 4) * 100, affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
    image.applied_operations = [{"class": "Orientation"}]
    before = image.clone()
    result = NormalizeModalityd("image", ["CT"])({"image": image, "other": 1})
    assert torch.equal(image, before)
    assert torch.equal(result["image"].affine, image.affine)
    assert result["image"].applied_operations == image.applied_operations
    assert result["other"] == 1


def test_bad_windows_and_channels() -> None:
    """A window without width, and an image of other channels."""
    with pytest.raises(ValueError, match=r"hu_window: \[250, -175\]; allowed: a lower and a higher number"):
        NormalizeModality(["CT"], (250, -175))
    with pytest.raises(ValueError, match="image has 2 channels; allowed: 4"):
        NormalizeModality(["FLAIR", "T1w", "t1gd", "T2w"])(torch.ones(2, 3, 3, 3))
