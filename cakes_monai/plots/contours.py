# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Contours of segmented structures on three orthogonal planes, turned as radiologists look at them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from cakes_monai.atomic_file import written_whole
from cakes_monai.plots.planes import Plane, Planes, Spacing, Volume, take_planes

__all__ = ["draw_contours", "draw_planes", "save_figure"]

# Okabe and Ito's palette for all kinds of colour vision, without black; further structures take paler tones of it.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
BACKGROUND, TEXT, FAINT, WARNING = "#101418", "#E8EAED", "#9AA3AD", "#F0E442"
OUTLINED = withStroke(linewidth=3, foreground="black")
WIDTH, DPI = 12.0, 100  # inches, pixels per inch

Frame: TypeAlias = tuple[float, float, float] | None


def draw_contours(
    image: Volume,
    labels: Volume,
    spacing: Spacing,
    names: Sequence[str],
    title: str | None = None,
    reference: Volume | None = None,
) -> Figure:
    """
    Draw the axial, coronal and sagittal plane on which most of the structures is seen.

    Where the structures are much smaller than the planes, a second row shows their surroundings enlarged. The range of
    grey values follows the structures and what lies around them, so that soft tissue is seen in CT.

    Args:
        image: grey values, ``(D0, D1, D2)``; a ``MetaTensor`` is turned by its affine, other arrays must lie in RAS.
        labels: label map in the image's geometry, 0 is background.
        spacing: mm between voxels along the image's axes; None takes them from the affine of a ``MetaTensor``.
        names: name of label 1, of label 2 and so on.
        title: heading of the picture.
        reference: label map of the ground truth, its contours are dashed.

    Raises:
        ValueError: when shapes, affines, labels or names do not go together.
    """
    return draw_planes(take_planes(image, labels, spacing, names, reference), names, title)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` in the format of the suffix of ``path``; an older file is replaced only by a complete one."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def draw_planes(planes: Planes, names: Sequence[str], title: str | None = None) -> Figure:
    """Draw what :func:`~cakes_monai.plots.take_planes` took; ``names`` and ``title`` as in :func:`draw_contours`."""
    frames, legend = _frames(planes.planes), _legend(planes, names)
    longest = max((len(str(entry.get_label())) for entry in legend), default=0)
    columns = max(1, min(4, int(1230 / (8.8 * longest + 80))))  # pixels of a letter at size 12, of patch and gap
    ratios = [min(max(p.extent[0] / p.extent[1] for p in planes.planes), 1.2), 1.0][: 2 if frames[0] else 1]
    top, bottom = 0.85, 0.2 + 0.25 * -(-len(legend) // columns)  # inches
    height = top + bottom + sum(ratios) * WIDTH / 3
    figure = Figure(figsize=(WIDTH, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(ratios), 3, height_ratios=ratios, wspace=0.03, hspace=0.03)
    grid.update(left=0.01, right=0.99, top=1 - top / height, bottom=bottom / height)
    for row, column in np.ndindex(len(ratios), 3):
        _draw_plane(figure.add_subplot(grid[row, column]), planes.planes[column], frames[column], enlarged=row == 1)
    figure.text(0.01, 1 - 0.12 / height, title or "", color=TEXT, fontsize=16, va="top")
    note = "" if any(p.foreground.any() for p in planes.planes) else "nothing segmented: planes through the centre"
    figure.text(0.99, 1 - 0.16 / height, note, color=WARNING, fontsize=13, va="top", ha="right")
    figure.legend(handles=legend, loc="lower left", ncols=columns, frameon=False, labelcolor=TEXT, fontsize=12)
    return figure


def _frames(planes: Sequence[Plane]) -> list[Frame]:
    """Left, top and side in mm of a square around the structures in every plane; None where enlarging gains little."""
    if not all(p.foreground.any() for p in planes):
        return [None] * len(planes)
    ends = [[np.flatnonzero(p.foreground.any(axis))[[0, -1]] + (0, 1) for axis in (0, 1)] for p in planes]
    boxes = np.array(ends) * np.array([p.spacing[::-1] for p in planes])[:, :, None]  # (plane, x or y, first or last)
    side = 1.3 * float(np.ptp(boxes, axis=2).max())
    worth = side <= 0.5 * min(max(p.extent) for p in planes)
    return [(left, top, side) if worth else None for left, top in (boxes.mean(2) - side / 2).tolist()]


def _draw_plane(axes: Axes, plane: Plane, frame: Frame, enlarged: bool) -> None:
    height, width = plane.extent
    axes.imshow(plane.image, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation="bilinear")
    _outline(axes, plane.labels, plane.spacing, dashed=False)
    if plane.reference is not None:
        _outline(axes, plane.reference, plane.spacing, dashed=True)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", anchor="N", facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if frame is not None and enlarged:
        axes.set(xlim=(frame[0], frame[0] + frame[2]), ylim=(frame[1] + frame[2], frame[1]))
    elif frame is not None:
        axes.add_patch(Rectangle(frame[:2], frame[2], frame[2], fill=False, edgecolor=FAINT))
    if not enlarged:
        size = "" if frame is None else f", frame {frame[2]:.0f} mm"
        axes.set_title(f"{plane.view} {plane.place[0] + 1}/{plane.place[1]}{size}", color=FAINT, fontsize=12)
    beside = 0.5 if enlarged or height > 0.15 * width else 0.55  # no room under the upper letter in a flat plane
    for letter, x, y in zip(plane.letters, (0, 1, 0.5, beside), (0.5, 0.5, 1, 0), strict=True):
        text = axes.annotate(letter, (x, y), (12 - 24 * x, 12 - 24 * y), "axes fraction", "offset points")
        text.set(color=TEXT, fontsize=13, ha="center", va="center", path_effects=[OUTLINED])


def _outline(axes: Axes, labels: NDArray[Any], spacing: tuple[float, float], dashed: bool) -> None:
    """Trace the borders of pixels: a contour through their centres would show small structures too small."""
    for label in np.unique(labels[labels > 0]):
        rows, columns = (np.flatnonzero((labels == label).any(axis)) for axis in (1, 0))
        box = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == label
        mask = np.pad(box, 1).repeat(4, 0).repeat(4, 1)
        starts, color = (rows[0], columns[0]), _color(int(label) - 1, dashed)
        y, x = (((np.arange(mask.shape[i]) + 0.5) / 4 + starts[i] - 1) * spacing[i] for i in (0, 1))
        axes.contour(x, y, mask, levels=[0.5], colors=[color], linewidths=1.5, linestyles="--" if dashed else "-")
        if not dashed:
            axes.contourf(x, y, mask, levels=[0.5, 1.5], colors=[color], alpha=0.25)


def _color(index: int, dashed: bool = False) -> str:
    """Color of a structure, paler in every further round through the palette and for the reference."""
    full = 0.6 ** (index // len(PALETTE)) * (0.4 if dashed else 1)
    red, green, blue = to_rgb(PALETTE[index % len(PALETTE)])
    return to_hex((1 - full * (1 - red), 1 - full * (1 - green), 1 - full * (1 - blue)))


def _legend(planes: Planes, names: Sequence[str]) -> list[Patch | Line2D]:
    texts = [f"{name}  {volume:.4g} ml" for name, volume in zip(names, planes.volumes, strict=True)]
    texts = [f"{t} (reference {v:.4g})" for t, v in zip(texts, planes.reference_volumes or (), strict=False)] or texts
    dashed = [Line2D([], [], color=TEXT, linestyle="dashed", label="reference")] if planes.reference_volumes else []
    return [*(Patch(color=_color(i), label=text) for i, text in enumerate(texts)), *dashed]
