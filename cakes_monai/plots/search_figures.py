# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of searches by trials: clusters, the topology found, and how well a super-network ranks candidates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from numpy.typing import ArrayLike

from cakes_monai.architecture import OPERATIONS, SUB_KERNELS, Architecture, Cell
from cakes_monai.plots.architecture_figures import COLORS, SERIES, _figure
from cakes_monai.search.operation_sampling import rank_correlation
from cakes_monai.search.trial import Trial

__all__ = ["draw_clusters", "draw_rank_correlation", "draw_topology"]

CLUSTER_COLORS = (*SERIES, "#F0E442", "#999999")
# 3D and 2D as the sub-kernels of that dimension.
OPERATION_COLORS = dict(zip(OPERATIONS, ("#D55E00", "#0072B2", "#009E73", "0.6"), strict=True))
EDGES: dict[str, dict[str, Any]] = {
    "previous cell": {"color": "0.2", "lw": 1.3},
    "cell before the previous one": {"color": "#CC79A7", "lw": 1.3},
    "skip from the encoder": {"color": "0.45", "lw": 1.3, "ls": (0, (4, 2))},
}
SMALL: dict[str, Any] = {"fontsize": 8, "color": "0.4"}
WIDTH, HEIGHT = 0.6, 0.46  # of a cell; neighbours are 1 apart


def draw_clusters(trials: Iterable[Trial], score: str = "score", title: str = "") -> Figure:
    """
    Draw the share of every cluster in the networks evaluated so far (C2FNAS, figure 4), and their scores.

    Args:
        trials: trials of a topology search; those that have not ended are left out, failed ones count as evaluated.
        score: name and unit of the score.
        title: heading of the figure.

    Raises:
        ValueError: when no trial has ended, or one has no cluster.
    """
    ended = sorted((trial for trial in trials if trial.ended is not None), key=lambda trial: trial.ended or 0)
    if not ended:
        raise ValueError("no trial has ended, there is nothing to draw.")
    if (stray := next((t.index for t in ended if t.proposal.cluster is None), None)) is not None:
        raise ValueError(f"trial {stray} has no cluster.")
    figure, _ = _figure((9, 6.5), title, axes=False)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    _draw_shares(upper, [trial.proposal.cluster or 0 for trial in ended])
    _draw_scores(lower, ended)
    lower.set(xlabel="networks evaluated", ylabel=score, xlim=(0.5, len(ended) + 0.5))
    return figure


def draw_topology(architecture: Architecture, title: str = "") -> Figure:
    """
    Draw the cells on their levels, what they read and what they do (C2FNAS, figure 5).

    A "cakes" cell shows the shares of its sub-kernels, with two inputs those of the first at the left.

    Args:
        architecture: the architecture.
        title: heading of the figure.
    """
    levels = architecture.topology.levels
    figure, axes = _figure((1.6 + 0.82 * (len(levels) + 2), 2.0 + 0.95 * max(levels)), title)
    for index, sources in enumerate(architecture.topology.inputs):
        _draw_edges(axes, levels, index, sources)
    _draw_edge(axes, (len(levels) - 1, 0), (len(levels), 0), "previous cell")
    for place, name in ((-1, "stem"), (len(levels), "end")):
        axes.add_patch(Rectangle((place - WIDTH / 2, -HEIGHT / 2), WIDTH, HEIGHT, fc="0.93", ec="0.5"))
        axes.text(place, 0, name, ha="center", va="center", fontsize=9)
    for index, (cell, level) in enumerate(zip(architecture.cells, levels, strict=True)):
        _draw_cell(axes, index, -level, cell)
        side = 1 if level < (0, *levels)[index] else -1  # away from the line that comes from below
        align = "right" if side == 1 else "left"
        axes.text(index + side * WIDTH / 2, -level - HEIGHT / 2 - 0.02, str(index), ha=align, va="top", **SMALL)
    names = [f"level {level}\n1/{2 ** (level + 1)}" for level in range(max(levels) + 1)]
    axes.set_yticks([-level for level in range(max(levels) + 1)], names, fontsize=9)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-1.5, len(levels) + 0.5), ylim=(-max(levels) - 0.55, 0.85), aspect="equal")
    figure.legend(
        handles=_topology_legend(axes, architecture), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def draw_rank_correlation(
    estimated: ArrayLike,
    trained: ArrayLike,
    names: Sequence[str] = (),
    labels: tuple[str, str] = ("score with the weights of the super-network", "score trained from scratch"),
    title: str = "",
) -> Figure:
    """
    Draw two scores of the same networks against each other, with the correlation of their ranks.

    Args:
        estimated: a score of each network.
        trained: another score of each, in the same order.
        names: what is written beside each; nothing when there are none.
        labels: names and units of the axes.
        title: heading of the figure.

    Raises:
        ValueError: as :func:`~cakes_monai.search.rank_correlation`, or for a wrong number of names.
    """
    correlation = rank_correlation(estimated, trained)
    x, y = np.asarray(estimated, dtype=np.float64).tolist(), np.asarray(trained, dtype=np.float64).tolist()
    if names and len(names) != len(x):
        raise ValueError(f"{len(names)} names for {len(x)} networks, there must be as many or none.")
    figure, axes = _figure((6.5, 5.5), title)
    axes.scatter(x, y, 40, color=SERIES[0], zorder=2)
    for name, *place in zip(names, x, y, strict=False):
        axes.annotate(name, place, (6, 4), textcoords="offset points", fontsize=9)
    text = (
        f"Kendall's tau {correlation.kendall:.2f}, Spearman's rho {correlation.spearman:.2f}, N = {correlation.count}"
    )
    axes.set_title(text, fontsize=10, loc="left")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.margins(0.12)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    return figure


def _draw_shares(axes: Axes, clusters: Sequence[int]) -> None:
    """One stack of bars for each number of networks, from the first ``1`` to all."""
    numbers = np.arange(1, len(clusters) + 1)
    bottom = np.zeros(len(clusters))
    for cluster in range(max(clusters) + 1):
        counts = np.cumsum(np.array(clusters) == cluster)
        if counts[-1]:
            label = f"cluster {cluster}:  {counts[-1]}"
            axes.bar(numbers, counts / numbers, 1.0, bottom, color=_color(cluster), label=label, snap=True, lw=0)
        bottom += counts / numbers
    axes.set(ylabel="share of the cluster", ylim=(0, 1))
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, reverse=True, title="networks", fontsize=10
    )


