# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether Triton's kernels can run on this machine."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

__all__ = ["missing"]

_LEAST_CAPABILITY = (8, 0)  # tensor cores for bfloat16 and TF32, asynchronous copies


def missing(device: torch.device | str | None = None) -> str | None:
    """
    Say in one line what the Triton kernels lack here, None when they can run.

    Args:
        device: the CUDA device in question, by default the current one.
    """
    if find_spec("triton") is None:
        return "Triton is not installed; it comes with PyTorch for CUDA on Linux."
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return "there is no NVIDIA GPU that PyTorch can use."
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, _LEAST_CAPABILITY))
        return f"{torch.cuda.get_device_name(device)} has compute capability {found}, at least {least} is needed."
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler (gcc, clang or CC), with which Triton builds what loads its kernels."
    return None
