# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of a recognition: class probabilities of videos, accuracies, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AVERAGES",
    "Recognitions",
    "average_views",
    "class_accuracies",
    "class_rows",
    "clip_rows",
    "confusion_matrix",
    "confusion_rows",
    "label_ranks",
    "mean_class_accuracy",
    "mean_views",
    "ranked_classes",
    "top_classes",
    "top_columns",
    "topk_accuracy",
]

AVERAGES = ("probability", "logit")

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Recognitions:
    """
    What a network recognised in videos.

    Args:
        records: of every video its name, its file or folder (video), where there is one its label, and others.
        views: number of views of every video.
        probabilities: averages over the views, ``(videos, classes)``.
    """

    records: tuple[Mapping[str, Any], ...]
    views: tuple[int, ...]
    probabilities: Floats

    @property
    def labels(self) -> Integers:
        """True classes."""
        return np.array([record["label"] for record in self.records], np.int64)

    @property
    def confusion(self) -> Integers:
        """:func:`confusion_matrix` of the most likely classes."""
        return confusion_matrix(self.labels, ranked_classes(self.probabilities)[:, 0], self.probabilities.shape[1])


def average_views(records: Sequence[Mapping[str, Any]], logits: Floats, average: str = "probability") -> Recognitions:
    """
    Average the views of every video; a view that is there twice counts once, as where it is first.

    Args:
        records: of every view the name of its video, view (a list: name, clip, crop), and what belongs to the video.
        logits: ``(views, classes)``
        average: as for :func:`mean_views`.

    Returns:
        Videos sorted by name.

    Raises:
        ValueError: when two videos have the same name, which it gives.
    """
    first = {tuple(record["view"]): row for row, record in reversed(list(enumerate(records)))}
    rows = [first[view] for view in sorted(first)]
    names = [records[row]["name"] for row in rows]
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    counts = [end - start for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]
    videos = {names[i]: records[rows[i]] for i in starts}
    for record in records:
        _check_same(videos[record["name"]], record)
    return Recognitions(tuple(videos.values()), tuple(counts), mean_views(logits[rows], starts, average))


def mean_views(logits: Floats, starts: Sequence[int], average: str = "probability") -> Floats:
    """
    Class probabilities of videos, averaged over their views.

    Args:
        logits: of all views, those of one video next to each other.
        starts: row of the first view of every video.
        average: "probability" averages the views' softmax, "logit" their logits, of which it then takes the softmax.

    Shapes:
        - logits: ``(views, classes)``
        - output: ``(videos, classes)``, rows of sum 1

    Example:
        >>> mean_views(np.log([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]), [0, 2])
        array([[0.4, 0.6],
               [0.5, 0.5]])
    """
    if average not in AVERAGES:
        raise ValueError(f"views: {average!r}; allowed are {', '.join(map(repr, AVERAGES))}.")
    values = _softmax(logits) if average == "probability" else logits
    counts = np.diff([*starts, len(logits)])
    means = np.add.reduceat(values, list(starts), axis=0) / counts[:, None]
    return means if average == "probability" else _softmax(means)


def ranked_classes(scores: Floats) -> Integers:
    """Classes of every video, the most likely first, of equal ones the one with the lower index first."""
    return np.argsort(-scores, axis=1, kind="stable")


def label_ranks(scores: Floats, labels: Integers) -> Integers:
    """Place of the true class in :func:`ranked_classes`, 1 is the first: (videos,)."""
    return (ranked_classes(scores) == labels[:, None]).argmax(axis=1) + 1


def topk_accuracy(scores: Floats, labels: Integers, k: int) -> float:
    """Share of the videos whose true class is among the first ``k``; 1 when there are not more than ``k`` classes."""
    return float(np.mean(label_ranks(scores, labels) <= k))


def confusion_matrix(labels: Integers, predicted: Integers, num_classes: int) -> Integers:
    """Number of videos of every true class (row) that were taken for every class (column)."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def class_accuracies(confusion: Integers) -> Floats:
    """Share of the videos of every class that were recognised, NaN for a class without videos."""
    counts = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), counts, out=np.full(len(confusion), np.nan), where=counts > 0)


def mean_class_accuracy(confusion: Integers) -> float:
    """Mean of :func:`class_accuracies` over the classes that have videos."""
    accuracies: Any = class_accuracies(confusion)
    return float(np.nanmean(accuracies))


def class_rows(confusion: Integers, names: Sequence[str]) -> list[dict[str, Any]]:
    """Videos, recognised ones and accuracy of every class, and for which other class it is taken most often."""
    rows: list[dict[str, Any]] = []
    for label, (name, accuracy) in enumerate(zip(names, class_accuracies(confusion), strict=True)):
        counts = confusion[label]
        row = {"class": name, "videos": int(counts.sum()), "correct": int(counts[label])}
        mistakes = np.where(np.arange(len(names)) == label, 0, counts)
        other = int(mistakes.argmax())
        row["accuracy"] = f"{accuracy:.6g}" if row["videos"] else ""
        row["taken for"], row["times"] = (names[other], int(mistakes[other])) if mistakes[other] else ("", "")
        rows.append(row)
    return rows


def confusion_rows(confusion: Integers, names: Sequence[str]) -> list[dict[str, Any]]:
    """A confusion matrix as a table whose first column is the true class."""
    rows = zip(names, confusion.tolist(), strict=True)
    return [{"true class": name, **dict(zip(names, row, strict=True))} for name, row in rows]


def clip_rows(found: Recognitions, names: Sequence[str], k: int) -> list[dict[str, Any]]:
    """Label, predicted class, rank of the true class and the ``k`` most likely classes of every video."""
    rows = []
    ranks = label_ranks(found.probabilities, found.labels)
    for record, views, scores, rank in zip(found.records, found.views, found.probabilities, ranks, strict=True):
        top = top_classes(scores, names, k)
        row = {"name": record["name"], "video": record["video"], "views": views, "label": names[record["label"]]}
        row |= {"predicted": top[0][0], "correct": int(rank == 1), "probability": top[0][1], "rank": int(rank)}
        rows.append(row | top_columns(top))
    return rows


def top_columns(top: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """What :func:`top_classes` gives as the columns class 1, probability 1, class 2 ... of a table."""
    columns: dict[str, Any] = {}
    for place, (name, probability) in enumerate(top, start=1):
        columns |= {f"class {place}": name, f"probability {place}": probability}
    return columns


def top_classes(probabilities: Floats, names: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The ``k`` most likely classes of one video, ``(classes,)``, and their probabilities to six digits."""
    order = ranked_classes(probabilities[None])[0, :k]
    return [(names[label], float(f"{probabilities[label]:.6g}")) for label in order]


def _check_same(record: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for key in ("video", "label"):
        if record.get(key) != other.get(key):
            found = f"{record.get(key)} and {other.get(key)}"
            raise ValueError(f"{record['name']}: has {key} {found}; every video needs a name of its own.")


def _softmax(logits: Floats) -> Floats:
    exponentials: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
