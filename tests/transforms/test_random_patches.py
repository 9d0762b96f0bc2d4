# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Patches at random places."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cakes_monai.transforms import random_patches


def volume() -> dict[str, torch.Tensor]:
    """Eight labelled voxels of 32768; the image says where a voxel is."""
    label = torch.zeros(1, 32, 32, 32)
    label[:, 15:17, 15:17, 15:17] = 1
    return {"image": torch.arange(32.0**3).reshape(label.shape), "label": label}


def patches(probability: float) -> list[dict[str, Any]]:
    """Two hundred patches of 4 voxels."""
    crop = random_patches(["image", "label"], [4, 4, 4], 200, foreground_prob=probability)
    crop.set_random_state(0)
    return crop(volume())


def test_places_that_do_not_depend_on_the_label() -> None:
    """Corners of patches are spread over the whole volume, and image and label are cropped at the same place."""
    corners = torch.stack([patch["image"][0, 0, 0, 0] for patch in patches(0)]).long()
    for axis in (corners // 1024, corners // 32 % 32, corners % 32):
        assert axis.min() < 3
        assert axis.max() > 25
    assert sum(bool(patch["label"].any()) for patch in patches(0)) < 20
    for patch in patches(0.5):
        places = patch["image"].long()
        expected = volume()["label"].ravel()[places.ravel()].reshape(places.shape)
        assert torch.equal(torch.as_tensor(patch["label"]), torch.as_tensor(expected))


def test_a_share_around_labelled_voxels() -> None:
    """With 1 every patch has a label, with 0.5 about half have."""
    assert all(bool(patch["label"].any()) for patch in patches(1))
    assert 70 < sum(bool(patch["label"].any()) for patch in patches(0.5)) < 130


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_no_share(probability: float) -> None:
    """What is no probability is refused."""
    with pytest.raises(ValueError, match=rf"foreground_prob is {probability}, allowed are 0 to 1"):
        random_patches("image", [4, 4, 4], 2, foreground_prob=probability)
