# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of searches show the numbers they are made of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch, Rectangle

from cakes_monai.architecture import Architecture, Cell, KernelSplit, Topology
from cakes_monai.plots import save_figure
from cakes_monai.plots.architecture_figures import COLORS
from cakes_monai.plots.search_figures import (
    CLUSTER_COLORS,
    EDGES,
    HEIGHT,
    OPERATION_COLORS,
    draw_clusters,
    draw_rank_correlation,
    draw_topology,
)
from cakes_monai.search.trial import Proposal, Trial


def trials(*ends: tuple[int, float | None, str]) -> list[Trial]:
    """Trials that ended in reverse order with a cluster, a score and a reason, and one that runs."""
    made = []
    for index, (cluster, score, reason) in enumerate(ends):
        trial, ended = Trial(Proposal(index, (0, index, 0), reason, cluster)), len(ends) - 1 - index
        made.append(trial.failed("lost", ended) if score is None else trial.finished(score, ended))
    return [*made, Trial(Proposal(len(ends), (1, 0, 0), "best", 1)).started()]


def edges(axes: Axes) -> Counter[str]:
    """Number of lines of each kind."""
    return Counter(str(patch.get_label()) for patch in axes.patches if isinstance(patch, FancyArrowPatch))


def test_shares_are_those_of_the_networks_evaluated(tmp_path: Path) -> None:
    """At every number of networks, in the order in which they ended, the stack has the cluster's share of them."""
    ended = trials((2, 0.9, "explore"), (0, None, "initial"), (0, 0.5, "best"), (2, 0.7, "initial"))
    figure = draw_clusters(ended, "Dice", "coarse stage")
    upper, lower = figure.axes
    heights = {container.get_label(): [bar.get_height() for bar in container] for container in upper.containers}
    assert heights.keys() == {"cluster 0:  2", "cluster 2:  2"}  # cluster 1 has only one that runs
    np.testing.assert_allclose(heights["cluster 2:  2"], [1, 1 / 2, 1 / 3, 2 / 4])
    np.testing.assert_allclose(np.sum(list(heights.values()), axis=0), 1)
    points = [line for line in lower.lines if line.get_marker() == "o"]
    places = [(float(p.get_xdata()[0]), float(p.get_ydata()[0])) for p in points]  # type: ignore[index, arg-type]
    assert places == [(1, 0.7), (2, 0.5), (4, 0.9)]
    assert [to_rgba(point.get_markerfacecolor()) for point in points] == [
        to_rgba(color) for color in (CLUSTER_COLORS[2], CLUSTER_COLORS[0], "white")
    ]
    (best,) = [line for line in lower.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(best.get_xydata(), [(1, 0.7), (2, 0.7), (4, 0.9)])
    (failed,) = [line for line in lower.lines if line.get_marker() == "x"]
    assert list(failed.get_xdata()) == [3]  # type: ignore[arg-type]
    assert lower.get_ylabel() == "Dice"
    save_figure(figure, tmp_path / "clusters.png")
    save_figure(draw_clusters(trials((0, None, "initial"))), tmp_path / "failed.png")
    with pytest.raises(ValueError, match="no trial has ended"):
        draw_clusters(trials())
    with pytest.raises(ValueError, match="trial 0 has no cluster"):
        draw_clusters([Trial(Proposal(0, 0.5, "listed")).finished(1, 0)])


def test_c2fnas_panc_is_figure_5(tmp_path: Path) -> None:
    """Twelve cells on their levels in the colours of their operations, with the 17 inputs of figure 5 and the end."""
    architecture = Architecture.published("c2fnas-panc")
    figure = draw_topology(architecture, "C2FNAS-Panc")
    (axes,) = figure.axes
    assert edges(axes) == {"previous cell": 13, "cell before the previous one": 2, "skip from the encoder": 3}
    boxes = [
        patch for patch in axes.patches if str(patch.get_label()).startswith("cell ") and isinstance(patch, Rectangle)
    ]
    assert [round(-box.get_y() - HEIGHT / 2) for box in boxes] == list(architecture.topology.levels)
    assert [box.get_x() for box in boxes] == sorted(box.get_x() for box in boxes)
    colors = [to_rgba(OPERATION_COLORS[cell.operation]) for cell in architecture.cells]
    assert [box.get_facecolor() for box in boxes] == colors
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if text in ("2D", "3D", "P3D")] == [c.operation.upper() for c in architecture.cells]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*EDGES, "2D", "3D", "P3D"]
    save_figure(figure, tmp_path / "panc.png")


def test_cakes_cells_show_their_shares(tmp_path: Path) -> None:
    """Both inputs of a cell have their own column, as high as the shares of their sub-kernels."""
    first, second = KernelSplit((("3x3x3", 4), ("1x1x3", 12))), KernelSplit((("1x3x3", 16),))
    cells = (Cell("3d"), Cell("2d"), Cell("cakes", (first, second)))
    architecture = Architecture(Topology((0, 1, 0)), cells)
    figure = draw_topology(architecture)
    (axes,) = figure.axes
    assert edges(axes) == {"previous cell": 4, "skip from the encoder": 1}
    bars = {
        name: [(p.get_x(), p.get_height()) for p in axes.patches if isinstance(p, Rectangle) and p.get_label() == name]
        for name in ("3x3x3", "1x1x3", "1x3x3")
    }
    heights = [height for places in bars.values() for _, height in places]
    np.testing.assert_allclose(heights, [HEIGHT / 4, 3 * HEIGHT / 4, HEIGHT])
    assert bars["3x3x3"][0][0] == bars["1x1x3"][0][0] < bars["1x3x3"][0][0]
    colors = {p.get_facecolor() for p in axes.patches if p.get_label() in bars}
    assert colors == {to_rgba(COLORS[name]) for name in bars}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["previous cell", "skip from the encoder", "2D", "3D", "3x3x3", "1x3x3", "1x1x3"]
    save_figure(figure, tmp_path / "cakes.png")
    save_figure(draw_topology(Architecture(Topology((0,)), (Cell("3d"),))), tmp_path / "one.png")


def test_rank_correlation_is_written_over_its_points(tmp_path: Path) -> None:
    """Every network is a point with its name, and the heading has tau and rho of the points."""
    figure = draw_rank_correlation([0.1, 0.2, 0.3, 0.4], [10, 30, 20, 40], list("abcd"), title="fine stage")
    (axes,) = figure.axes
    assert [tuple(place) for place in axes.collections[0].get_offsets()] == [(0.1, 10), (0.2, 30), (0.3, 20), (0.4, 40)]
    assert [text.get_text() for text in axes.texts] == list("abcd")
    assert axes.get_title(loc="left") == "Kendall's tau 0.67, Spearman's rho 0.80, N = 4"
    save_figure(figure, tmp_path / "rank.png")
    with pytest.raises(ValueError, match="2 names for 4 networks"):
        draw_rank_correlation([1, 2, 3, 4], [1, 2, 3, 4], ["a", "b"])
    with pytest.raises(ValueError, match="they give no order"):
        draw_rank_correlation([1, 1], [1, 2])
