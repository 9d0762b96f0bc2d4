# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ask for the next candidate, tell its score: what all searches by trials have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cakes_monai.search.trial import Candidate, Proposal, Trial, best_trial, digest

__all__ = ["WIDTH_MULTIPLIERS", "CandidateList", "Proposer"]

#: Width multipliers of the third stage, a grid search (C2FNAS, section 5.3).
WIDTH_MULTIPLIERS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


class Proposer(ABC):
    """
    Hands out candidates and takes their scores, in any order.

    What is proposed next is a pure function of the settings and of the trials so far, see :meth:`propose`. So a search
    that is made anew with the trials of its journal goes on as if it had never stopped; trials without an end are
    handed out again first, under their old index.

    Args:
        trials: the trials so far, of :class:`~cakes_monai.search.Journal`.

    Raises:
        ValueError: when the trials are not from such a search.

    Example:
        >>> widths = CandidateList(WIDTH_MULTIPLIERS)
        >>> widths.ask().candidate, widths.ask().candidate
        (0.25, 0.5)
        >>> widths.tell(1, 80.79)
        >>> widths.best.proposal.candidate
        0.5
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._trials: list[Trial] = []
        for trial in trials:
            if trial.index != len(self._trials):
                raise ValueError(f"trial {len(self._trials)} is missing, trials are numbered from 0 without gaps.")
            self.check(trial.proposal)
            self._trials.append(trial)
        self._waiting = [trial.index for trial in self._trials if trial.ended is None]

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that the proposals depend on, for the header of the journal."""

    @abstractmethod
    def propose(self, trials: Sequence[Trial]) -> Proposal | None:
        """The proposal that follows ``trials``, whoever asks and whenever; None when there is none."""

    @abstractmethod
    def check(self, proposal: Proposal) -> None:
        """Raise a ValueError when this search cannot have made ``proposal`` after the trials so far."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials so far by index."""
        return tuple(self._trials)

    @property
    def best(self) -> Trial | None:
        """The trial with the largest score, of equal ones the first proposed; None before the first score."""
        return best_trial(self._trials)

    @property
    def done(self) -> bool:
        """Whether all trials have ended and no other will follow."""
        return all(trial.ended is not None for trial in self._trials) and self.propose(self.trials) is None

    def ask(self) -> Proposal | None:
        """What an idle worker shall evaluate; None when nothing is left to hand out."""
        if self._waiting:
            return self._trials[self._waiting.pop(0)].proposal
        if (proposal := self.propose(self.trials)) is not None:
            self._trials.append(Trial(proposal))
        return proposal

    def tell(self, index: int, score: float) -> None:
        """
        The score of a trial, the larger the better.

        Raises:
            ValueError: for an unknown trial, one that has ended, or a score that is no finite number.
        """
        self._end(self._trial(index).finished(score, self._num_ended))

    def fail(self, index: int, reason: str = "", final: bool = True) -> None:
        """
        A trial has no score; it counts as evaluated, or unless ``final`` is the next that is handed out again.

        Raises:
            ValueError: for an unknown trial or one that has ended.
        """
        self._end(self._trial(index).failed(reason, self._num_ended, final))
        if not final:
            self._waiting = sorted([*self._waiting, index])

    @property
    def _num_ended(self) -> int:
        return sum(trial.ended is not None for trial in self._trials)

    def _trial(self, index: int) -> Trial:
        if not 0 <= index < len(self._trials):
            raise ValueError(f"trial {index} was never proposed, there are {len(self._trials)}.")
        return self._trials[index]

    def _end(self, trial: Trial) -> None:
        self._trials[trial.index] = trial
        self._waiting = [index for index in self._waiting if index != trial.index]


class CandidateList(Proposer):
    """
    Every candidate of a list once, in its order: the grid of widths, or the drawn candidates of the fine stage.

    Args:
        candidates: different candidates, e.g. :data:`WIDTH_MULTIPLIERS` or what
            :func:`~cakes_monai.search.draw_candidates` draws.
        trials: the trials so far.

    Raises:
        ValueError: for no or equal candidates, a multiplier that is not above 0, or trials of another list.
    """

    def __init__(
        self, candidates: Iterable[float | Sequence[int] | Sequence[str]], trials: Iterable[Trial] = ()
    ) -> None:
        self.candidates = tuple(_candidate(candidate) for candidate in candidates)
        if not self.candidates:
            raise ValueError("there are no candidates, there must be at least one.")
        if len(set(self.candidates)) < len(self.candidates):
            twice = next(c for number, c in enumerate(self.candidates) if c in self.candidates[:number])
            raise ValueError(f"candidate {twice!r} is given twice.")
        super().__init__(trials)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Number and digest of the candidates."""
        return {"num_candidates": len(self.candidates), "candidates": digest(self.candidates)}

    def propose(self, trials: Sequence[Trial]) -> Proposal | None:
        """The candidate whose turn it is."""
        index = len(trials)
        return Proposal(index, self.candidates[index], "listed") if index < len(self.candidates) else None

    def check(self, proposal: Proposal) -> None:
        """Raise a ValueError unless the proposal is the candidate of its index."""
        if self.candidates[proposal.index : proposal.index + 1] != (proposal.candidate,):
            raise ValueError(f"trial {proposal.index}: {proposal.candidate!r} is not the candidate at this place.")


def _candidate(candidate: float | Sequence[int] | Sequence[str]) -> Candidate:
    if not isinstance(candidate, (int, float)):
        return tuple(candidate)  # type: ignore[return-value]  # of one kind or the other
    if not 0 < candidate < math.inf:
        raise ValueError(f"width multiplier {candidate!r} is not allowed, it must be above 0.")
    return float(candidate)
