# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Running statistics of BatchNorms after the layers in front of them have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from cakes_monai.blocks.network_copy import copied

__all__ = ["recalibrate_norms"]


def recalibrate_norms(network: nn.Module, before: nn.Module, volumes: Sequence[Tensor]) -> None:
    """
    Bring running means and variances to what they would be, had the network been trained as it is now.

    Means are shifted by the difference, and variances scaled by the ratio, of what the volumes give in the network now
    and before. Few volumes do for that: what they have in common with all of the training data cancels out, and where
    nothing has changed the statistics stay what they were.

    Args:
        network: the network now; only running statistics of its BatchNorms are changed.
        before: the network before, with norms of the same names.
        volumes: inputs, ``(N, C, D, H, W)``.
    """
    norms = {n: m for n, m in network.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    if not norms:
        return
    now, then = (_statistics(version, volumes) for version in (network, before))
    with torch.no_grad():
        for name, norm in norms.items():
            (mean, variance), (mean_before, variance_before) = now[name], then[name]
            trained: Any = before.get_submodule(name)
            ratio = torch.where(variance_before > 0, variance / variance_before, 1)
            norm.running_mean = trained.running_mean + (mean - mean_before)
            norm.running_var = trained.running_var * ratio


def _statistics(network: nn.Module, volumes: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance that the volumes give in each BatchNorm, with the same dropout in every call."""
    shadow = copied(network)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        update_bn(volumes, shadow)
    norms = {name: module for name, module in shadow.named_modules() if isinstance(module, _BatchNorm)}
    found = {name: (norm.running_mean, norm.running_var) for name, norm in norms.items()}
    return {name: (m, v) for name, (m, v) in found.items() if m is not None and v is not None}
