# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One run of a bundle's configs as part of something larger, on all GPUs that this process sees."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

__all__ = ["checked_files", "run_bundle"]


def run_bundle(bundle: str, files: Sequence[str], options: Mapping[str, Any], multi_gpu: str) -> None:
    """
    Run configs of a bundle to the end, and free what they held.

    Args:
        bundle: the bundle's folder.
        files: configs in its folder ``configs``, the later over the earlier.
        options: of the configs.
        multi_gpu: the config that is added, and run by torchrun, when this process sees several GPUs.

    Raises:
        Exception: what the run raised, without MONAI's own exceptions around it.
        RuntimeError: when a run on several GPUs failed.
    """
    gpus = torch.cuda.device_count()
    if gpus > 1:
        _run_on_all([*_paths(bundle, files), *_paths(bundle, [multi_gpu])], options, gpus)
        return
    _run_here(_paths(bundle, files), options)
    gc.collect()  # engines and their handlers hold one another
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def checked_files(bundle: Path, files: Sequence[str]) -> list[str]:
    """
    ``files`` as a list.

    Raises:
        ValueError: for one that is not in the bundle's folder ``configs``, or none at all.
    """
    if not files or isinstance(files, str):
        raise ValueError(f'files: {files!r}, it must be a list of configs of the bundle, e.g. ["train.json"].')
    if missing := [name for name in files if not (bundle / "configs" / name).is_file()]:
        raise ValueError(f"{bundle / 'configs' / missing[0]}: no such file; a trial runs configs of a bundle.")
    return list(files)


def _paths(bundle: str, files: Sequence[str]) -> list[str]:
    return [str(Path(bundle) / "configs" / file) for file in files]


def _run_here(configs: Sequence[str], options: Mapping[str, Any]) -> None:
    workflow = ConfigWorkflow(config_file=list(configs), logging_file=False, workflow_type="train", **options)
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        raise _cause(error) from error


def _run_on_all(configs: Sequence[str], options: Mapping[str, Any], gpus: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={gpus}"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(list(configs))]
    result = subprocess.run([*command, *(f"--{name}={value}" for name, value in options.items())], env=os.environ)
    if result.returncode:
        raise RuntimeError(f"the run on {gpus} GPUs ended with exit status {result.returncode}, see its log.")


def _cause(error: BaseException) -> BaseException:
    """What MONAI wrapped into "Failed to evaluate ..."."""
    while isinstance(error, RuntimeError) and str(error).startswith("Failed to ") and error.__cause__ is not None:
        error = error.__cause__
    return error
