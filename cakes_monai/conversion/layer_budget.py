# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the sub-kernels of each layer of a network may cost together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cakes_monai.conversion.division import Division
from cakes_monai.conversion.network_cost import network_cost
from cakes_monai.conversion.network_trace import LayerTrace, NetworkTrace
from cakes_monai.conversion.replacement import DenseLayer
from cakes_monai.inference import measure_path_latency
from cakes_monai.search import BUDGET_UNITS, Budget, PathLayer, latency_budget

__all__ = ["layer_budget"]


def layer_budget(
    network: nn.Module,
    trace: NetworkTrace,
    layers: Mapping[str, DenseLayer],
    division: Division,
    budget: Mapping[str, Any],
) -> Budget:
    """
    Costs of the candidates of all layers, and what is left for them.

    Args:
        network: the network.
        trace: a run of it.
        layers: its convolutions that are divided.
        division: their candidates.
        budget: ``{"limit": ..., "unit": ...}`` or ``{"share": ..., "unit": ...}`` as for
            :func:`~cakes_monai.conversion.shrink`.

    Raises:
        ValueError: for a budget that is none of these.
    """
    units = (*BUDGET_UNITS, "ms")
    unit, limit = budget.get("unit"), float(budget.get("limit", 0))
    if set(budget) not in ({"limit", "unit"}, {"share", "unit"}) or unit not in units or (unit == "ms" and not limit):
        allowed = f"a unit of {', '.join(units)} and a limit, or a share of all but ms"
        raise ValueError(f"budget {dict(budget)} must have {allowed}.")
    paths = {name: _path_layer(layer, trace.layers[name], division.candidates(name)) for name, layer in layers.items()}
    if unit == "ms":
        like = next(network.parameters())
        return latency_budget(limit, paths, measure_path_latency(paths, like.device, like.dtype))
    each = {n: 1 if unit == "params" else trace.layers[n].outputs // layer.out_channels for n, layer in layers.items()}
    costs = {name: tuple(weights * each[name] for weights in path.params) for name, path in paths.items()}
    total = getattr(network_cost(network, trace), unit)
    dense = sum(27 * layer.in_channels * layer.out_channels * each[name] for name, layer in layers.items())
    return Budget(limit or total * budget["share"], costs, total - dense, unit)


def _path_layer(layer: DenseLayer, trace: LayerTrace, sub_kernels: tuple[str, ...]) -> PathLayer:
    depth, height, width = trace.size
    stride = (int(layer.stride[0]), int(layer.stride[1]), int(layer.stride[2]))
    return PathLayer(sub_kernels, layer.in_channels, layer.out_channels, (depth, height, width), stride)
