# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""To a spacing or to a size, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cakes_monai.transforms import volume_resampling

PIXDIM = (1.0, 1.0, 1.0)
SPACING = torch.diag(torch.tensor([0.5, 0.5, 2.0, 1.0]))


def volume(shape: tuple[int, ...], affine: torch.Tensor = SPACING) -> MetaTensor:
    """A ramp along the first axis."""
    ramp = torch.arange(shape[0], dtype=torch.float32)[:, None, None].expand(shape)
    return MetaTensor(ramp[None].clone(), affine=affine)


@pytest.mark.parametrize("spatial_size", [None, []])
def test_to_a_spacing(spatial_size: Any) -> None:
    """20 voxels of 0.5 mm become 10 of 1 mm, 5 of 2 mm become 9: from the first to the last centre it is 8 mm."""
    transform = volume_resampling("image", PIXDIM, spatial_size)
    image = transform({"image": volume((20, 20, 5))})["image"]
    assert image.shape == (1, 10, 10, 9)
    np.testing.assert_allclose(image.pixdim, PIXDIM)


def test_to_a_size_and_back() -> None:
    """Whatever the spacing, the size is the one that is given; inverted the volume has its own size and place."""
    transform = volume_resampling(["image", "label"], PIXDIM, (24, 24, 24), ["bilinear", "nearest"])
    image = volume((12, 10, 6))
    data = transform({"image": image, "label": (image > 5).float()})
    assert data["image"].shape == data["label"].shape == (1, 24, 24, 24)
    back: Any = transform
    inverted = back.inverse(data)["image"]
    assert inverted.shape == image.shape
    np.testing.assert_allclose(inverted.affine, image.affine, atol=1e-6)
    assert (inverted - image)[:, 1:-1].abs().max() < 0.01, "a ramp survives linear interpolation"


def test_labels_lie_where_the_image_does() -> None:
    """A label is 1 exactly where the ramp it was cut from is above the cut: no shift of half a voxel."""
    transform = volume_resampling(["image", "label"], PIXDIM, (36, 10, 6), ["bilinear", "nearest"])
    image = volume((12, 10, 6))
    data = transform({"image": image, "label": (image > 5.5).float()})
    assert torch.equal(data["label"] == 1, data["image"] > 5.5)


def test_other_modes() -> None:
    """Modes that only one of both transforms knows are refused."""
    with pytest.raises(ValueError, match="mode: area; allowed: bilinear and nearest"):
        volume_resampling("image", PIXDIM, mode="area")
