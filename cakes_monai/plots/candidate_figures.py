# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Figure of the fine stage: how the scores of its candidates are spread."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cakes_monai.plots.architecture_figures import SERIES, _figure

__all__ = ["draw_candidate_scores"]


def draw_candidate_scores(scores: ArrayLike, score: str = "score", title: str = "") -> Figure:
    """
    Draw the histogram of the scores, with the median and the best.

    Args:
        scores: the score of each candidate.
        score: name and unit of the score.
        title: heading of the figure.

    Raises:
        ValueError: when there are no scores, or one is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores of shape {values.shape}, there must be at least one, and all finite.")
    figure, axes = _figure((7, 4.2), title)
    axes.hist(values, bins=min(40, max(5, round(len(values) ** 0.5))), color=SERIES[5], edgecolor="white", lw=0.5)
    for name, value, color in (("median", np.median(values), "0.4"), ("best", values.max(), SERIES[1])):
        axes.axvline(float(value), color=color, lw=1.6, label=f"{name}  {value:.4f}")
    axes.set(xlabel=score, ylabel=f"candidates (of {len(values)})")
    axes.legend(frameon=False, loc="upper left")
    return figure
