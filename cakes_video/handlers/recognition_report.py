# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracies of whole videos, each averaged over its views, and a report of what was taken for what."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.utils import convert_to_tensor, evenly_divisible_all_gather

from cakes_monai.handlers.case_table import gathered_records, write_csv, write_json
from cakes_monai.plots import save_figure
from cakes_video.class_names import check_class_names
from cakes_video.confusion import (
    AVERAGES,
    Recognitions,
    average_views,
    class_rows,
    clip_rows,
    confusion_rows,
    mean_class_accuracy,
    topk_accuracy,
)
from cakes_video.plots import draw_confusion

__all__ = ["RecognitionAccuracy", "RecognitionReport", "Views"]

KEYS = ("pred", "label", "name", "video", "clip", "crop")

logger = logging.getLogger(__name__)


class Views:
    """
    Logits of an epoch's views (clips and crops of a video), gathered from all processes and averaged by video.

    Every process may have another number of views, and those of one video may lie on different processes. A view that
    a sampler repeated to give every process the same number counts once.

    An item has the keys pred (logits) and name, and where there are any label, video, clip and crop; they are taken
    from the engine's output or else from its batch, both decollated or not.

    Args:
        class_names: the network's classes in the order of its logits.
        average: "probability" or "logit", see :func:`~cakes_video.confusion.mean_views`.
        labelled: whether every item must have a label.

    Raises:
        ValueError: for other arguments, and from the run for items that cannot be averaged; it names the clip.
    """

    def __init__(self, class_names: Sequence[str], average: str = "probability", labelled: bool = True) -> None:
        if average not in AVERAGES:
            raise ValueError(f"views: {average!r}; allowed are {', '.join(map(repr, AVERAGES))}.")
        self.class_names = check_class_names(class_names)
        self.average, self.labelled = average, labelled
        self.start()

    def start(self) -> None:
        """Forget the views so far."""
        self._records: list[dict[str, Any]] = []
        self._logits: dict[tuple[str, int, int], torch.Tensor] = {}

    def collect(self, engine: Engine) -> None:
        """Keep the views of the iteration that ``engine`` has completed."""
        output = _items(engine.state.output)
        batch = _items(engine.state.batch) or [{}] * len(output)
        for item in (both | own for both, own in zip(batch, output, strict=True)):
            for key in ("pred", "name", *(["label"] if self.labelled else [])):
                if key not in item:
                    raise ValueError(f"{item.get('name', 'engine')}: neither output nor batch has {key!r}.")
            self._add(str(item["name"]), int(item.get("clip", 0)), int(item.get("crop", 0)), item)

    def gathered(self) -> Recognitions:
        """Average the views of all processes: videos sorted by name, the same on every process."""
        own = torch.stack([*self._logits.values(), torch.zeros(len(self.class_names))])[:-1]  # there may be none
        logits = evenly_divisible_all_gather(own)
        records = gathered_records(self._records)
        if not records:
            raise ValueError("engine: no video was evaluated; allowed is at least one.")
        return average_views(records, logits.double().numpy(), self.average)

    def _add(self, name: str, clip: int, crop: int, item: Mapping[str, Any]) -> None:
        logits, view = self._checked_logits(name, item["pred"]), (name, clip, crop)
        record = {"view": view, "name": name, "video": str(item.get("video", "")), "rank": idist.get_rank()}
        if self.labelled:
            record["label"] = self._checked_label(name, item["label"])
        if view not in self._logits:
            self._logits[view] = logits
            self._records.append(record)
        elif (logits - self._logits[view]).abs().max() > 0.1 * logits.abs().max():  # more than rounding
            allowed = "every view of a video needs its own clip or crop"
            raise ValueError(f"{name}: clip {clip}, crop {crop} came twice with different logits; {allowed}.")

    def _checked_logits(self, name: str, pred: Any) -> torch.Tensor:
        logits, classes = convert_to_tensor(pred, torch.float32, "cpu", track_meta=False), len(self.class_names)
        if logits.shape != (classes,):
            raise ValueError(f"{name}: logits of shape {tuple(logits.shape)}; the class names allow ({classes},).")
        if not bool(logits.isfinite().all()):
            raise ValueError(f"{name}: the network gives logits that are not finite, in amp or after it has diverged.")
        return logits.detach()

    def _checked_label(self, name: str, value: Any) -> int:
        label, last = torch.as_tensor(value), len(self.class_names) - 1
        if label.numel() != 1 or label.is_floating_point() or not 0 <= int(label) <= last:
            raise ValueError(f"{name}: label {label.tolist()}; allowed is a whole number from 0 to {last}.")
        return int(label)


