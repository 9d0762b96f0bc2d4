# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What a search proposes, and what became of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from cakes_monai.architecture import Topology

__all__ = ["Candidate", "Proposal", "Trial", "best_trial", "checked_score", "digest"]

#: A width multiplier, the levels of a topology, or the operations of all cells.
Candidate: TypeAlias = float | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """
    A candidate to train and evaluate.

    Args:
        index: number of the trial, from 0.
        candidate: levels of a topology, operations of all cells, or a width multiplier.
        reason: why this one, see the search that proposes it.
        cluster: number of the cluster it was taken from; None when there are no clusters.
    """

    index: int
    candidate: Candidate
    reason: str
    cluster: int | None = None

    @property
    def topology(self) -> Topology:
        """The candidate of a topology search."""
        assert isinstance(self.candidate, tuple)
        return Topology(tuple(int(level) for level in self.candidate))


@dataclass(frozen=True)
class Trial:
    """
    A proposal and what is known of it; the methods give the trial after the event.

    Args:
        proposal: what was proposed.
        state: "proposed", "running", "finished" or "failed". A trial that is to be tried again is "proposed".
        starts: how often it was started.
        failures: reasons of failed attempts.
        score: validation score, the larger the better; None unless it is finished.
        seconds: duration of the attempt that finished.
        details: more results, anything JSON can say.
        ended: number of trials that had ended before, None while it has not.
    """

    proposal: Proposal
    state: str = "proposed"
    starts: int = 0
    failures: tuple[str, ...] = ()
    score: float | None = None
    seconds: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ended: int | None = None

    @property
    def index(self) -> int:
        """Number of the trial."""
        return self.proposal.index

    def started(self) -> Trial:
        """Somebody works on it (again)."""
        return replace(self._open("started"), state="running", starts=self.starts + 1)

    def finished(
        self, score: float, ended: int, seconds: float | None = None, details: Mapping[str, Any] | None = None
    ) -> Trial:
        """It has a score."""
        return replace(
            self._open("finished"),
            state="finished",
            score=checked_score(score, self.index),
            ended=ended,
            seconds=seconds,
            details=details or {},
        )

    def failed(self, reason: str, ended: int, final: bool = True) -> Trial:
        """An attempt failed; unless that is ``final``, it is to be tried again."""
        trial = replace(self._open("failed"), failures=(*self.failures, reason))
        return replace(trial, state="failed", ended=ended) if final else replace(trial, state="proposed")

    def _open(self, event: str) -> Trial:
        if self.ended is not None:
            raise ValueError(f"trial {self.index} is already {self.state}, it cannot be {event}.")
        return self


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """The finished trial with the largest score, of equal ones the first proposed; None when none is finished."""
    finished = [(trial.score, -trial.index, trial) for trial in trials if trial.score is not None]
    return max(finished, key=lambda entry: entry[:2])[2] if finished else None


def checked_score(score: float, index: int) -> float:
    """
    ``score`` as a finite float.

    Raises:
        ValueError: naming the trial, when it is none.
    """
    number = isinstance(score, (int, float)) or hasattr(score, "__float__")
    if not number or not math.isfinite(float(score)):
        raise ValueError(f"trial {index}: score {score!r} is no finite number; a trial without a score has failed.")
    return float(score)


def digest(value: Any) -> str:
    """Twelve letters that stand for a value JSON can say: equal values have equal ones."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
