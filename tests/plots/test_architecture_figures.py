# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures show the numbers they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from cakes_monai.architecture import SUB_KERNELS, Architecture
from cakes_monai.plots import TradeOff, draw_gates, draw_splits, draw_trade_off, save_figure
from cakes_monai.plots.architecture_figures import COLORS
from cakes_monai.search import split_summary


def bars(axes: Axes, name: str) -> list[float]:
    """Heights of the bars in the colour of a sub-kernel, from left to right."""
    patches = [p for container in axes.containers for p in container if p.get_facecolor() == to_rgba(COLORS[name])]
    return [patch.get_height() for patch in sorted(patches, key=lambda patch: patch.get_x())]


def test_bars_are_the_shares_of_the_splits(tmp_path: Path) -> None:
    """One stack for each layer that reaches 1, in the shares of the split; the legend has the totals."""
    architecture = Architecture.published("cakes-manual-123d")
    figure = draw_splits(architecture, "manual")
    (axes,) = figure.axes
    splits = split_summary(architecture).layers.values()
    heights = np.array([bars(axes, name) for name in SUB_KERNELS])
    assert heights.shape == (7, 17)
    np.testing.assert_allclose(heights[0], [split.as_dict()["3x3x3"] / split.out_channels for split in splits])
    np.testing.assert_allclose(heights.sum(0), 1)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[:4] == ["0", "1a", "1b", "2"]
    legend = axes.get_legend()
    assert "1D 1083, 2D 1083, 3D 394" in legend.get_title().get_text()
    assert "3x3x3  394" in [text.get_text() for text in legend.get_texts()]
    save_figure(figure, tmp_path / "splits.png")
    save_figure(figure, tmp_path / "splits.svg")
    assert (tmp_path / "splits.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no 'cakes' cell"):
        draw_splits(Architecture.published("c2fnas-2d"))


def test_histograms_count_every_gate(tmp_path: Path) -> None:
    """Grey bars hold all gates of a sub-kernel, coloured ones those that are the largest of their channel."""
    random = np.random.default_rng(0)
    gates = {"a": random.random((3, 8)), "b": random.random((3, 16))}
    figure = draw_gates(gates, "1d", "gates")
    values = np.concatenate(list(gates.values()), axis=1)
    for row, axes in enumerate(figure.axes):
        every, largest = (sum(patch.get_height() for patch in container) for container in axes.containers)
        assert every == 24
        assert largest == (values.argmax(0) == row).sum()
    save_figure(figure, tmp_path / "gates.png")
    save_figure(draw_gates({"a": np.zeros((1, 4))}, "3d"), tmp_path / "zeros.png")


def test_trade_off_places_and_names_every_network(tmp_path: Path) -> None:
    """Every network is a point at its cost and accuracy with its name beside it; series are in the legend."""
    networks = [
        TradeOff("2D", 97.77, 61.09, 0.5, "baseline"),
        TradeOff("3D", 188.48, 63.96, None, "baseline"),
        TradeOff("C 1,2,3D", 87.16, 64.15, 0.2, "CAKES"),
    ]
    figure = draw_trade_off(networks, "GFLOPs", "Dice (%)")
    (axes,) = figure.axes
    places = [(text.get_text(), *text.xy) for text in axes.texts]
    assert places == [(n.name, n.cost, n.accuracy) for n in networks]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["baseline", "CAKES"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("GFLOPs", "Dice (%)")
    save_figure(figure, tmp_path / "trade.png")
    with pytest.raises(ValueError, match="no networks to draw"):
        draw_trade_off([], "GFLOPs", "Dice")
