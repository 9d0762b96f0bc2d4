# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the optimizer does with weights, biases and norms."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["parameter_groups"]


def parameter_groups(network: nn.Module, weight_decay: float = 3e-4) -> list[dict[str, Any]]:
    """
    Groups of the CAKES authors' video code: biases learn twice as fast, and neither they nor norms decay.

    Args:
        network: the network.
        weight_decay: of all other weights.

    Returns:
        Groups for a torch optimizer; "lr_scale" is read by :class:`cakes_monai.handlers.StepLearningRate`.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_norm = isinstance(module, _NormBase | nn.GroupNorm)
            (norms if is_norm else biases if name == "bias" else weights).append(parameter)
    groups = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0, "lr_scale": 2.0},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
