# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The weights that a cross-validation left."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cakes_monai.search import CROSS_VALIDATION, read_journal
from cakes_monai.workflows.cross_validation import fold_folder
from cakes_monai.workflows.fold_trial import WEIGHTS
from cakes_monai.workflows.trial_driver import JOURNAL, LIMIT

__all__ = ["fold_weights"]


def fold_weights(folder: str | os.PathLike[str]) -> list[str]:
    """
    Weights of all folds in the order of the folds.

    Args:
        folder: output folder of a :class:`CrossValidation` that has ended.

    Raises:
        ValueError: when there is no cross-validation, or one of its folds has no result: its weights, if there are any,
            are those of a training that was not at its end.
    """
    folder = Path(folder)
    if not (folder / JOURNAL).is_file():
        raise ValueError(
            f"{folder}: has no cross-validation; run cross_validation.json, or give --folds_dir or --weights."
        )
    content = read_journal(folder / JOURNAL)
    if content.kind != CROSS_VALIDATION:
        raise ValueError(f"{folder}: has a search of kind {content.kind!r}, allowed is a {CROSS_VALIDATION}.")
    finished = sorted(int(trial.proposal.candidate) for trial in content.trials if trial.score is not None)  # type: ignore[arg-type]
    count = json.loads((folder / LIMIT).read_text(encoding="utf-8"))["trials"]
    if len(finished) != count:
        have = f"{len(finished)} of {count} folds have a result ({', '.join(map(str, finished)) or 'none'})"
        raise ValueError(f"{folder}: {have}; end the cross-validation with --resume True, or give --weights.")
    return [str(fold_folder(folder, fold) / WEIGHTS) for fold in finished]
