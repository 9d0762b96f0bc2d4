# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Torch with an execution plan for every convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.engine import Engine, Run
from cakes_monai.inference.engines.silence import silent
from cakes_monai.inference.optimization import optimize_for_inference

__all__ = ["PlannedEngine"]


class PlannedEngine(Engine):
    """What :func:`~cakes_monai.inference.optimize_for_inference` makes: this package's own kernels, layer by layer."""

    name = "planned"
    build_seconds = 15.0  # with the compilation of the kernels
    speed = 3.0

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:  # noqa: D102 - see Engine
        with silent("cakes_monai.inference.timing"):  # a busy machine would be warned of for every layer
            planned = optimize_for_inference(network, example, example.device, dtype)
        return lambda x: planned(x).clone()  # a tensor of inference mode cannot be blended in place outside of it
