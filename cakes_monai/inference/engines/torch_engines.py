# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch itself, eager and compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.engine import Engine, Run

__all__ = ["CompileEngine", "TorchEngine", "run_eagerly"]


def run_eagerly(network: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Run a network as it is, under autocast for other types than float32; the result is float32."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return network(x).float()


class TorchEngine(Engine):
    """Eager PyTorch, what every other engine is compared with."""

    name = "torch"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:  # noqa: D102 - see Engine
        return lambda x: run_eagerly(network, x, dtype)


class CompileEngine(Engine):
    """``torch.compile`` for one shape; it writes C++ for CPUs and Triton kernels for GPUs, which takes minutes."""

    name = "compile"
    build_seconds = 120.0
    speed = 1.5

    def unsuited(self, device: torch.device) -> str | None:  # noqa: D102 - see Engine
        if device.type == "cuda":
            return None if find_spec("triton") else "Triton is not installed; it comes with PyTorch for CUDA on Linux"
        compilers = (os.environ.get("CXX") or "g++", "clang++", "cl")
        if any(shutil.which(compiler) for compiler in compilers):
            return None
        return "there is no C++ compiler (g++, clang++, cl or CXX), with which torch.compile builds for CPUs"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:  # noqa: D102 - see Engine
        compiled = torch.compile(network, dynamic=False)
        run_eagerly(compiled, example, dtype)
        return lambda x: run_eagerly(compiled, x, dtype)
