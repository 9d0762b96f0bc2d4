# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From a trained super-network of CAKES to the architecture it found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import monai
import torch
from torch import nn

from cakes_monai import __version__
from cakes_monai.architecture import KERNEL_SETS, Architecture, KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.blocks import gate_magnitudes
from cakes_monai.cost import Cost
from cakes_monai.inference.path_latency import measure_path_latency, path_layers
from cakes_monai.search import Budget, KernelDerivation, latency_budget, network_budget, rank_kernels

__all__ = ["KernelSupernet", "derive_kernels", "kernel_budget"]


@runtime_checkable
class KernelSupernet(Protocol):
    """What a network with candidate paths offers, so that kernels can be searched with it."""

    in_channels: int
    sub_kernels: tuple[str, ...]
    priority: str

    def derived(
        self, splits: Mapping[str, KernelSplit], origin: Mapping[str, Any] | None = None
    ) -> Architecture | BackboneArchitecture:
        """The architecture with these splits in the places of the paths."""

    def derived_cost(self, splits: Mapping[str, KernelSplit], size: Sequence[int]) -> Cost:
        """What the network with these splits costs for one input of ``size``."""


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
        network: a super-network, see :class:`KernelSupernet`, within DistributedDataParallel or not.
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
    bare = _supernet(network)
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
    return KernelDerivation(bare.derived(ranking.splits, said), ranking)


def kernel_budget(
    network: nn.Module,
    limit: float,
    unit: str,
    size: Sequence[int],
    cache: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Budget:
    """
    What the network that is searched for may cost.

    Args:
        network: the super-network.
        limit: largest total allowed.
        unit: "params", "multiply_adds" or "paper_flops" of the whole network, or "ms" of its searched convolutions,
            measured on this machine, see :func:`~cakes_monai.search.latency_budget`.
        size: voxels (video: frames, rows, columns) of the input.
        cache: JSON file that keeps measured times.
        dtype: type in which times are measured.

    Raises:
        ValueError: for an unknown unit, or when ``network`` is no super-network.
    """
    bare = _supernet(network)
    layers = path_layers(bare, (1, bare.in_channels, *size))
    if unit == "ms":
        device = next(network.parameters()).device
        return latency_budget(limit, layers, measure_path_latency(layers, device, dtype, cache))
    splits = {name: KernelSplit.even(layer.sub_kernels, layer.out_channels) for name, layer in layers.items()}
    return network_budget(limit, unit, layers, splits, bare.derived_cost(splits, size))


def _supernet(network: nn.Module) -> Any:
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    if not isinstance(bare, KernelSupernet):
        raise ValueError(f"kernels are derived from a super-network, not from a {type(bare).__name__}.")
    return bare
