# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One fold of a cross-validation: trained, then measured on its held-out cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cakes_monai.atomic_file import written_whole
from cakes_monai.workflows.bundle_run import run_bundle

__all__ = ["EVALUATION", "WEIGHTS", "run_fold"]

#: Where a fold's weights and the results of its evaluation are, in its folder.
WEIGHTS = "models/model.pt"
EVALUATION = "evaluation"


def run_fold(
    folder: str | Path,
    bundle: str,
    fold: int,
    training: Sequence[str],
    evaluation: Sequence[str],
    options: Mapping[str, Any],
    architecture: Mapping[str, Any] | str | None,
) -> dict[str, Any]:
    """
    Train the bundle's network without a fold and evaluate it there, the function of an engine's task.

    One that was killed goes on from its checkpoint. With several GPUs visible it runs on all of them (torchrun and the
    bundle's multi_gpu_train.json and multi_gpu_evaluate.json).

    Args:
        folder: gets the checkpoint, logs, the weights in ``models``, and the results in ``evaluation``.
        bundle: the bundle's folder.
        fold: number of the part that is held out.
        training: configs of the training, in the bundle's folder ``configs``.
        evaluation: configs of the evaluation.
        options: of both.
        architecture: content of architecture.json, or what else the configs take as ``architecture``; None for theirs.

    Returns:
        "score", the mean over the cases of the mean Dice over the structures, and the number of "cases".

    Raises:
        Exception: what training or evaluation raised, without MONAI's own exceptions around it.
        FloatingPointError: when no held-out case has a Dice.
    """
    folder = Path(folder)
    given = {**options, "bundle_root": bundle, "fold": fold, "ckpt_dir": str(folder / "models")}
    if architecture is not None:
        given["architecture"] = _written(folder / "architecture.json", architecture)
    run_bundle(bundle, training, {**given, "output_dir": str(folder), "resume": True}, "multi_gpu_train.json")
    found = {"output_dir": str(folder / EVALUATION), "weights": str(folder / WEIGHTS)}
    run_bundle(bundle, evaluation, {**given, **found}, "multi_gpu_evaluate.json")
    return _result(folder / EVALUATION / "summary.json")


def _written(path: Path, architecture: Mapping[str, Any] | str) -> str:
    if isinstance(architecture, str):
        return architecture
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(architecture) + "\n", encoding="utf-8")
    return str(path)


def _result(path: Path) -> dict[str, Any]:
    """The score in what CaseReport wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    means = [row["mean"] for row in content["summary"] if (row["metric"], row["structure"]) == ("Dice", "mean")]
    if not means or means[0] is None or not math.isfinite(means[0]):
        raise FloatingPointError(f"{path}: no held-out case has a Dice, so the fold has no score.")
    return {"score": means[0], "cases": content["cases"]}
