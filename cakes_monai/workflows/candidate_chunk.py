# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What one process of a ranking does: evaluate some candidates, and write each score down at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cakes_monai.search import Journal, Proposal, Trial, read_journal
from cakes_monai.search.engine import one_line
from cakes_monai.search.journal_records import differences, header_of
from cakes_monai.search.trial import digest
from cakes_monai.workflows.candidate_evaluation import CandidateEvaluation

__all__ = ["MAX_STARTS", "chunk_folder", "ended_candidates", "score_candidates"]

#: How often the evaluation of a candidate is started: its process may die for reasons that are not the candidate's.
MAX_STARTS = 3

_KIND = "operations"
_JOURNAL = "journal.jsonl"


def score_candidates(
    folder: str | Path,
    evaluation: Mapping[str, Any],
    search: Mapping[str, Any],
    candidates: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """
    Evaluate candidates one after the other, the function of an engine's task.

    Run again in the same folder it goes on with the candidate it was at. One that was started :data:`MAX_STARTS` times
    without an end, or whose output is not finite, is recorded as failed.

    Args:
        folder: for the journal.
        evaluation: arguments of :class:`CandidateEvaluation`.
        search: what makes scores comparable.
        candidates: the operations of each.

    Raises:
        ValueError: when the journal in ``folder`` belongs to another search.
        Exception: what the evaluation raised. The process may be of no use afterwards (CUDA), so it ends.
    """
    torch.set_flush_denormal(True)
    evaluate = CandidateEvaluation(**evaluation)
    settings = {"search": dict(search), "candidates": digest(candidates)}
    with Journal(Path(folder) / _JOURNAL, _KIND, settings) as journal:
        for index, operations in enumerate(candidates):
            known = journal.trials[index : index + 1]
            if not known or known[0].ended is None:
                journal.proposed(Proposal(index, tuple(operations), "drawn"))
                _score(journal, journal.trials[index], evaluate)
        return {"finished": sum(trial.state == "finished" for trial in journal.trials)}


def _score(journal: Journal, trial: Trial, evaluate: Any) -> None:
    if trial.starts >= MAX_STARTS:
        died = f"its process died, {trial.starts} times"
        journal.failed(trial.index, trial.failures[-1] if trial.failures else died)
        return
    journal.started(trial.index)
    begun = time.monotonic()
    try:
        score, dice = evaluate(trial.proposal.candidate)
    except FloatingPointError as error:
        journal.failed(trial.index, str(error))
    except Exception as error:
        journal.failed(trial.index, one_line(error), final=trial.starts + 1 >= MAX_STARTS)
        raise
    else:
        journal.finished(trial.index, score, time.monotonic() - begun, {"dice": dice})


def chunk_folder(folder: Path, candidates: Sequence[Sequence[str]]) -> Path:
    """The folder in which these candidates are evaluated."""
    return folder / f"chunk_{digest(candidates)}"


def ended_candidates(folder: Path, search: Mapping[str, Any] | None = None) -> dict[tuple[str, ...], Trial]:
    """
    The trials of all chunks that have ended, by their operations; also while others are evaluated.

    Args:
        folder: the folder of all chunks.
        search: what makes scores comparable; None takes any.

    Raises:
        ValueError: when a journal belongs to another search, or is damaged.
    """
    ended: dict[tuple[str, ...], Trial] = {}
    for path in sorted(folder.glob(f"chunk_*/{_JOURNAL}")):
        content = read_journal(path)
        if search is not None:
            here = header_of(_KIND, {**content.settings, "search": dict(search)})
            if different := differences(content, here):
                raise ValueError(f"{folder}: has candidates of another search ({different}); delete it to start anew.")
        for trial in content.trials:
            if trial.ended is not None and isinstance(trial.proposal.candidate, tuple):
                ended[tuple(map(str, trial.proposal.candidate))] = trial
    return ended
