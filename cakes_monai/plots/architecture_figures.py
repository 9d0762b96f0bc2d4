# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of kernel searches: sub-kernels by layer, gates, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cakes_monai.architecture import SUB_KERNELS, Architecture, sub_kernel_set
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.search import split_summary

__all__ = ["TradeOff", "draw_gates", "draw_splits", "draw_trade_off"]

# One hue for each dimension, told apart by all kinds of colour vision; the axes of a dimension are its shades.
COLORS = dict(
    zip(SUB_KERNELS, ("#0072B2", "#D55E00", "#EE9A4D", "#F7D4B0", "#00735C", "#4DB89B", "#B3E2D5"), strict=True)
)
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"


@dataclass(frozen=True)
class TradeOff:
    """
    A network in the figure of accuracy against cost.

    Args:
        name: what is written beside it.
        cost: its cost, in the unit of the axis.
        accuracy: its accuracy (the mean of several trainings).
        spread: standard deviation of the accuracy; None draws none.
        series: networks of one series have one colour and marker.
    """

    name: str
    cost: float
    accuracy: float
    spread: float | None = None
    series: str = ""


def draw_splits(architecture: Architecture | BackboneArchitecture, title: str = "") -> Figure:
    """
    Draw the share of every sub-kernel in every replaced convolution (CAKES, figures 4 and 5).

    Args:
        architecture: an architecture with "cakes" cells.
        title: heading of the figure.

    Raises:
        ValueError: when the architecture has no "cakes" cell.
    """
    summary = split_summary(architecture)
    figure, axes = _figure((10, 4.6), title)
    splits = list(summary.layers.values())
    bottom = np.zeros(len(splits))
    for name in SUB_KERNELS:
        shares = np.array([split.as_dict().get(name, 0) / split.out_channels for split in splits])
        if shares.any():
            total = sum(split.as_dict().get(name, 0) for split in splits)
            label = f"{name}  {total}"
            axes.bar(
                range(len(splits)), shares, 0.86, bottom, color=COLORS[name], label=label, edgecolor="white", lw=0.6
            )
        bottom += shares
    axes.set_xticks(range(len(splits)), _layer_labels(summary.layers), fontsize=9 if len(splits) < 20 else 7)
    for place, split in enumerate(splits):
        axes.text(place, 1.015, str(split.out_channels), ha="center", fontsize=8, color="0.4")
    axes.set(
        xlabel="cell (a, b: its inputs)" if isinstance(architecture, Architecture) else architecture.backbone,
        ylabel="share of the output channels",
        ylim=(0, 1),
        xlim=(-0.6, len(splits) - 0.4),
    )
    axes.text(-0.6, 1.015, "C ", ha="right", fontsize=8, color="0.4")
    counts = [f"{name} {count}" for name, count in {**summary.dimensions, **summary.axes}.items()]
    legend_title = "channels\n" + ", ".join(counts[:3]) + "\nalong " + ", ".join(counts[3:])
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, title=legend_title, fontsize=10, reverse=True
    )
    legend.get_title().set_fontsize(9)
    return figure


def draw_gates(gates: Mapping[str, ArrayLike], sub_kernels: str | Iterable[str], title: str = "") -> Figure:
    """
    Draw how the gates of every sub-kernel are distributed, and those that are the largest of their channel.

    Args:
        gates: for each layer the gate magnitudes ``(sub-kernels, C)``.
        sub_kernels: the candidates that the rows stand for, in the canonical order.
        title: heading of the figure.
    """
    names = sub_kernel_set(sub_kernels)
    values = np.concatenate([np.abs(np.asarray(layer, dtype=float)) for layer in gates.values()], axis=1)
    largest = values.argmax(0)
    edges = np.linspace(0, max(float(values.max()), 1e-12), 41).tolist()
    figure, _ = _figure((8, 1.0 + 0.85 * len(names)), title, axes=False)
    rows: list[Axes] = np.atleast_1d(figure.subplots(len(names), 1, sharex=True, sharey=True)).tolist()
    for row, (axes, name) in enumerate(zip(rows, names, strict=True)):
        axes.hist(values[row], edges, color="0.82", label="all")
        axes.hist(values[row, largest == row], edges, color=COLORS[name], label="largest of its channel")
        axes.spines[["top", "right"]].set_visible(False)
        text = f"{name}\n{int((largest == row).sum())} of {values.shape[1]} channels"
        axes.text(1.01, 0.5, text, transform=axes.transAxes, va="center", fontsize=9)
        axes.tick_params(labelsize=8)
    rows[-1].set_xlabel("gate |alpha|  (grey: all paths, colour: the largest of their channel)")
    figure.supylabel("paths", fontsize=10)
    return figure


def draw_trade_off(networks: Sequence[TradeOff], cost: str, accuracy: str, title: str = "") -> Figure:
    """
    Draw accuracy against cost (CAKES, figure 1).

    Args:
        networks: the networks.
        cost: name and unit of the horizontal axis.
        accuracy: name and unit of the vertical axis.
        title: heading of the figure.

    Raises:
        ValueError: when there are no networks.
    """
    if not networks:
        raise ValueError("no networks to draw.")
    figure, axes = _figure((7.5, 5), title)
    series = list(dict.fromkeys(network.series for network in networks))
    for number, name in enumerate(series):
        members = [network for network in networks if network.series == name]
        style: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}
        x, y = [m.cost for m in members], [m.accuracy for m in members]
        axes.errorbar(x, y, [m.spread or 0 for m in members], ls="", ms=8, lw=1, capsize=3, label=name, **style)
        for member in members:
            place = (member.cost, member.accuracy)
            axes.annotate(member.name, place, (7, 5), textcoords="offset points", fontsize=9, color=style["color"])
    axes.set(xlabel=cost, ylabel=accuracy)
    axes.margins(x=0.12, y=0.12)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if any(series):
        axes.legend(frameon=False, loc="lower right")
    return figure


def _figure(size: tuple[float, float], title: str, axes: bool = True) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    if not axes:
        return figure, None
    only = figure.subplots()
    only.spines[["top", "right"]].set_visible(False)
    return figure, only


def _layer_labels(layers: Iterable[str]) -> list[str]:
    """Of C2FNAS the number of the cell, with a letter for the input where a cell has two; else what differs."""
    names = list(layers)
    parts = [name.split(".") for name in names]  # cells.<cell>.operations.<input>
    if parts[0][0] != "cells":
        return [name.removeprefix("layer").removesuffix(".conv2") for name in names]
    cells = [cell for _, cell, _, _ in parts]
    return [cell + "ab"[int(branch)] if cells.count(cell) > 1 else cell for _, cell, _, branch in parts]