def _draw_scores(axes: Axes, ended: Sequence[Trial]) -> None:
    scored = [(place, trial, trial.score) for place, trial in enumerate(ended, 1) if trial.score is not None]
    for place, trial, score in scored:
        color = _color(trial.proposal.cluster or 0)
        face = color if trial.proposal.reason in ("initial", "best") else "white"
        axes.plot(place, score, "o", ms=6, mec=color, mfc=face, mew=1.6, zorder=2)
    best = np.maximum.accumulate([score for *_, score in scored]).tolist()
    axes.step([place for place, *_ in scored], best, where="post", color="0.5", lw=1, zorder=1)
    failed = [place for place, trial in enumerate(ended, 1) if trial.score is None]
    axes.plot(failed, [0.04] * len(failed), "x", color="0.3", transform=axes.get_xaxis_transform())
    handles = [
        Line2D([], [], ls="", marker="o", mec="0.3", mfc="0.3", label="initial or best"),
        Line2D([], [], ls="", marker="o", mec="0.3", mfc="white", mew=1.6, label="random cluster"),
        Line2D([], [], color="0.5", lw=1, label="best so far"),
    ]
    handles += [Line2D([], [], ls="", marker="x", color="0.3", label="failed")] * bool(failed)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, fontsize=10)


def _color(cluster: int) -> str:
    return CLUSTER_COLORS[cluster % len(CLUSTER_COLORS)]


def _draw_edges(axes: Axes, levels: Sequence[int], cell: int, sources: Sequence[int]) -> None:
    """Lines from the cells that a cell reads; -1 is the stem."""
    heights = [-level for level in (*levels, 0)]  # index -1 is the stem's
    previous, *second = sources
    _draw_edge(axes, (previous, heights[previous]), (cell, heights[cell]), "previous cell")
    for source in second:
        up = heights[cell] > heights[previous]
        kind = "skip from the encoder" if up else "cell before the previous one"
        _draw_edge(axes, (source, heights[source]), (cell, heights[cell]), kind)


def _draw_edge(axes: Axes, start: tuple[int, int], end: tuple[int, int], kind: str) -> None:
    bent = kind == "cell before the previous one"
    if bent:  # over the cell between
        ends = [(start[0] + 0.12, start[1] + HEIGHT / 2), (end[0] - 0.12, end[1] + HEIGHT / 2)]
    elif start[1] == end[1]:
        ends = [(start[0] + WIDTH / 2, start[1]), (end[0] - WIDTH / 2, end[1])]
    else:
        side = HEIGHT / 2 if end[1] > start[1] else -HEIGHT / 2
        ends = [(start[0], start[1] + side), (end[0], end[1] - side)]
    style = f"arc3,rad={-0.32 if bent else 0}"
    arrow = FancyArrowPatch(
        *ends,
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=0,
        shrinkB=0,
        connectionstyle=style,
        label=kind,
        **EDGES[kind],
    )
    axes.add_patch(arrow)


def _draw_cell(axes: Axes, index: int, height: float, cell: Cell) -> None:
    left, bottom = index - WIDTH / 2, height - HEIGHT / 2
    columns = max(len(cell.kernels), 1)
    for number, split in enumerate(cell.kernels):
        start = bottom
        for name, count in split.as_dict().items():
            share = count / split.out_channels * HEIGHT
            place = (left + number * WIDTH / columns, start)
            axes.add_patch(Rectangle(place, WIDTH / columns, share, fc=COLORS[name], ec="white", lw=0.4, label=name))
            start += share
    fill = "none" if cell.kernels else OPERATION_COLORS[cell.operation]
    axes.add_patch(Rectangle((left, bottom), WIDTH, HEIGHT, fc=fill, ec="0.2", label=f"cell {index}"))
    if not cell.kernels:
        axes.text(index, height, cell.operation.upper(), ha="center", va="center", color="white", fontsize=10)


def _topology_legend(axes: Axes, architecture: Architecture) -> list[Any]:
    operations = {cell.operation for cell in architecture.cells} - {"cakes"}
    kernels = {name for cell in architecture.cells for split in cell.kernels for name in split.as_dict()}
    used = {name.upper(): OPERATION_COLORS[name] for name in OPERATIONS if name in operations}
    used |= {name: COLORS[name] for name in SUB_KERNELS if name in kernels}
    drawn = {patch.get_label() for patch in axes.patches}
    return [Line2D([], [], label=name, **style) for name, style in EDGES.items() if name in drawn] + [
        Patch(color=color, label=name) for name, color in used.items()
    ]
