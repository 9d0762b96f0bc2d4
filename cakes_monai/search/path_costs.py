# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What each candidate sub-kernel of each layer costs, and the weight of its gate in the penalty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from cakes_monai.architecture import KernelSplit, Topology, kernel_size, sub_kernel_set
from cakes_monai.cost import Cost

__all__ = [
    "BUDGET_UNITS",
    "Budget",
    "PathLayer",
    "c2fnas_path_layers",
    "cost_betas",
    "latency_budget",
    "network_budget",
    "parameter_betas",
]

#: What a closed-form budget can count.
BUDGET_UNITS = ("params", "multiply_adds", "paper_flops")


@dataclass(frozen=True)
class PathLayer:
    """
    A convolution of a super-network, of which every output channel has one path for each sub-kernel.

    Args:
        sub_kernels: candidates in the canonical order.
        in_channels: number of input channels.
        out_channels: number of output channels C.
        size: voxels of the input along D, H and W.
        stride: along D, H and W.
        batch: images at a time.
    """

    sub_kernels: tuple[str, ...]
    in_channels: int
    out_channels: int
    size: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    batch: int = 1

    @property
    def voxels(self) -> int:
        """Voxels of the output for one image."""
        return prod(ceil(length / stride) for length, stride in zip(self.size, self.stride, strict=True))

    @property
    def params(self) -> tuple[int, ...]:
        """Weights of one output channel with each sub-kernel."""
        return tuple(self.in_channels * prod(kernel_size(name)) for name in self.sub_kernels)

    @property
    def multiply_adds(self) -> tuple[int, ...]:
        """Multiply-adds of one output channel with each sub-kernel for one image, counted as the papers do."""
        return tuple(self.voxels * weights for weights in self.params)


def c2fnas_path_layers(
    topology: Topology, sub_kernels: str | Iterable[str], init_filters: int = 32, size: Sequence[int] = (96, 96, 96)
) -> dict[str, PathLayer]:
    """Layers of :class:`cakes_monai.nets.C2FNASSupernet` by name, for an image of ``size`` voxels."""
    names, divisor = sub_kernel_set(sub_kernels), topology.divisor
    layers = {}
    for cell, (level, inputs) in enumerate(zip(topology.levels, topology.inputs, strict=True)):
        channels = init_filters * 2 ** (level + 1)
        depth, height, width = (ceil(length / divisor) * divisor // 2 ** (level + 1) for length in size)
        for branch in range(len(inputs)):
            layer = PathLayer(names, channels, channels, (depth, height, width))
            layers[f"cells.{cell}.operations.{branch}"] = layer
    return layers


def parameter_betas(sub_kernels: str | Iterable[str]) -> tuple[float, ...]:
    """
    Beta of each sub-kernel as in CAKES: its taps over the sum of the taps of the dimensions in the set.

    Example:
        >>> parameter_betas(("1x3x3", "3x1x1"))
        (0.75, 0.25)
    """
    names = sub_kernel_set(sub_kernels)
    return _over_dimensions(names, [prod(kernel_size(name)) for name in names])


def cost_betas(layers: Mapping[str, PathLayer], costs: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """
    Beta proportional to what a path really costs, in the layer and between layers.

    Within a layer betas are in the ratio of the costs; a layer in which a channel costs twice as much has betas twice
    as large. All are scaled so that the mean over all channels of what :func:`parameter_betas` makes 1 for every
    layer (the sum over dimensions) is 1, so lambda means about the same with every choice of beta.

    Args:
        layers: layers by name.
        costs: for each layer the cost of one output channel with each sub-kernel, in any unit.

    Raises:
        ValueError: when a layer has no costs, or costs that are not above 0.
    """
    for name, layer in layers.items():
        if len(costs.get(name, ())) != len(layer.sub_kernels) or not min(costs[name]) > 0:
            raise ValueError(f"{name}: costs {costs.get(name)}, there must be {len(layer.sub_kernels)} above 0.")
    sums = {name: _sum_over_dimensions(layer.sub_kernels, costs[name]) for name, layer in layers.items()}
    channels = sum(layer.out_channels for layer in layers.values())
    mean = sum(sums[name] * layer.out_channels for name, layer in layers.items()) / channels
    return {name: tuple(cost / mean for cost in costs[name]) for name in layers}


def _over_dimensions(names: Sequence[str], costs: Sequence[float]) -> tuple[float, ...]:
    total = _sum_over_dimensions(names, costs)
    return tuple(cost / total for cost in costs)


def _sum_over_dimensions(names: Sequence[str], costs: Sequence[float]) -> float:
    """Sum over 1D, 2D and 3D of the mean cost of the sub-kernels of that dimension."""
    dimensions = [kernel_size(name).count(3) for name in names]
    pairs = list(zip(dimensions, costs, strict=True))
    groups = [[cost for other, cost in pairs if other == dimension] for dimension in sorted(set(dimensions))]
    return sum(sum(group) / len(group) for group in groups)


@dataclass(frozen=True)
class Budget:
    """
    What all layers together may cost.

    Args:
        limit: largest total allowed.
        costs: for each layer the cost of one output channel with each sub-kernel.
        fixed: cost of all that is not searched, part of the total.
        unit: what is counted, for messages.
    """

    limit: float
    costs: Mapping[str, Sequence[float]]
    fixed: float = 0
    unit: str = "cost"


def network_budget(
    limit: float, unit: str, layers: Mapping[str, PathLayer], splits: Mapping[str, KernelSplit], cost: Cost
) -> Budget:
    """
    Budget for a whole network, all that is not searched included, in closed form.

    Args:
        limit: largest total allowed.
        unit: "params", "multiply_adds" or "paper_flops".
        layers: the searched layers by name, of one image.
        splits: any splits of these layers.
        cost: what the network with these splits costs.

    Raises:
        ValueError: for an unknown unit.
    """
    if unit not in BUDGET_UNITS:
        raise ValueError(f"unknown unit {unit!r}, allowed are {', '.join(BUDGET_UNITS)} and ms.")
    costs = {name: layer.params if unit == "params" else layer.multiply_adds for name, layer in layers.items()}
    searched = sum(
        count * costs[name][layer.sub_kernels.index(kernel)]
        for name, layer in layers.items()
        for kernel, count in splits[name].counts
    )
    return Budget(limit, costs, getattr(cost, unit) - searched, unit)


def latency_budget(
    limit: float, layers: Mapping[str, PathLayer], milliseconds: Mapping[str, Sequence[float]]
) -> Budget:
    """
    Budget in milliseconds for the searched convolutions alone.

    A channel costs its share of the time that the layer takes when all its channels have that sub-kernel. The time of
    a real split is only about the sum of these: few channels fill no vector register (see ``granularity``).

    Args:
        limit: largest total allowed in ms.
        layers: layers by name.
        milliseconds: for each layer the time of the whole layer with each sub-kernel.
    """
    costs = {name: tuple(ms / layer.out_channels for ms in milliseconds[name]) for name, layer in layers.items()}
    return Budget(limit, costs, 0.0, "ms")
