# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A trial of a search: a whole training of a bundle, in the process and the folder of the trial."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from cakes_monai.architecture import Architecture
from cakes_monai.cost import c2fnas_cost

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
    configs = [str(Path(bundle) / "configs" / file) for file in files]
    gpus = torch.cuda.device_count()
    _train_on_all(configs, given, gpus) if gpus > 1 else _train_here(configs, given)
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


def _train_here(configs: Sequence[str], options: Mapping[str, Any]) -> None:
    workflow = ConfigWorkflow(config_file=list(configs), logging_file=False, workflow_type="train", **options)
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        raise _cause(error) from error


def _train_on_all(configs: Sequence[str], options: Mapping[str, Any], gpus: int) -> None:
    overlay = str(Path(configs[0]).with_name("multi_gpu_train.json"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={gpus}"]
    command += ["-m", "monai.bundle", "run", "--config_file", str([*configs, overlay])]
    result = subprocess.run([*command, *(f"--{name}={value}" for name, value in options.items())], env=os.environ)
    if result.returncode:
        raise RuntimeError(f"the training on {gpus} GPUs ended with exit status {result.returncode}, see its log.")


def _cause(error: BaseException) -> BaseException:
    """What MONAI wrapped into "Failed to evaluate ..."."""
    while isinstance(error, RuntimeError) and str(error).startswith("Failed to ") and error.__cause__ is not None:
        error = error.__cause__
    return error
