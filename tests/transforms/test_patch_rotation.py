# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Rotations of cubic and of flat patches."""

from __future__ import annotations

from collections import Counter

import torch

from cakes_monai.transforms import patch_rotations


def test_flat_patches_keep_their_shape() -> None:
    """A patch of 8x8x4 is rotated in its first plane only, one of three different sides not at all."""
    transform = patch_rotations(["image"], (8, 8, 4), prob=1.0)
    transform.set_random_state(seed=0)
    patch = torch.arange(256.0).reshape(1, 8, 8, 4)
    turned = {tuple(transform({"image": patch.clone()})["image"][0, 0, 0].tolist()) for _ in range(20)}
    assert turned == {tuple(torch.rot90(patch, k, (1, 2))[0, 0, 0].tolist()) for k in (1, 2, 3)}
    assert not patch_rotations("image", (8, 6, 4)).transforms


def test_each_angle_is_as_likely() -> None:
    """With the papers' probability each of 0, 90, 180 and 270 degrees in a plane comes in about a quarter of draws."""
    transform = patch_rotations("image", (2, 2, 3))
    transform.set_random_state(seed=0)
    patch = torch.arange(12.0).reshape(1, 2, 2, 3)
    counts = Counter(int(transform({"image": patch.clone()})["image"][0, 0, 0, 0]) for _ in range(400))
    assert len(counts) == 4
    assert all(70 < count < 130 for count in counts.values())


def test_image_and_label_turn_together() -> None:
    """A cube is rotated in all planes, and its label is with it."""
    transform = patch_rotations(["image", "label"], (4, 4, 4), prob=1.0)
    transform.set_random_state(seed=0)
    patch = torch.rand(1, 4, 4, 4)
    for _ in range(10):
        turned = transform({"image": patch.clone(), "label": patch.clone()})
        assert torch.equal(turned["image"], turned["label"])
    assert len(transform.transforms) == 3
