# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracies and confusions one can compute by hand, and their picture."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from cakes_video.confusion import (
    average_views,
    class_accuracies,
    class_rows,
    clip_rows,
    confusion_matrix,
    confusion_rows,
    label_ranks,
    mean_class_accuracy,
    mean_views,
    ranked_classes,
    top_classes,
    topk_accuracy,
)
from cakes_video.plots import draw_confusion

# Class 0: two of three right, the third taken for 2; class 1: none; class 2: one of two right; class 3: taken for 0.
LABELS, PREDICTED = np.array([0, 0, 0, 2, 2, 3]), np.array([0, 2, 0, 2, 0, 0])
NAMES = ["wave", "jump", "run", "sit"]


def test_views_are_averaged_by_probability_or_logit() -> None:
    """Probabilities average to (0.2 + 0.6) / 2 = 0.4; logits to the geometric mean of the odds, sqrt(1/4 * 3/2)."""
    logits = np.log([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    np.testing.assert_allclose(mean_views(logits, [0, 2]), [[0.4, 0.6], [0.5, 0.5]])
    odds = np.sqrt(0.2 / 0.8 * 0.6 / 0.4)
    expected = [[odds / (1 + odds), 1 / (1 + odds)], [0.5, 0.5]]
    np.testing.assert_allclose(mean_views(logits, [0, 2], "logit"), expected)
    with pytest.raises(ValueError, match=r"^views: 'max'; allowed are 'probability', 'logit'\.$"):
        mean_views(logits, [0, 2], "max")


def test_large_logits_do_not_overflow() -> None:
    """The softmax depends on differences only: logits of a diverging network give numbers, not NaN."""
    np.testing.assert_allclose(mean_views(np.array([[1e30, 1e30], [5e4, 5e4 - np.log(3)]]), [0, 1])[:, 0], [0.5, 0.75])


def test_of_equal_scores_the_lower_class_is_first() -> None:
    """A network that cannot tell classes apart always predicts class 0, and ranks, top-1 and top-2 say the same."""
    scores, labels = np.full((4, 4), 0.25), np.array([0, 1, 2, 3])
    assert ranked_classes(scores).tolist() == [[0, 1, 2, 3]] * 4
    assert label_ranks(scores, labels).tolist() == [1, 2, 3, 4]
    assert [topk_accuracy(scores, labels, k) for k in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1, 1]
    assert label_ranks(np.array([[0.2, 0.4, 0.4]]), np.array([2])).tolist() == [2]
    assert top_classes(np.array([0.2, 0.4, 0.4]), NAMES[:3], 2) == [("jump", 0.4), ("run", 0.4)]


def test_confusion_and_mean_class_accuracy() -> None:
    """The mean is over the three classes with videos, (2/3 + 1/2 + 0) / 3, not over four, nor over videos (3/6)."""
    confusion = confusion_matrix(LABELS, PREDICTED, 4)
    assert confusion.tolist() == [[2, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(class_accuracies(confusion), [2 / 3, np.nan, 1 / 2, 0])
    assert mean_class_accuracy(confusion) == pytest.approx(7 / 18)
    assert confusion_rows(confusion, NAMES)[2] == {"true class": "run", "wave": 1, "jump": 0, "run": 1, "sit": 0}
    rows = [list(row.values()) for row in class_rows(confusion, NAMES)]
    assert rows == [
        ["wave", 3, 2, "0.666667", "run", 1],
        ["jump", 0, 0, "", "", ""],
        ["run", 2, 1, "0.5", "wave", 1],
        ["sit", 1, 0, "0", "wave", 1],
    ]


def test_top1_is_the_trace_of_the_confusion() -> None:
    """Top-1 accuracy, the trace of the confusion matrix, and the classes' accuracies by their videos are one number."""
    generator = np.random.default_rng(0)
    scores, labels = generator.random((200, 7)), generator.integers(0, 7, 200)
    confusion = confusion_matrix(labels, ranked_classes(scores)[:, 0], 7)
    assert topk_accuracy(scores, labels, 1) == pytest.approx(np.trace(confusion) / 200)
    assert np.sum(class_accuracies(confusion) * np.bincount(labels)) == pytest.approx(np.trace(confusion))


def test_a_repeated_view_counts_once() -> None:
    """Of views in any order, one of them twice, the videos are sorted by name and each view has the same weight."""
    views = [("b", 0, 0), ("a", 1, 0), ("a", 0, 0), ("a", 1, 0)]
    records = [{"name": v[0], "view": list(v), "video": v[0], "label": 1} for v in views]
    logits = np.log([[0.3, 0.7], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]])
    found = average_views(records, logits)
    assert [record["name"] for record in found.records] == ["a", "b"]
    assert found.views == (2, 1)
    np.testing.assert_allclose(found.probabilities, [[0.5, 0.5], [0.3, 0.7]])
    rows = clip_rows(found, ["no", "yes"], 5)
    assert rows[0] == {
        **{"name": "a", "video": "a", "views": 2, "label": "yes", "predicted": "no", "correct": 0, "probability": 0.5},
        **{"rank": 2, "class 1": "no", "probability 1": 0.5, "class 2": "yes", "probability 2": 0.5},
    }


def test_two_videos_of_one_name_are_refused() -> None:
    """They would be averaged as if they were views of one."""
    records = [{"name": "a", "view": ["a", i, 0], "video": f"{i}/a.mp4"} for i in range(2)]
    with pytest.raises(ValueError, match=r"^a: has video 0/a.mp4 and 1/a.mp4; every video needs a name of its own\.$"):
        average_views(records, np.zeros((2, 2)))


def test_few_classes_have_numbers_in_percent_of_their_row() -> None:
    """Two of three videos of class 0 are 67 %; a class without videos is masked, and every row tells its videos."""
    figure = draw_confusion(confusion_matrix(LABELS, PREDICTED, 4), NAMES, "title")
    axes = figure.axes[0]
    numbers = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "67", (0, 2): "33", (2, 0): "50", (2, 2): "50", (3, 0): "100"}
    assert np.ma.getmaskarray(axes.images[0].get_array())[:, 0].tolist() == [False, True, False, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["wave  (3)", "jump  (0)", "run  (2)", "sit  (1)"]
    with pytest.raises(ValueError, match=r"^names: 3 do not fit a confusion matrix of shape \(4, 4\)\.$"):
        draw_confusion(np.eye(4, dtype=np.int64), NAMES[:3])


def test_many_classes_keep_names_that_can_be_read() -> None:
    """With 174 long names there are no numbers, no name covers its neighbour, and none leaves the page."""
    names = [f"Pretending to put something behind something {i} $x$" for i in range(174)]
    axes = draw_confusion(np.eye(174, dtype=np.int64), names).axes[0]
    assert not axes.texts
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))
    assert min(box.height for box in boxes) >= 8
    assert min(box.x0 for box in boxes) >= 0
    assert min(label.get_window_extent().y0 for label in axes.get_xticklabels()) >= 0


def test_numbers_need_no_torch() -> None:
    """Importing the numbers loads neither torch nor MONAI."""
    code = "import sys, cakes_video.confusion; sys.exit(any(m in sys.modules for m in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
