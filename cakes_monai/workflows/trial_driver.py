# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Trials on an engine, several at a time, with a journal of all: it can be killed at any moment."""

from __future__ import annotations

import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import str2bool

from cakes_monai.atomic_file import written_whole
from cakes_monai.search import (
    Engine,
    Journal,
    Proposal,
    Proposer,
    Result,
    Task,
    Trial,
    make_engine,
    progress_line,
    read_journal,
)

__all__ = ["JOURNAL", "LIMIT", "TrialDriver"]

logger = logging.getLogger(__name__)

#: File of the driver's folder in which its trials are written down.
JOURNAL = "journal.jsonl"

#: File with the number of trials that it ends with, for those who look on.
LIMIT = "limit.json"

_POLL_SECONDS = 60.0


class TrialDriver(ABC):
    """
    Asks a proposer, runs its trials on an engine, and keeps a journal of all.

    One that was killed goes on with the same trials: those that ended keep their scores, the others are run again in
    their folders. A trial that fails for a reason of its own is written down with it and does not stop the others.

    Args:
        output_dir: folder of the trials.
        engine: what runs the trials: "processes" of this machine or "ray".
        slots: trials at the same time, an option of the engine "processes"; None for its default.
        engine_options: further options of the engine.
        max_failures: failed trials after which it stops, because the fault is not theirs; None never stops.
        resume: whether to go on with the journal in ``output_dir``; also "true" and "false".
    """

    #: What the trials are for, for the journal.
    kind: str
    #: The same in messages.
    noun = "search"
    #: Whether one of the trials is to be found.
    choosing = True

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        engine: str = "processes",
        slots: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
        max_failures: int | None = 10,
        resume: bool | str = False,
    ) -> None:
        self.output_dir = Path(output_dir).absolute()
        self.engine = {"name": engine, **(engine_options or {}), **({} if slots is None else {"slots": slots})}
        self.max_failures = max_failures
        self.resume = str2bool(resume)

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that makes scores comparable, beside the proposer's settings."""

    @abstractmethod
    def proposer(self, trials: Sequence[Trial]) -> Proposer:
        """What decides, made from the trials so far."""

    @abstractmethod
    def task(self, proposal: Proposal) -> Task:
        """What an engine runs for a proposal; its function returns a dict with a "score"."""

    @abstractmethod
    def report(self, proposer: Proposer) -> None:
        """Write pictures and files after a trial has ended."""

    def limit(self, proposer: Proposer) -> int | None:
        """Number of trials at the end, for the progress; None where it is not known."""
        return None

    def said(self, proposal: Proposal) -> str:
        """A proposal in a few words."""
        return f"{proposal.candidate} ({proposal.reason})"

    def drive(self) -> Proposer:
        """
        Run trials until nothing is left to try.

        Returns:
            the proposer with all trials.

        Raises:
            ValueError: when there is a journal of another search, or one of this search and ``resume`` is not set; and
                after ``max_failures`` failed trials.
        """
        path = self.output_dir / JOURNAL
        if path.exists() and not self.resume:
            raise ValueError(f"{path}: there is a {self.noun} already; use --resume True, or another output_dir.")
        settings = {**self.proposer(()).settings, **self.settings}
        with Journal(path, self.kind, settings) as journal, make_engine(**self.engine) as engine:
            proposer = self.proposer(journal.trials)
            with written_whole(self.output_dir / LIMIT) as temporary:
                temporary.write_text(json.dumps({"trials": self.limit(proposer)}) + "\n", encoding="utf-8")
            while self._submit(proposer, journal, engine) or engine.running:
                result = engine.next_finished(_POLL_SECONDS)
                if result is not None:
                    self._end(result, proposer, journal)
                    self.report(proposer)
                    logger.info(progress_line(journal.trials, self.limit(proposer), self.choosing))
            self.report(proposer)
        return proposer

    @property
    def journal_trials(self) -> tuple[Trial, ...]:
        """Trials with all that the journal says of them."""
        return read_journal(self.output_dir / JOURNAL).trials

    def _submit(self, proposer: Proposer, journal: Journal, engine: Engine) -> bool:
        """Fill the free slots; whether a trial was submitted."""
        submitted = False
        while engine.free_slots and (proposal := proposer.ask()) is not None:
            journal.proposed(proposal)
            journal.started(proposal.index)
            task = self.task(proposal)
            engine.submit(task)
            logger.info("Trial %d: %s, %s", proposal.index, self.said(proposal), task.folder)
            submitted = True
        return submitted

    def _end(self, result: Result, proposer: Proposer, journal: Journal) -> None:
        value = result.value
        if value is not None and math.isfinite(value["score"]):
            details = {name: entry for name, entry in value.items() if name != "score"}
            journal.finished(result.index, value["score"], result.seconds, details)
            proposer.tell(result.index, value["score"])
            return
        reason = result.error or f"its score is {value and value['score']}"
        logger.warning("Trial %d failed: %s", result.index, reason)
        journal.failed(result.index, reason)
        proposer.fail(result.index, reason)
        failed = sum(trial.state == "failed" for trial in proposer.trials)
        if self.max_failures is not None and failed >= self.max_failures:
            raise ValueError(f"{self.max_failures} trials have failed, the last one: {reason}")
