# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Contours, frames, colours and legend of pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from monai.data import MetaTensor
from monai.transforms import LoadImage
from PIL import Image

from cakes_monai.plots import draw_contours, draw_planes, save_figure, take_planes
from cakes_monai.plots.contours import PALETTE, _color, _frames

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")


def volume(shape: tuple[int, int, int], box: tuple[slice, slice, slice]) -> np.ndarray:
    """Label map with the label 1 in a box."""
    labels = np.zeros(shape, np.uint8)
    labels[box] = 1
    return labels


def test_empty_segmentation_says_so_in_the_picture() -> None:
    """Without foreground the central planes are drawn, with a remark that nothing was segmented."""
    labels = np.zeros((8, 10, 13), int)
    planes = take_planes(np.random.default_rng(0).normal(size=labels.shape), labels, (1, 1, 1), ["tumour"])
    assert [p.place for p in planes.planes] == [(6, 13), (5, 10), (4, 8)]
    texts = [t.get_text() for t in draw_planes(planes, ["tumour"]).texts]
    assert any("nothing segmented" in t for t in texts)
    labels[4, 5, 6] = 1
    assert not any(
        "nothing segmented" in t.get_text() for t in draw_contours(labels, labels, (1, 1, 1), ["tumour"]).texts
    )


def test_reference_alone_places_the_planes_and_is_dashed() -> None:
    """A missed structure is looked for where the reference has it; its contour is dashed, nothing is filled."""
    reference = volume((20, 20, 20), np.s_[2:6, 10:14, 15:19])
    figure = draw_contours(reference, np.zeros_like(reference), (1, 1, 1), ["lesion"], reference=reference)
    axial, *_ = take_planes(reference, reference * 0, (1, 1, 1), ["lesion"], reference).planes
    assert axial.place[0] == 17
    for axes in figure.axes:
        (contour,) = axes.collections
        assert contour.get_linestyle()[0][1] is not None
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["lesion  0 ml (reference 0.064)", "reference"]


def test_contour_runs_along_the_borders_of_voxels() -> None:
    """The outline of 3 x 2 voxels of 2 x 4 mm spans exactly 6 x 8 mm, at the place of the voxels."""
    labels = volume((10, 10, 10), np.s_[2:5, 4:6, :])
    figure = draw_contours(labels, labels, (2, 4, 1), ["box"])
    axial = figure.axes[0]
    vertices = np.concatenate([path.vertices for path in axial.collections[0].get_paths()])
    # Columns run from R (index 9) to L: indices 4..2 are columns 5..7; rows from A: indices 5..4 are rows 4..5.
    np.testing.assert_allclose(vertices.min(0), (5 * 2, 4 * 4))
    np.testing.assert_allclose(vertices.max(0), (8 * 2, 6 * 4))


def test_aspect_is_physical() -> None:
    """A voxel three times as high as wide is drawn so: the axes' box has the proportions in mm."""
    figure = draw_contours(np.eye(10)[None].repeat(10, 0), np.ones((10, 10, 10), int), (1, 1, 3), ["all"])
    figure.canvas.draw()
    for axes, ratio in zip(figure.axes, (1, 3, 3), strict=True):
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(("size", "rows"), [(6, 2), (40, 1)])
def test_only_small_structures_are_enlarged(size: int, rows: int) -> None:
    """A second row of one scale for all planes appears when the structure is much smaller than the scan."""
    labels = volume((60, 60, 60), (slice(10, 10 + size),) * 3)
    figure = draw_contours(np.arange(60.0)[:, None, None] + labels, labels, (1, 1, 1), ["box"])
    assert len(figure.axes) == 3 * rows
    if rows == 2:
        frames = _frames(take_planes(labels, labels, (1, 1, 1), ["box"]).planes)
        assert [frame[2] for frame in frames if frame] == pytest.approx([1.3 * size] * 3)
        left, right = figure.axes[3].get_xlim()
        assert right - left == pytest.approx(1.3 * size)
        assert (left + right) / 2 == pytest.approx(60 - (10 + size / 2))  # columns run from R to L


