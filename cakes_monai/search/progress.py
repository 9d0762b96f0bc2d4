# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How far a search by trials is, in one line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import timedelta

from cakes_monai.search.trial import Trial, best_trial

__all__ = ["progress_line"]


def progress_line(trials: Sequence[Trial], limit: int | None = None, choosing: bool = True) -> str:
    """
    How far a search is: finished, running and failed trials, the best so far, and the time left.

    Args:
        trials: the trials so far.
        limit: how many there will be, where it is known.
        choosing: whether one of them is to be found; else the mean of their scores is said instead of the best.
    """
    states = [trial.state for trial in trials]
    count = f"{states.count('finished')}" + (f" of {limit}" if limit else "")
    parts = [f"{count} finished, {states.count('running')} running, {states.count('failed')} failed"]
    best = best_trial(trials)
    if best is not None and not choosing:
        parts.append(f"mean {statistics.mean(trial.score for trial in trials if trial.score is not None):.4f}")
    elif best is not None:
        parts.append(f"best {best.score:.4f} (trial {best.index}, {best.proposal.candidate})")
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    running = states.count("running")
    if seconds and limit and running:
        left = (limit - states.count("finished") - states.count("failed")) * statistics.mean(seconds) / running
        parts.append(f"about {timedelta(seconds=round(left))} left")
    return "; ".join(parts)
