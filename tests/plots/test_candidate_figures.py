# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The histogram of the fine stage shows the scores of its candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cakes_monai.plots import draw_candidate_scores, save_figure


def test_histogram_median_and_best(tmp_path: Path) -> None:
    """Every candidate is in one bar, between the smallest and the largest score; two lines say median and best."""
    scores = np.linspace(0.5, 0.9, 101)
    figure = draw_candidate_scores(scores, "mean Dice", "fine stage")
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 101  # type: ignore[attr-defined]
    places = [(line.get_label(), float(np.mean(line.get_xdata()))) for line in axes.lines]  # type: ignore[arg-type]
    assert places == [("median  0.7000", pytest.approx(0.7)), ("best  0.9000", pytest.approx(0.9))]
    assert axes.get_xlabel() == "mean Dice"
    assert axes.get_ylabel() == "candidates (of 101)"
    save_figure(figure, tmp_path / "candidates.png")
    save_figure(draw_candidate_scores([0.5]), tmp_path / "one.png")


@pytest.mark.parametrize("scores", [[], [0.5, float("nan")], [[0.5]]])
def test_what_cannot_be_drawn_is_refused(scores: list[float]) -> None:
    """No scores, one that is no number, and a table."""
    with pytest.raises(ValueError, match="there must be at least one, and all finite"):
        draw_candidate_scores(scores)
