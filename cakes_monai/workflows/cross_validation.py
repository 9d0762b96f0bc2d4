# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Cross-validation of a bundle: all folds trained, evaluated and summarised."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from cakes_monai.architecture import Architecture
from cakes_monai.search import CROSS_VALIDATION, FoldList, Proposal, Proposer, Task, Trial
from cakes_monai.search.trial import digest
from cakes_monai.workflows.bundle_run import checked_files
from cakes_monai.workflows.fold_summary import FoldSummary
from cakes_monai.workflows.fold_trial import EVALUATION
from cakes_monai.workflows.trial_driver import JOURNAL, TrialDriver

__all__ = ["CrossValidation", "fold_folder"]

logger = logging.getLogger(__name__)

_FUNCTION = "cakes_monai.workflows.fold_trial:run_fold"
_PLACES = ("dataset_dir", "cache_dir")
_OF_A_FOLD = ("bundle_root", "fold", "num_folds", "architecture", "output_dir", "ckpt_dir", "weights", "resume")


class CrossValidation(TrialDriver):
    """
    Trains a bundle's network without each fold, and evaluates it there (the bundle's own training and evaluation).

    Every fold is a trial in its own process and its own folder ``folds/<k>``. A run that was killed goes on with the
    folds without a result, each from its checkpoint. A fold that fails is run again as often as the engine allows, then
    written down with its reason; the others go on, and a later run tries it again. ``output_dir`` gets journal.jsonl,
    cases.csv and summary.csv (:class:`FoldSummary`) of the folds that ended, while it runs.

    Args:
        output_dir: folder of the cross-validation.
        bundle: folder of the bundle.
        options: of the training and the evaluation, the same for all folds; None is left to the configs.
        more_options: more of them, of the configs that are laid over train.json for example.
        files: configs of the training: train.json and what is laid over it.
        evaluation_files: configs of the evaluation; by default evaluate.json behind the first of ``files``.
        folds: one or more folds; None for all.
        num_folds: number of parts; None for what ``files`` say.
        architecture: file architecture.json, or another word that the configs take; None for theirs.
        arguments: of :class:`TrialDriver`.

    Raises:
        ValueError: for wrong settings.
    """

    kind = CROSS_VALIDATION
    noun = CROSS_VALIDATION
    choosing = False

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        bundle: str | os.PathLike[str],
        options: Mapping[str, Any],
        more_options: Mapping[str, Any] | None = None,
        files: Sequence[str] = ("train.json",),
        evaluation_files: Sequence[str] | None = None,
        folds: int | Sequence[int] | None = None,
        num_folds: int | None = None,
        architecture: str | os.PathLike[str] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(output_dir, max_failures=None, **arguments)
        self.bundle = Path(bundle).absolute()
        self.files = checked_files(self.bundle, files)
        self.evaluation = checked_files(
            self.bundle, evaluation_files or [self.files[0], "evaluate.json", *self.files[1:]]
        )
        content = _merged(self.bundle, [*self.files, *self.evaluation])
        self.folds = None if folds is None else ensure_tuple(folds)
        self.num_folds = content.get("num_folds") if num_folds is None else num_folds
        self.architecture = None if architecture is None else _frozen(architecture)
        given = {**options, **(more_options or {})}
        self.options = {name: value for name, value in given.items() if value is not None}
        self._check_options(content)
        self.proposer(())  # wrong folds are an error now

    @property
    def settings(self) -> Mapping[str, Any]:
        """Files, architecture and options, except where the data is: it may be moved."""
        options = {name: value for name, value in self.options.items() if name not in _PLACES}
        architecture = (
            self.architecture if isinstance(self.architecture, (str, type(None))) else digest(self.architecture)
        )
        return {"files": self.files, "evaluation": self.evaluation, "architecture": architecture, "options": options}

    def proposer(self, trials: Sequence[Trial]) -> FoldList:
        """The list of folds."""
        return FoldList(self.folds, self.num_folds, trials)  # type: ignore[arg-type]  # which says what is allowed

    def limit(self, proposer: Proposer) -> int | None:
        """Number of folds."""
        assert isinstance(proposer, FoldList)
        return len(proposer.all_folds)

    def task(self, proposal: Proposal) -> Task:
        """Training and evaluation of a fold."""
        fold = int(proposal.candidate)  # type: ignore[arg-type]  # a fold
        arguments = {
            "bundle": str(self.bundle),
            "fold": fold,
            "training": self.files,
            "evaluation": self.evaluation,
            "options": {**self.options, "num_folds": self.num_folds},
            "architecture": self.architecture,
        }
        return Task(proposal.index, _FUNCTION, arguments, fold_folder(self.output_dir, fold))

    def said(self, proposal: Proposal) -> str:
        """The fold."""
        return f"fold {proposal.candidate} ({proposal.reason})"

    def report(self, proposer: Proposer) -> None:
        """Write the tables of the folds that have a result."""
        self.summary(proposer.trials).save(self.output_dir)

    def summary(self, trials: Sequence[Trial]) -> FoldSummary:
        """What the finished folds add up to."""
        folds = [int(trial.proposal.candidate) for trial in trials if trial.score is not None]  # type: ignore[arg-type]
        return FoldSummary.of({fold: fold_folder(self.output_dir, fold) / EVALUATION for fold in folds})

    def run(self) -> FoldSummary:
        """
        Run all folds that have no result yet, and log the table.

        Raises:
            ValueError: when there is a journal of something else, or one of this cross-validation and ``resume`` is not
                set; and at the end, when folds failed.
        """
        proposer = self.drive()
        summary = self.summary(proposer.trials)
        if summary.cases:
            logger.info(
                "Held-out cases of folds %s, in %s:\n%s", _listed(summary.folds), self.output_dir, summary.table()
            )
        failed = {trial.proposal.candidate: trial.failures[-1] for trial in proposer.trials if trial.state == "failed"}
        failed = {fold: reason for fold, reason in failed.items() if fold not in summary.folds}
        if failed:
            fold, reason = next(iter(failed.items()))
            raise ValueError(
                f"{self.output_dir / JOURNAL}: folds {_listed(failed)} failed, fold {fold} because of {reason}; "
                f"--resume True tries them again."
            )
        return summary

    def _check_options(self, content: Mapping[str, Any]) -> None:
        """Raise a ValueError for options that MONAI would take without a word."""
        for name in self.options:
            if name in _OF_A_FOLD:
                raise ValueError(f"options: {name!r} is set by the cross-validation itself.")
            if name.replace("::", "#").split("#")[0] not in content:
                raise ValueError(f"options: {name!r} is in none of {', '.join(self.evaluation)}; check the spelling.")


def fold_folder(output_dir: Path, fold: int) -> Path:
    """Folder of a fold."""
    return output_dir / "folds" / str(fold)


def _merged(bundle: Path, files: Sequence[str]) -> Mapping[str, Any]:
    try:
        return ConfigParser.load_config_files([bundle / "configs" / file for file in files])
    except (ValueError, KeyError, OSError) as error:  # no JSON, or an overlay of something that is not there
        raise ValueError(f"{bundle / 'configs'}: {', '.join(files)} cannot be read: {error}") from error


def _frozen(architecture: str | os.PathLike[str]) -> Mapping[str, Any] | str:
    """Content of a file, so that all folds have the same whatever becomes of it; any other word as it is."""
    if Path(architecture).suffix == ".json":
        return Architecture.load(architecture).to_json()
    return str(architecture)


def _listed(folds: Any) -> str:
    return ", ".join(str(fold) for fold in folds)
