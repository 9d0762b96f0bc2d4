# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A trial of a search: a whole training of a bundle, in the process and the folder of the trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cakes_monai.architecture import Architecture
from cakes_monai.cost import c2fnas_cost
from cakes_monai.workflows.bundle_run import run_bundle

__all__ = ["train_bundle"]


def train_bundle(
    folder: str | Path,
    bundle: str,
    files: Sequence[str],
    architecture: Mapping[str, Any],
    options: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """
    Train the bundle's network with an architecture, the function of an engine's task.

    A trial that was killed goes on from its checkpoint. With several GPUs visible the training runs on all of them
    (torchrun and the bundle's multi_gpu_train.json).

    Args:
        folder: gets architecture.json, the checkpoint, logs, and the weights in ``models``.
        bundle: the bundle's folder.
        files: configs of the training, in the bundle's folder ``configs``.
        architecture: content of architecture.json.
        options: of the configs.
        cost: arguments of :func:`~cakes_monai.cost.c2fnas_cost` but the architecture.

    Returns:
        "score", the best validation metric, its epoch, and parameters, multiply-adds and FLOPs of the network.

    Raises:
        Exception: what the training raised, without MONAI's own exceptions around it.
        FloatingPointError: when the score is no finite number.
    """
    folder = Path(folder)
    found = Architecture.from_json(architecture)
    found.save(folder / "architecture.json")
    given = {
        **options,
        "bundle_root": bundle,
        "architecture": str(folder / "architecture.json"),
        "output_dir": str(folder),
        "ckpt_dir": str(folder / "models"),
        "resume": True,
    }
    run_bundle(bundle, files, given, "multi_gpu_train.json")
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    score, epoch = state["best_metric"], state["best_metric_epoch"]
    if epoch < 0 or not math.isfinite(score):
        raise FloatingPointError(f"the best validation score is {score} (epoch {epoch}), no finite number.")
    size = c2fnas_cost(found, **cost)
    return {
        "score": score,
        "epoch": epoch,
        "params": size.params,
        "multiply_adds": size.multiply_adds,
        "paper_flops": size.paper_flops,
    }
