# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The clips that a training passed over: named once, written to a table, and an end to it when they are too many."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from cakes_monai.handlers.case_table import gathered_records, write_csv
from cakes_video.clip_error import ClipError
from cakes_video.readable_clips import REASON, UNREADABLE

__all__ = ["UnreadableClips"]

logger = logging.getLogger(__name__)


class UnreadableClips:
    """
    Ignite handler that reports the clips which :class:`~cakes_video.readable_clips.ReadableClips` passed over.

    Each is logged once with the reason. The table, with the columns path and reason, is written anew whenever clips are
    added, and at the end of an epoch. With several processes the first one reports those of all at the end of an epoch.

    Args:
        max_share: share of the data set above which the training ends.
        path: the table, for example ``"eval/unreadable.csv"``; None for none.

    Raises:
        ValueError: when constructed with ``max_share`` that is not in 0 to 1.
        ClipError: in the training when the share is exceeded, naming the first clip and the table.
    """

    def __init__(self, max_share: float = 0.01, path: str | os.PathLike[str] | None = None) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"UnreadableClips: max_share is {max_share}, allowed are 0 to 1.")
        self.max_share = max_share
        self.path = None if path is None else Path(path)
        self.reasons: dict[str, str] = {}
        self._logged: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)  # before MONAI takes the batch apart
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._complete)

    def __call__(self, engine: Engine) -> None:
        """Take what the batch tells."""
        batch: Mapping[str, Any] = engine.state.batch
        if UNREADABLE not in batch:
            raise ValueError(f"UnreadableClips: the batch has no {UNREADABLE!r}; allowed: batches of ReadableClips.")
        new: dict[str, str] = {}
        for paths, reasons in zip(batch[UNREADABLE], batch[REASON], strict=True):
            new.update(zip(paths.split("\n"), reasons.split("\n"), strict=True))
        new.pop("", None)  # all is well
        new = {path: reason for path, reason in new.items() if path not in self.reasons}
        self.reasons |= new
        if new and idist.get_world_size() == 1:
            self._report()
        if new:
            self._check(engine)

    def _complete(self, engine: Engine) -> None:
        records = [{"path": path, "reason": reason} for path, reason in self.reasons.items()]
        self.reasons = {record["path"]: record["reason"] for record in gathered_records(records)}
        if idist.get_rank() == 0:
            self._report()
        self._check(engine)

    def _report(self) -> None:
        for path, reason in self.reasons.items():
            if path not in self._logged:
                logger.warning("%s: not used for training: %s", path, reason)
        self._logged |= self.reasons.keys()
        if self.path is not None:
            rows = [{"path": path, "reason": self.reasons[path]} for path in sorted(self.reasons)]
            write_csv(self.path, ("path", "reason"), rows)

    def _check(self, engine: Engine) -> None:
        total, count = len(engine.state.dataloader.dataset), len(self.reasons)
        if count > self.max_share * total:
            self._report()
            path, reason = min(self.reasons.items())
            raise ClipError(
                f"{path}: {reason} {count} of {total} clips cannot be read, see {self.path or 'the log'}; allowed is a "
                f"share of {self.max_share:g} (max_share)."
            )
