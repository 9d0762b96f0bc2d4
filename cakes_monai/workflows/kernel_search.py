# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From a trained super-network of CAKES to the architecture it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import monai
import torch
from torch import nn

from cakes_monai import __version__
from cakes_monai.architecture import KERNEL_SETS
from cakes_monai.blocks import gate_magnitudes
from cakes_monai.nets import C2FNASSupernet
from cakes_monai.search import Budget, KernelDerivation, derived_architecture, rank_kernels

__all__ = ["derive_kernels"]


def derive_kernels(
    network: nn.Module,
    rule: str = "argmax",
    granularity: int = 1,
    budget: Budget | None = None,
    seed: int | None = None,
    data: Any = None,
    origin: Mapping[str, Any] | None = None,
) -> KernelDerivation:
    """
    The architecture that the gates of a super-network say now.

    Args:
        network: a :class:`~cakes_monai.nets.C2FNASSupernet` of either priority, within DistributedDataParallel or not.
        rule: "argmax" (CAKES, equation 9) or "top_c" (the authors' code).
        granularity: every sub-kernel gets a multiple of this many channels.
        budget: what all layers together may cost.
        seed: seed of the search, for the origin.
        data: fingerprint of the data, for the origin.
        origin: more to be said in the origin.

    Raises:
        ValueError: when ``network`` is no such super-network, and everything
            :func:`~cakes_monai.search.rank_kernels` refuses.
    """
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    if not isinstance(bare, C2FNASSupernet):
        raise ValueError(f"kernels are derived from a C2FNASSupernet, not from a {type(bare).__name__}.")
    ranking = rank_kernels(gate_magnitudes(bare), bare.sub_kernels, rule, granularity, budget)
    named = {kernels: name for name, kernels in KERNEL_SETS.items()}
    said: dict[str, Any] = {
        "stage": "kernels",
        "priority": bare.priority,
        "set": named.get(bare.sub_kernels, list(bare.sub_kernels)),
        "rule": rule,
        "granularity": granularity,
        "budget": None if budget is None else {"limit": budget.limit, "unit": budget.unit, "cost": ranking.cost},
        "seed": seed,
        "versions": {"cakes_monai": __version__, "torch": str(torch.__version__), "monai": monai.__version__},
        "data": data,
        **(origin or {}),
    }
    return KernelDerivation(derived_architecture(bare.topology, ranking, said), ranking)
