# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws topology.svg: the twelve cells of C2FNAS-Panc at their levels, with all their inputs."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from cakes_monai.architecture import Architecture

ARCHITECTURE = Architecture.published("c2fnas-panc")
LEVELS = ARCHITECTURE.topology.levels
COLORS = {"2d": "#E69F00", "3d": "#56B4E9", "p3d": "#009E73"}
NAMES = {"2d": "2D: 3x3x1", "3d": "3D: 3x3x3", "p3d": "P3D: 3x3x1, then 1x1x3"}
SKIP = "#D55E00"


def draw_box(axes: Axes, cell: int, level: int, text: str, color: str) -> None:
    """Draw a cell, the stem (cell -1) or the end."""
    box = FancyBboxPatch((cell - 0.22, -level - 0.2), 0.44, 0.4, boxstyle="round,pad=0.08", fc=color, ec="#333333")
    axes.add_patch(box)
    axes.text(cell, -level, text, ha="center", va="center", fontsize=10)


def draw_arrow(axes: Axes, source: tuple[int, int], target: tuple[int, int], second: bool) -> None:
    """Draw an input from one place (cell, level) to another; second inputs are bent and dashed."""
    axes.add_patch(
        FancyArrowPatch(
            (source[0], -source[1]),
            (target[0], -target[1]),
            connectionstyle=f"arc3,rad={-0.7 / (target[0] - source[0]):.2f}" if second else "arc3",
            arrowstyle="-|>",
            mutation_scale=11,
            shrinkA=19,
            shrinkB=19,
            linestyle="--" if second else "-",
            color=SKIP if second else "#333333",
            zorder=0,
        )
    )


def draw() -> Figure:
    """Draw cells, inputs, the names of the levels and the legend."""
    figure = Figure(figsize=(10.5, 4.0), facecolor="white")
    axes = figure.add_axes((0.01, 0.08, 0.98, 0.9))
    places = {-1: (-1, 0), **{cell: (cell, level) for cell, level in enumerate(LEVELS)}}
    for cell, inputs in enumerate(ARCHITECTURE.topology.inputs):
        for number, source in enumerate(inputs):
            draw_arrow(axes, places[source], places[cell], second=number == 1)
        draw_box(axes, cell, LEVELS[cell], str(cell), COLORS[ARCHITECTURE.cells[cell].operation])
    draw_arrow(axes, places[len(LEVELS) - 1], (len(LEVELS), 0), second=False)
    draw_box(axes, -1, 0, "stem", "#DDDDDD")
    draw_box(axes, len(LEVELS), 0, "end", "#DDDDDD")
    for level in range(max(LEVELS) + 1):
        text = f"level {level}\n1/{2 ** (level + 1)} resolution\n{32 * 2 ** (level + 1)} channels"
        axes.text(-1.6, -level, text, ha="right", va="center", fontsize=9, color="#595959")
    handles = [Patch(fc=color, ec="#333333", label=NAMES[operation]) for operation, color in COLORS.items()]
    handles.append(Line2D([], [], color="#333333", label="input from the cell before"))
    handles.append(Line2D([], [], color=SKIP, linestyle="--", label="second input"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    axes.set(xlim=(-3.2, len(LEVELS) + 0.5), ylim=(-max(LEVELS) - 0.4, 0.7), aspect="equal")
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    with mpl.rc_context({"svg.hashsalt": "cakes-monai"}):
        draw().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
