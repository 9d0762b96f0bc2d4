# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A search by trials: asks a proposer, runs its trials on an engine, and can be killed at any moment."""

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

from cakes_monai.architecture import Architecture
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

__all__ = ["JOURNAL", "TrialSearch"]

logger = logging.getLogger(__name__)

#: File of the search's folder in which its trials are written down.
JOURNAL = "journal.jsonl"

#: File with the number of trials that the search ends with, for those who look on.
LIMIT = "limit.json"

_FUNCTION = "cakes_monai.workflows.bundle_trial:train_bundle"
_POLL_SECONDS = 60.0


class TrialSearch(ABC):
    """
    Trains one network after the other, several at a time, and keeps a journal of all.

    Every trial is a whole training of the bundle in its own process and its own folder ``trials/<index>``. A search
    that was killed goes on with the same trials: those that ended keep their scores, the others continue from their
    checkpoints. A trial that fails for a reason of its own is written down with it and does not stop the search.

    Args:
        output_dir: folder of the search.
        bundle: folder of the bundle.
        options: options of the bundle's training, the same for all trials.
        cost: arguments of :func:`~cakes_monai.cost.c2fnas_cost`: in_channels, out_channels, init_filters and size.
        files: configs of the training.
        engine: what runs the trials: "processes" of this machine or "ray".
        slots: trials at the same time, an option of the engine "processes"; None for its default.
        engine_options: further options of the engine.
        max_failures: failed trials after which the search stops, because the fault is not theirs.
        resume: whether to go on with the journal in ``output_dir``; also "true" and "false".

    Raises:
        ValueError: for wrong settings.
    """

    #: What is searched, for the journal.
    kind: str

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        bundle: str | os.PathLike[str],
        options: Mapping[str, Any],
        cost: Mapping[str, Any],
        files: Sequence[str] = ("train.json",),
        engine: str = "processes",
        slots: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
        max_failures: int = 10,
        resume: bool | str = False,
    ) -> None:
        self.output_dir, self.bundle = Path(output_dir).absolute(), Path(bundle).absolute()
        self.options, self.cost, self.files = dict(options), dict(cost), list(files)
        self.engine = {"name": engine, **(engine_options or {}), **({} if slots is None else {"slots": slots})}
        self.max_failures = max_failures
        self.resume = str2bool(resume)
        if missing := [name for name in self.files if not (self.bundle / "configs" / name).is_file()]:
            raise ValueError(f"{self.bundle / 'configs' / missing[0]}: no such file; a trial trains a bundle.")

    @abstractmethod
    def proposer(self, trials: Sequence[Trial]) -> Proposer:
        """What decides, made from the trials so far."""

    @abstractmethod
    def architecture(self, proposal: Proposal) -> Architecture:
        """The network of a trial."""

    @abstractmethod
    def report(self, proposer: Proposer) -> None:
        """Write pictures and files after a trial has ended."""

    def trial_options(self, proposal: Proposal) -> dict[str, Any]:
        """Options of the training that differ from trial to trial."""
        return {}

    def run(self) -> Trial:
        """
        Search until nothing is left to try.

        Returns:
            the best trial.

        Raises:
            ValueError: when there is a journal of another search, or one of this search and ``resume`` is not set; and
                after ``max_failures`` failed trials, or when none succeeded.
        """
        path = self.output_dir / JOURNAL
        if path.exists() and not self.resume:
            raise ValueError(f"{path}: there is a search already; use --resume True, or another output_dir.")
        options = {name: value for name, value in self.options.items() if name != "dataset_dir"}  # it may be moved
        settings = {**self.proposer(()).settings, "files": self.files, "options": options}
        with Journal(path, self.kind, settings) as journal, make_engine(**self.engine) as engine:
            proposer = self.proposer(journal.trials)
            with written_whole(self.output_dir / LIMIT) as temporary:
                temporary.write_text(json.dumps({"trials": self.limit(proposer)}) + "\n", encoding="utf-8")
            while self._submit(proposer, journal, engine) or engine.running:
                result = engine.next_finished(_POLL_SECONDS)
                if result is not None:
                    self._end(result, proposer, journal)
                    self.report(proposer)
                    logger.info(progress_line(journal.trials, self.limit(proposer)))
            self.report(proposer)
        if proposer.best is None:
            raise ValueError(f"{path}: no trial succeeded; the last failed because of {_last_failure(proposer)}")
        return proposer.best

    def limit(self, proposer: Proposer) -> int | None:
        """Number of trials when the search ends, for the progress; None where it is not known."""
        return None

    def _submit(self, proposer: Proposer, journal: Journal, engine: Engine) -> bool:
        """Fill the free slots; whether a trial was submitted."""
        submitted = False
        while engine.free_slots and (proposal := proposer.ask()) is not None:
            journal.proposed(proposal)
            journal.started(proposal.index)
            arguments = {
                "bundle": str(self.bundle),
                "files": self.files,
                "architecture": self.architecture(proposal).to_json(),
                "options": {**self.options, **(own := self.trial_options(proposal))},
                "cost": {**self.cost, **{name: own[name] for name in own.keys() & self.cost.keys()}},
            }
            folder = self.output_dir / "trials" / f"{proposal.index:04d}"
            engine.submit(Task(proposal.index, _FUNCTION, arguments, folder))
            logger.info("Trial %d: %s (%s), %s", proposal.index, proposal.candidate, proposal.reason, folder)
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
        if sum(trial.state == "failed" for trial in proposer.trials) >= self.max_failures:
            raise ValueError(f"{self.max_failures} trials have failed, the last one: {reason}")

    @property
    def journal_trials(self) -> tuple[Trial, ...]:
        """Trials with all that the journal says of them."""
        return read_journal(self.output_dir / JOURNAL).trials


def _last_failure(proposer: Proposer) -> str:
    return next((trial.failures[-1] for trial in reversed(proposer.trials) if trial.failures), "nothing known.")
