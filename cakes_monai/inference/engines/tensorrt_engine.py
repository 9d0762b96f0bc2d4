# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's TensorRT through torch_tensorrt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.engine import Engine, Run

__all__ = ["TensorRTEngine"]


class TensorRTEngine(Engine):
    """
    TensorRT on NVIDIA's GPUs; what it has no operation for is left to torch.

    In bfloat16 all weights are, so the sums of norms are what TensorRT accumulates in.
    """

    name = "tensorrt"
    modules = ("torch_tensorrt",)
    install = "torch-tensorrt"
    build_seconds = 120.0
    speed = 2.0

    def unsuited(self, device: torch.device) -> str | None:  # noqa: D102 - see Engine
        return None if device.type == "cuda" else f"runs on NVIDIA GPUs, not on {device}"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:  # noqa: D102 - see Engine
        import torch_tensorrt

        compiled = torch_tensorrt.compile(network.to(dtype), ir="dynamo", inputs=[example.to(dtype)])
        return lambda x: compiled(x.to(dtype)).float()
