# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A search by trials: every trial trains a network with an architecture of its own."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cakes_monai.architecture import Architecture
from cakes_monai.search import Proposal, Proposer, Task, Trial
from cakes_monai.workflows.bundle_run import checked_files
from cakes_monai.workflows.trial_driver import JOURNAL, TrialDriver

__all__ = ["TrialSearch"]

_FUNCTION = "cakes_monai.workflows.bundle_trial:train_bundle"


class TrialSearch(TrialDriver):
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
        arguments: of :class:`TrialDriver`.

    Raises:
        ValueError: for wrong settings.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        bundle: str | os.PathLike[str],
        options: Mapping[str, Any],
        cost: Mapping[str, Any],
        files: Sequence[str] = ("train.json",),
        **arguments: Any,
    ) -> None:
        super().__init__(output_dir, **arguments)
        self.bundle = Path(bundle).absolute()
        self.options, self.cost = dict(options), dict(cost)
        self.files = checked_files(self.bundle, files)

    @abstractmethod
    def architecture(self, proposal: Proposal) -> Architecture:
        """The network of a trial."""

    def trial_options(self, proposal: Proposal) -> dict[str, Any]:
        """Options of the training that differ from trial to trial."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Files and options of the training, except where the data is: it may be moved."""
        options = {name: value for name, value in self.options.items() if name != "dataset_dir"}
        return {"files": self.files, "options": options}

    def task(self, proposal: Proposal) -> Task:
        """A whole training of the bundle with the architecture of the trial."""
        arguments = {
            "bundle": str(self.bundle),
            "files": self.files,
            "architecture": self.architecture(proposal).to_json(),
            "options": {**self.options, **(own := self.trial_options(proposal))},
            "cost": {**self.cost, **{name: own[name] for name in own.keys() & self.cost.keys()}},
        }
        return Task(proposal.index, _FUNCTION, arguments, self.output_dir / "trials" / f"{proposal.index:04d}")

    def run(self) -> Trial:
        """
        Search until nothing is left to try.

        Returns:
            the best trial.

        Raises:
            ValueError: when there is a journal of another search, or one of this search and ``resume`` is not set; and
                after ``max_failures`` failed trials, or when none succeeded.
        """
        proposer = self.drive()
        if proposer.best is None:
            path = self.output_dir / JOURNAL
            raise ValueError(f"{path}: no trial succeeded; the last failed because of {_last_failure(proposer)}")
        return proposer.best


def _last_failure(proposer: Proposer) -> str:
    return next((trial.failures[-1] for trial in reversed(proposer.trials) if trial.failures), "nothing known.")