class RecognitionAccuracy(Metric):
    """
    Accuracy of whole videos as an Ignite metric, for the key metric that says which weights are the best.

    A handler's numbers come too late for that: an engine compares its key metric before its handlers run.

    Args:
        class_names: the network's classes in the order of its logits.
        metric: "top1", "top5" ... for the share of videos whose true class is among the first so many, or
            "mean_class_accuracy" for the mean over the classes that have videos.
        views: how the views of a video are averaged: "probability" or "logit".

    Example:
        >>> SupervisedEvaluator(..., key_val_metric={"val_top1": RecognitionAccuracy(class_names)})
    """

    def __init__(self, class_names: Sequence[str], metric: str = "top1", views: str = "probability") -> None:
        if not re.fullmatch(r"top[1-9]\d*|mean_class_accuracy", metric):
            raise ValueError(f"metric: {metric!r}; allowed are 'top1', 'top5' and so on, and 'mean_class_accuracy'.")
        self.metric = metric
        self._views = Views(class_names, views)
        super().__init__()

    def reset(self) -> None:
        """Forget the videos so far."""
        self._views.start()

    def iteration_completed(self, engine: Engine) -> None:
        """Add the views of an iteration, whose names are in the engine's batch, not in its output alone."""
        self.update(engine)

    def update(self, output: Engine) -> None:
        """Add the views of the iteration that an engine has completed."""
        self._views.collect(output)

    def compute(self) -> float:
        """Accuracy of the videos of all processes."""
        found = self._views.gathered()
        if self.metric == "mean_class_accuracy":
            return mean_class_accuracy(found.confusion)
        return topk_accuracy(found.probabilities, found.labels, int(self.metric.removeprefix("top")))


class RecognitionReport:
    """
    Ignite handler that reports what was recognised in every video of an evaluation, averaged over its views.

    On every process it sets the engine's metrics ``<prefix>_top1``, ``<prefix>_top5`` (which is 1 when there are not
    more classes) and ``<prefix>_mean_class_accuracy``; handlers that log them must come after it. The first process
    writes

    - ``clips.csv``: of every video label, predicted class and its probability, rank of the true class, number of views,
      and the most likely classes;
    - ``confusion.csv`` and ``confusion.png``: how many videos of a class (row) were taken for which (column);
    - ``classes.csv``: of every class its accuracy, and for which other one it is taken most often;
    - ``summary.json``: the metrics, and the classes that have no video, which the mean class accuracy leaves out.

    Args:
        output_dir: folder to write to; None sets the metrics only.
        class_names: the network's classes in the order of its logits.
        topk: for every k the share of videos whose true class is among the k most likely.
        views: "probability" averages the softmax of a video's views, "logit" their logits.
        prefix: of the metrics' names.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None,
        class_names: Sequence[str],
        topk: Sequence[int] = (1, 5),
        views: str = "probability",
        prefix: str = "val",
    ) -> None:
        if not topk or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in topk):
            raise ValueError(f"topk: {topk!r}; allowed is a list of whole numbers from 1.")
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.topk, self.prefix = tuple(topk), prefix
        self._views = Views(class_names, views)

    def attach(self, engine: Engine) -> None:
        """Start with the epoch of ``engine``, collect after every iteration, report when the epoch is complete."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._views.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._views.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the metrics of all videos seen since the epoch started, and write the report."""
        found = self._views.gathered()
        metrics = {f"top{k}": topk_accuracy(found.probabilities, found.labels, k) for k in self.topk}
        metrics["mean_class_accuracy"] = mean_class_accuracy(found.confusion)
        engine.state.metrics.update({f"{self.prefix}_{name}": value for name, value in metrics.items()})
        if self.output_dir is not None and idist.get_rank() == 0:
            self._write(self.output_dir, found, metrics)

    def _write(self, folder: Path, found: Recognitions, metrics: Mapping[str, float]) -> None:
        names, confusion = self._views.class_names, found.confusion
        classes = class_rows(confusion, names)
        for name, rows in {
            "clips": clip_rows(found, names, max(self.topk)),
            "confusion": confusion_rows(confusion, names),
            "classes": classes,
        }.items():
            write_csv(folder / f"{name}.csv", list(rows[0]), rows)
        title = ", ".join(f"{_heading(name)} {100 * value:.1f} %" for name, value in metrics.items())
        save_figure(draw_confusion(confusion, names, title), folder / "confusion.png")
        absent = [row["class"] for row in classes if not row["videos"]]
        summary = {"videos": len(found.records), "views": sum(found.views), "average_of_views": self._views.average}
        summary |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
        summary |= {"classes": len(names), "classes_without_videos": absent}
        write_json(folder / "summary.json", summary)
        logger.info("%d videos: %s; %d of %d classes have none.", len(found.records), title, len(absent), len(names))


def _heading(metric: str) -> str:
    return metric.replace("top", "top-").replace("_", " ")


def _items(state: Any) -> list[dict[str, Any]]:
    """What an engine's batch or output says of every view."""
    if isinstance(state, Mapping):
        columns = {key: state[key] for key in KEYS if state.get(key) is not None}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    items = [item for item in state if isinstance(item, Mapping)]
    return [{key: item[key] for key in KEYS if item.get(key) is not None} for item in items]
