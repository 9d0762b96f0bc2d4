# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which planes are taken, how they are turned, and their grey values and volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from cakes_monai.plots import Plane, take_planes


def volume(shape: tuple[int, int, int], *boxes: tuple[slice, slice, slice]) -> np.ndarray:
    """Label map with the label n in the n-th box."""
    labels = np.zeros(shape, np.uint8)
    for label, box in enumerate(boxes, 1):
        labels[box] = label
    return labels


def plane(planes: tuple[Plane, ...], view: str) -> Plane:
    """The plane of a view."""
    return next(p for p in planes if p.view == view)


def test_pictures_are_turned_as_radiologists_look_at_them() -> None:
    """In RAS order the voxel furthest right, anterior and superior lies where the letters R, A and S stand."""
    labels = volume((4, 5, 6), (slice(3, 4), slice(4, 5), slice(5, 6)))
    planes = take_planes(labels.astype(float), labels, (1, 1, 1), ["corner"]).planes
    for view, (top, left), letters in (
        ("axial", (0, 0), "RLAP"),  # right at the left, anterior at the top
        ("coronal", (0, 0), "RLSI"),  # right at the left, superior at the top
        ("sagittal", (0, 0), "APSI"),  # anterior at the left, superior at the top
    ):
        drawn = plane(planes, view)
        assert drawn.letters == letters
        assert drawn.labels[top, left] == 1
        assert drawn.labels.sum() == 1
    assert [p.labels.shape for p in planes] == [(5, 4), (6, 4), (6, 5)]


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL"])
def test_picture_does_not_depend_on_the_order_of_the_axes(codes: str) -> None:
    """However a file stores its axes, the three planes show the same pixels with the same size."""
    rng = np.random.default_rng(0)
    affine = torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0]))
    image = MetaTensor(torch.from_numpy(rng.normal(size=(1, 7, 8, 9))), affine=affine)
    labels = MetaTensor(
        torch.from_numpy(volume((7, 8, 9), np.s_[1:3, 2:6, 3:8], np.s_[3:5, 2:6, 3:8]))[None], affine=affine
    )
    turn = Orientation(codes, labels=(("L", "R"), ("P", "A"), ("I", "S")))
    expected = take_planes(image[0], labels[0], None, ["a", "b"])
    found = take_planes(turn(image)[0], turn(labels)[0], None, ["a", "b"])
    assert found.volumes == pytest.approx(expected.volumes)
    for one, other in zip(found.planes, expected.planes, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.image, other.image)
        assert one.spacing == pytest.approx(other.spacing)
        assert one.place == other.place
    assert plane(expected.planes, "coronal").spacing == (5.0, 1.0)


def test_spacing_follows_the_axes_when_it_is_given() -> None:
    """A spacing given for the stored axes is turned with them: the axis that is S keeps its 5 mm."""
    affine = torch.tensor([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])  # axes S, R, A
    image = MetaTensor(torch.zeros(9, 7, 8), affine=affine)
    planes = take_planes(image, np.ones((9, 7, 8), int), (5.0, 1.0, 2.0), ["all"])
    assert plane(planes.planes, "sagittal").spacing == (5.0, 2.0)
    assert plane(planes.planes, "sagittal").extent == (45.0, 16.0)
    assert planes.volumes == pytest.approx((9 * 7 * 8 * 10 / 1000,))


def test_volume_of_an_oblique_scan_is_voxels_times_determinant() -> None:
    """24 voxels of 2 x 3 x 0.5 mm turned by 30 degrees are 72 mm3."""
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2, -3, 0.5])
    image = MetaTensor(torch.zeros(6, 6, 6), affine=torch.from_numpy(affine))
    assert take_planes(image, volume((6, 6, 6), np.s_[1:3, 1:4, 1:5]), None, ["box"]).volumes == pytest.approx((0.072,))


def test_planes_go_through_the_largest_cross_section() -> None:
    """Of a thin rod with one thick slab the slab's plane is taken, of an even rod the middle one."""
    labels = volume((20, 20, 20), np.s_[9:10, 9:10, 2:18])
    labels[5:14, 5:14, 6] = 1
    assert plane(take_planes(labels, labels, (1, 1, 1), ["rod"]).planes, "axial").place == (6, 20)
    even = volume((20, 20, 20), np.s_[9:10, 9:10, 2:17])
    assert plane(take_planes(even, even, (1, 1, 1), ["rod"]).planes, "axial").place == (9, 20)


def test_small_structure_is_not_outvoted_by_a_large_one() -> None:
    """The plane that shows all of two structures wins over the plane with more voxels of the larger one."""
    labels = volume((30, 30, 10), np.s_[0:28, 0:28, 2:5], np.s_[28:30, 28:30, 7:8])
    labels[0:27, 0:27, 7] = 1
    assert plane(take_planes(labels, labels, (1, 1, 1), ["large", "small"]).planes, "axial").place == (7, 10)


def test_soft_tissue_next_to_a_structure_is_told_apart_in_ct() -> None:
    """Air at -1000 and bone at 1500 do not take the grey values from fat at -100 and an organ at 50."""
    image = np.full((40, 40, 40), -1000.0)
    image[5:35, 5:35, 5:35] = -100
    image[30:34, 5:35, 5:35] = 1500
    labels = volume((40, 40, 40), np.s_[12:24, 12:24, 12:24])
    image[labels > 0] = 50
    axial = plane(take_planes(image, labels, (1, 1, 1), ["organ"]).planes, "axial").image.T[::-1, ::-1]
    assert int(axial[15, 15]) - int(axial[8, 8]) > 30
    assert axial[0, 0] == 0
    assert axial[32, 20] == 255
