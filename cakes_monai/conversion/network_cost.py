# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-adds and the papers' FLOPs of any network, from one run without values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cakes_monai.blocks import CakesConv
from cakes_monai.conversion.network_trace import LayerTrace, NetworkTrace, trace_network
from cakes_monai.cost import Cost, LayerCost

__all__ = ["network_cost"]

_ACTIVATIONS = tuple(
    getattr(activation, name) for name in activation.__all__ if name not in ("MultiheadAttention", "Softmax")
)


def network_cost(network: nn.Module, input_shape: Sequence[int] | NetworkTrace | None = None) -> Cost:
    """
    Cost of a network for one input.

    Counted are modules: multiply-adds of convolutions and linear layers; and, as in the papers' FLOPs, 2 for every
    output of a norm with scales and 1 for every output of an activation, an up-sampling or a biased convolution. What
    a network computes by functions instead of modules is not counted.

    Args:
        network: any network; it is not changed.
        input_shape: ``(N, C, D, H, W)`` of its input, by default one image of 96x96x96; or a run of it.

    Raises:
        ValueError: when the network does not take such an input.

    Example:
        >>> network_cost(nn.Sequential(nn.Conv3d(1, 2, 3, padding=1)), (1, 1, 4, 4, 4)).multiply_adds
        3456
    """
    if not isinstance(input_shape, NetworkTrace):
        input_shape = trace_network(network, input_shape)
    run = input_shape.layers
    counted: list[LayerCost] = []
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if inside and name.startswith(inside):
            continue
        whole = isinstance(module, CakesConv)
        inside = (*inside, f"{name}.") if whole else inside
        params = sum(parameter.numel() for parameter in module.parameters(recurse=whole))
        if params or name in run:
            counted.append(_layer_cost(name, module, params, run.get(name)))
    return Cost(tuple(counted))


def _layer_cost(name: str, module: nn.Module, params: int, trace: LayerTrace | None) -> LayerCost:
    if trace is None:  # has parameters of its own, or is not run
        return LayerCost(name, params, 0, 0)
    return LayerCost(name, params, _multiply_adds(module, trace), _per_output(module) * trace.outputs)


def _multiply_adds(module: nn.Module, trace: LayerTrace) -> int:
    if isinstance(module, CakesConv):
        return trace.outputs // module.out_channels * module.in_channels * module.split.taps
    if isinstance(module, _ConvTransposeNd):
        return trace.inputs * module.out_channels // module.groups * prod(module.kernel_size)
    if isinstance(module, _ConvNd):
        return trace.outputs * module.in_channels // module.groups * prod(module.kernel_size)
    return trace.outputs * module.in_features if isinstance(module, nn.Linear) else 0


def _per_output(module: nn.Module) -> int:
    """Element-wise operations that the papers count for every number of the output."""
    if isinstance(module, _NormBase | nn.GroupNorm):
        return 2 if module.weight is not None else 0
    if isinstance(module, _ConvNd | CakesConv):
        return int(module.bias is not None)
    return int(isinstance(module, (*_ACTIVATIONS, nn.Upsample)))
