# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The folds of a cross-validation as candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cakes_monai.search.proposer import Proposer
from cakes_monai.search.trial import Proposal, Trial

__all__ = ["CROSS_VALIDATION", "FoldList"]

#: What the journal of a cross-validation is of.
CROSS_VALIDATION = "cross-validation"


class FoldList(Proposer):
    """
    Every fold once, in the order given; one that failed in an earlier run once more in each later run.

    Args:
        folds: different numbers from 0 to ``num_folds - 1``; None for all.
        num_folds: number of parts the cases are divided into.
        trials: the trials of earlier runs. They may be of other folds: a cross-validation can be done in several runs.

    Raises:
        ValueError: for a fold that does not exist or is given twice, none at all, or trials of something else.

    Example:
        >>> folds = FoldList(None, num_folds=3)
        >>> [folds.ask().candidate for _ in range(3)], folds.ask()
        ([0, 1, 2], None)
    """

    def __init__(self, folds: Sequence[int] | None, num_folds: int, trials: Iterable[Trial] = ()) -> None:
        if not isinstance(num_folds, int) or num_folds < 2:
            raise ValueError(f"num_folds is {num_folds!r}, allowed is a number from 2 on.")
        self.num_folds = num_folds
        self.folds = tuple(range(num_folds)) if folds is None else tuple(folds)
        for number, fold in enumerate(self.folds):
            if isinstance(fold, bool) or fold not in range(num_folds):
                raise ValueError(f"folds: {fold!r} is no fold, allowed are 0 to {num_folds - 1}.")
            if fold in self.folds[:number]:
                raise ValueError(f"folds: {fold} is given twice.")
        if not self.folds:
            raise ValueError("folds: there are none, there must be at least one.")
        super().__init__(trials)
        self._earlier = len(self._trials)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Number of parts: which of them are asked for may differ from run to run."""
        return {"num_folds": self.num_folds}

    @property
    def all_folds(self) -> tuple[int, ...]:
        """The folds asked for, and those of earlier runs, in order."""
        return tuple(sorted({*self.folds, *(_fold(trial) for trial in self._trials)}))

    def propose(self, trials: Sequence[Trial]) -> Proposal | None:
        """The first fold that has neither a result nor a trial of this run."""
        tried = {_fold(trial) for trial in trials if trial.index >= self._earlier or trial.state != "failed"}
        left = next((fold for fold in self.folds if fold not in tried), None)
        if left is None:
            return None
        again = any(_fold(trial) == left for trial in trials)
        return Proposal(len(trials), left, "it failed before" if again else "listed")

    def check(self, proposal: Proposal) -> None:
        """Raise a ValueError unless the proposal is a fold that has no result yet."""
        if proposal.candidate not in range(self.num_folds):
            raise ValueError(f"trial {proposal.index}: {proposal.candidate!r} is no fold of {self.num_folds}.")
        if any(trial.proposal.candidate == proposal.candidate and trial.state != "failed" for trial in self._trials):
            raise ValueError(f"trial {proposal.index}: fold {proposal.candidate} has a trial already.")


def _fold(trial: Trial) -> int:
    return int(trial.proposal.candidate)  # type: ignore[arg-type]  # see check
