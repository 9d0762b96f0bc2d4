# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws sub_kernels.svg: the seven sub-kernels of a 3x3x3 kernel and an even split of 64 channels over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cakes_monai.architecture import SUB_KERNELS, KernelSplit, kernel_size

CHANNELS = 64
COLORS = dict(
    zip(SUB_KERNELS, ("#595959", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"), strict=True)
)


def draw_kernel(axes: Any, name: str) -> None:
    """Draw the taps of a sub-kernel inside the 27 places of the full kernel; D points up."""
    taps = np.zeros((3, 3, 3), bool)  # W, H, D
    taps[tuple(slice((3 - size) // 2, (3 + size) // 2) for size in reversed(kernel_size(name)))] = True
    axes.voxels(np.ones((3, 3, 3), bool), facecolors=(0, 0, 0, 0), edgecolors=(0, 0, 0, 0.08), linewidth=0.5)
    axes.voxels(taps, facecolors=COLORS[name], edgecolors="white", linewidth=0.6)
    axes.set(box_aspect=(1, 1, 1), xticks=[], yticks=[], zticks=[])
    axes.set_axis_off()
    axes.view_init(elev=22, azim=-55)
    axes.set_title(f"{name}\n{taps.sum()} taps", fontsize=11, y=0.92)
    for letter, place in (("W", (1.5, -0.6, -0.4)), ("H", (3.7, 1.5, -0.4)), ("D", (-0.6, 0, 1.5))):
        axes.text(*place, letter, fontsize=8, color="#595959", ha="center", va="center")


def draw_split(axes: Axes) -> None:
    """Draw the output channels of one convolution, each with the color of its sub-kernel."""
    start = 0
    for name, count in KernelSplit.even(SUB_KERNELS, CHANNELS).counts:
        for channel in range(start, start + count):
            axes.barh(0, 0.9, left=channel, height=1, color=COLORS[name])
        axes.text(start + count / 2, -0.95, f"{count} x {name}", fontsize=9, ha="center", va="center")
        start += count
    axes.set(xlim=(-0.5, CHANNELS + 0.5), ylim=(-1.5, 0.6))
    axes.set_title(f"{CHANNELS} output channels of one convolution, divided evenly", fontsize=11, loc="left")
    axes.set_axis_off()


def draw() -> Figure:
    """Draw both rows."""
    figure = Figure(figsize=(10, 3.1), facecolor="white")
    grid = figure.add_gridspec(2, len(SUB_KERNELS), height_ratios=[3, 1], hspace=0.25, wspace=0)
    grid.update(left=0.01, right=0.99, top=0.9, bottom=0.02)
    for column, name in enumerate(SUB_KERNELS):
        draw_kernel(figure.add_subplot(grid[0, column], projection="3d"), name)
    draw_split(figure.add_subplot(grid[1, :]))
    return figure


if __name__ == "__main__":
    with mpl.rc_context({"svg.hashsalt": "cakes-monai"}):
        draw().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