def test_colors_differ_for_all_structures_and_the_reference() -> None:
    """Fourteen structures and their references have 28 colors, the first seven those of the palette."""
    solid, dashed = ([_color(i, reference) for i in range(14)] for reference in (False, True))
    assert len({*solid, *dashed}) == 28
    assert solid[:7] == [matplotlib.colors.to_hex(to_rgb(c)) for c in PALETTE]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.zeros((4, 4, 5), int), r"labels: shape \(4, 4, 5\), the image has \(4, 4, 4\)"),
        (np.full((4, 4, 4), 3), "labels: values from 3 to 3; 2 names allow whole numbers from 0 to 2"),
        (np.full((4, 4, 4), 0.5), "labels: values from 0.5 to 0.5; 2 names"),
        (np.full((4, 4, 4), -1), "labels: values from -1 to -1; 2 names"),
        (
            MetaTensor(torch.zeros(4, 4, 4), affine=torch.diag(torch.tensor([2.0, 2, 2, 1]))),
            "affine is not the image's",
        ),
    ],
)
def test_what_does_not_fit_is_refused(labels: np.ndarray, match: str) -> None:
    """Shape, values and affine of a label map must be those of the image and the names."""
    with pytest.raises(ValueError, match=match):
        draw_contours(MetaTensor(torch.zeros(4, 4, 4)), labels, None, ["a", "b"])


def test_picture_replaces_an_older_one_only_when_it_is_complete(tmp_path: Path) -> None:
    """A picture of 1200 pixels is written to a new folder; a failing write leaves the old one and nothing else."""
    labels = volume((8, 8, 8), np.s_[2:4, 2:4, 2:4])
    figure = draw_contours(labels, labels, (1, 1, 1), ["box"], title="case")
    save_figure(figure, tmp_path / "sub" / "case_seg.png")
    with Image.open(tmp_path / "sub" / "case_seg.png") as picture:
        assert picture.width == 1200
    old = (tmp_path / "sub" / "case_seg.png").read_bytes()
    figure.axes[0].set_title(r"$\frac{$")  # mathematics that cannot be drawn
    with pytest.raises(ValueError, match="Expected"):
        save_figure(figure, tmp_path / "sub" / "case_seg.png")
    assert (tmp_path / "sub" / "case_seg.png").read_bytes() == old
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["case_seg.png"]


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    """No figure is registered with pyplot and no default is changed, so a user's notebook is not disturbed."""
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    draw_contours(np.zeros((4, 4, 4)), np.ones((4, 4, 4), int), (1, 1, 1), ["all"])
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_hippocampus_is_drawn_whole_and_named(hippocampus: Path) -> None:
    """A real case with its label: both parts are in the legend with their volume, voxels of 1 mm3 in ml."""
    load = LoadImage(image_only=True)
    image = load(hippocampus / "imagesTr" / "hippocampus_001.nii.gz")
    labels = load(hippocampus / "labelsTr" / "hippocampus_001.nii.gz")
    figure = draw_contours(image, labels, None, ["anterior", "posterior"])
    expected = [f"{n}  {int((labels == i).sum()) / 1000:.4g} ml" for i, n in ((1, "anterior"), (2, "posterior"))]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == expected
    assert len(figure.axes) == 3


def test_pancreas_of_a_whole_abdomen_is_enlarged(data_root: Path) -> None:
    """The pancreas (label 7) of a 366 x 303 x 336 mm CT is much smaller than the scan and gets the second row."""
    load = LoadImage(image_only=True)
    image = load(data_root / "ct" / "totalsegmentator" / "example_ct.nii.gz")
    labels = load(data_root / "ct" / "totalsegmentator" / "example_seg.nii.gz") == 7
    figure = draw_contours(image, labels, None, ["pancreas"])
    assert len(figure.axes) == 6
    assert figure.legends[0].get_texts()[0].get_text() == f"pancreas  {int(labels.sum()) * 27 / 1000:.4g} ml"
