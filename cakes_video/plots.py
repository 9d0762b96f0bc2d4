# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The picture of which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["draw_confusion"]

FEW = 30  # classes whose cells are large enough for numbers
LONGEST = 80  # letters of a class name; longer ones are cut


def draw_confusion(confusion: NDArray[np.int64], names: Sequence[str], title: str = "") -> Figure:
    """
    Draw a confusion matrix, every row in percent of its class.

    Up to 30 classes have the numbers in their cells; more only have colours, for which the picture grows so that every
    name can be read. A class without videos has a grey row.

    Args:
        confusion: number of videos by true class (row) and predicted class (column).
        names: of the classes.
        title: heading.

    Raises:
        ValueError: when names and matrix do not go together.
    """
    if confusion.shape != (len(names), len(names)):
        raise ValueError(f"names: {len(names)} do not fit a confusion matrix of shape {confusion.shape}.")
    few = len(names) <= FEW
    cell, size = (0.48, 11.0) if few else (0.145, 7.0)  # inches, points
    counts = confusion.sum(axis=1)
    columns = [_short(name) for name in names]
    rows = [f"{name}  ({count})" for name, count in zip(columns, counts, strict=True)]
    figure, axes, scale = _page(max(cell * len(names), 3.5), max(map(len, rows)) * size * 0.6 / 72 + 0.6)
    percent = np.ma.masked_invalid(100 * confusion / np.where(counts > 0, counts, np.nan)[:, None])
    colors = mpl.colormaps["Blues"].with_extremes(bad="#CCCCCC")
    image = axes.imshow(percent, cmap=colors, vmin=0, vmax=100, aspect="equal", interpolation="nearest")
    axes.set_yticks(range(len(names)), rows, fontsize=size)
    axes.set_xticks(range(len(names)), columns, fontsize=size, rotation=90)
    axes.set(xlabel="predicted", ylabel="true class (videos)")
    borders = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(borders, minor=True)
    axes.set_yticks(borders, minor=True)
    axes.tick_params(which="both", length=0)
    axes.grid(which="minor", color="#EEEEEE", linewidth=0.5)
    if few:
        _write_numbers(axes, percent)
    figure.colorbar(image, cax=scale, label="% of the true class")
    figure.text(0.1 / figure.get_figwidth(), 1 - 0.1 / figure.get_figheight(), title, va="top", fontsize=12)
    return figure


def _page(side: float, margin: float) -> tuple[Figure, Axes, Axes]:
    """Square axes of ``side`` inches, ``margin`` left of and below them for the names, and axes for the scale."""
    width, height = margin + side + 1.0, margin + side + 0.5
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    boxes = [(margin, side), (margin + side + 0.15, 0.15)]  # left and width
    axes, scale = (figure.add_axes((x / width, margin / height, w / width, side / height)) for x, w in boxes)
    return figure, axes, scale


def _write_numbers(axes: Axes, percent: np.ma.MaskedArray) -> None:
    for (row, column), value in np.ndenumerate(percent.filled(0)):
        if round(value) > 0:
            color = "white" if value > 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=9)


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # no formula
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
