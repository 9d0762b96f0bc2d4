# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What was recognised in every video of an inference, as files and as the videos with their labels drawn on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import str2bool

from cakes_monai.handlers.case_table import write_csv, write_json
from cakes_video.confusion import Recognitions, top_classes, top_columns
from cakes_video.handlers.recognition_report import Views
from cakes_video.labelled_video import write_labelled_video

__all__ = ["RecognitionSaver"]

PART = ("start", "stop", "template")

logger = logging.getLogger(__name__)


class RecognitionSaver:
    """
    Ignite handler that writes the most likely classes of every video, averaged over its views, when the epoch ends.

    ``<name>.json`` has one video's name, video (file or folder), model, views and top, a list of class and probability;
    ``results.json`` and ``results.csv`` have those of all videos. Names of videos are different in a list and keep
    their folders; where two files would have the same name all the same (also on a file system that does not tell
    capitals apart) the later one gets a number. Labels are not needed.

    With several processes the first one writes the results of all, and each draws the videos it has read.

    Args:
        output_dir: folder to write to.
        class_names: the network's classes in the order of its logits.
        topk: how many classes; all, when there are not more.
        draw: whether to write ``<name>.mp4`` as well, the video with the classes drawn on it and without sound. Also
            "true" and "false", which is what a command line gives.
        model: what recognised them, for the files: the name or the weights of the network.
        views: "probability" averages the softmax of a video's views, "logit" their logits.
        clips: the list's clips; by their start, stop and template that part of the video is drawn which was recognised.
            Without them it is the whole video.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str],
        topk: int = 5,
        draw: bool | str = False,
        model: str = "",
        views: str = "probability",
        clips: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
            raise ValueError(f"topk: {topk!r}; allowed is a whole number from 1.")
        self.output_dir, self.topk, self.model = Path(output_dir), topk, model
        self.draw = str2bool(draw)
        self._parts = {clip["name"]: {key: clip[key] for key in PART if key in clip} for clip in clips}
        self._views = Views(class_names, views, labelled=False)

    def attach(self, engine: Engine) -> None:
        """Start with the epoch of ``engine``, collect after every iteration, write when the epoch is complete."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._views.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._views.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write what was recognised in all videos seen since the epoch started."""
        found = self._views.gathered()
        files = _file_names([record["name"] for record in found.records])
        tops = [top_classes(scores, self._views.class_names, self.topk) for scores in found.probabilities]
        if idist.get_rank() == 0:
            self._write(found, files, tops)
        if self.draw:
            for record, file, top in zip(found.records, files, tops, strict=True):
                if record["rank"] == idist.get_rank():
                    self._draw(record, file, top)

    def _write(self, found: Recognitions, files: Sequence[str], tops: Sequence[list[tuple[str, float]]]) -> None:
        results, rows = [], []
        for record, views, file, top in zip(found.records, found.views, files, tops, strict=True):
            result = {"name": record["name"], "video": record["video"], "model": self.model, "views": views}
            results.append(result | {"top": [{"class": name, "probability": value} for name, value in top]})
            rows.append(result | {"file": f"{file}.json"} | top_columns(top))
            write_json(self.output_dir / f"{file}.json", results[-1])
        write_json(self.output_dir / "results.json", results)
        write_csv(self.output_dir / "results.csv", list(rows[0]), rows)
        logger.info("Results of %d videos are in %s.", len(results), self.output_dir)

    def _draw(self, record: Mapping[str, Any], file: str, top: Sequence[tuple[str, float]]) -> None:
        if not record["video"]:
            raise ValueError(f"{record['name']}: the batch has no 'video' to draw on; allowed is its file or folder.")
        part = self._parts.get(record["name"], {})
        write_labelled_video(record["video"], self.output_dir / f"{file}.mp4", top, **part)


def _file_names(names: Sequence[str]) -> list[str]:
    """A file name without suffix for every name, below the output folder, each different and none "results"."""
    taken, files = {"results"}, []
    for name in names:
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")]
        wanted = "/".join(parts) or "video"
        numbered = (f"{wanted}_{number}" for number in range(2, len(names) + 3))
        file = next(file for file in (wanted, *numbered) if file.casefold() not in taken)
        taken.add(file.casefold())
        files.append(file)
    return files
