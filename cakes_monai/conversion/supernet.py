# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernel search of CAKES on the backbone of any network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from cakes_monai.architecture import KernelSplit, sub_kernel_set
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.blocks import PRIORITIES, SampledPaths, SummedPaths, path_operations
from cakes_monai.blocks.network_copy import copied
from cakes_monai.blocks.transition import Factory
from cakes_monai.conversion.layer_search import LayerSearch, Patterns, find_layers
from cakes_monai.conversion.network_cost import network_cost
from cakes_monai.conversion.rebuilding import rebuild
from cakes_monai.conversion.replacement import (
    DenseLayer,
    cakes_conv_like,
    dense_kernel,
    replace_layer,
    set_channels,
    sub_kernel_of,
)
from cakes_monai.cost import Cost

__all__ = ["BackboneSupernet", "to_supernet"]


def to_supernet(
    network: nn.Module,
    kernels: str | Iterable[str],
    priority: str = "performance",
    *,
    init: str = "slice",
    include: Patterns = "*",
    exclude: Patterns = (),
    keep_ends: bool = True,
    input_shape: Sequence[int] | None = None,
) -> BackboneSupernet:
    """
    Put candidate paths in the place of the 3x3x3 convolutions of a network, for the kernel search of CAKES.

    Searched are the convolutions that :func:`~cakes_monai.conversion.find_layers` finds, whose output a norm with
    scales, and nothing else, reads: these scales are the gates. A bias in front of the norm is left out.

    Args:
        network: any network; it is not changed.
        kernels: candidates: the name of a set ("123d" ...) or a list of sub-kernels.
        priority: "performance" computes one random path per channel in every iteration, "cost" all of them.
        init: "slice" starts every path with the taps of the dense kernel and the state of its norm, "random" anew.
        include: names of the convolutions to search as patterns, e.g. ``"encoder.*"``.
        exclude: names of those to leave alone.
        keep_ends: leave alone what reads the image and the convolution that is run last, as in the papers.
        input_shape: ``(N, C, D, H, W)`` of an input of the network, by default one image of 96x96x96.

    Raises:
        ValueError: for an unknown priority, set, sub-kernel or init, everything ``find_layers`` refuses, and when no
            convolution has a norm with scales behind it.

    Example:
        >>> supernet = to_supernet(DynUNet(...), "123d", "performance")
        >>> # train it with cakes_monai.handlers.PathSampler, then
        >>> found = derive_kernels(supernet)
        >>> network = rebuild(DynUNet(...), found.architecture)
    """
    names = sub_kernel_set(kernels)
    if priority not in PRIORITIES:
        raise ValueError(f"unknown priority {priority!r}, allowed are {', '.join(PRIORITIES)}.")
    if init not in ("slice", "random"):
        raise ValueError(f"unknown init {init!r}, allowed are slice, random.")
    found = find_layers(network, input_shape, include, exclude, keep_ends)
    modules = dict(network.named_modules())
    reasons = {name: _unsearchable(layer, modules.get(_norm(found, name))) for name, layer in found.layers.items()}
    if all(reasons.values()):
        said = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
        raise ValueError(f"no convolution of {type(network).__name__} has gates to search with: {said}.")
    norms = {name: _norm(found, name) for name, reason in reasons.items() if reason is None}
    passed_over = {**found.passed_over, **{name: reason for name, reason in reasons.items() if reason is not None}}
    return BackboneSupernet(network, names, priority, norms, passed_over, init == "slice", found.trace.input_shape[1])


def _norm(found: LayerSearch, name: str) -> str:
    return found.trace.layers[name].norm or ""


def _unsearchable(layer: DenseLayer, norm: nn.Module | None) -> str | None:
    """Why a layer has no paths."""
    if layer.padding_mode != "zeros":
        return f"padding mode {layer.padding_mode}, searched is zeros"
    if not isinstance(norm, _BatchNorm | _InstanceNorm | nn.GroupNorm):
        return "no norm alone reads its output"
    return "its norm has no scales" if norm.weight is None else None


class BackboneSupernet(nn.Module):
    """
    Super-network of CAKES (Yu et al., AAAI 2021, "Search for an Efficient Replacement") on any backbone.

    Made by :func:`to_supernet`; a :class:`cakes_monai.workflows.KernelSupernet`. Inputs and outputs are those of the
    backbone.

    Args:
        network: the backbone; it is not changed.
        sub_kernels: candidates in the canonical order.
        priority: "performance" or "cost".
        norms: for each searched convolution the norm behind it, both by name.
        passed_over: all other convolutions with the reason.
        warm: whether paths start from the backbone's weights.
        in_channels: channels of the image.
    """

    def __init__(
        self,
        network: nn.Module,
        sub_kernels: tuple[str, ...],
        priority: str,
        norms: Mapping[str, str],
        passed_over: Mapping[str, str],
        warm: bool,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.sub_kernels, self.priority, self.in_channels = sub_kernels, priority, in_channels
        self.norms, self.passed_over = dict(norms), dict(passed_over)
        self.network = copied(network)
        self.dense = (copied(network).to("meta"),)  # in a tuple, so that it is no part of this network
        make = SampledPaths if priority == "performance" else SummedPaths
        for name, norm_name in self.norms.items():
            layer: Any = self.network.get_submodule(name)
            norm: Any = self.network.get_submodule(norm_name)
            paths = make(layer.in_channels, layer.out_channels, sub_kernels, _factory(norm), "", layer.stride)
            if warm:
                _start_from(paths, layer, norm)
            kernel = dense_kernel(layer)
            replace_layer(self.network, name, paths.to(kernel.device, kernel.dtype).train(layer.training))
            replace_layer(self.network, norm_name, nn.Identity())
        self.training = network.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - described above
        return self.network(*args, **kwargs)

    def derived(
        self, splits: Mapping[str, KernelSplit], origin: Mapping[str, Any] | None = None
    ) -> BackboneArchitecture:
        """The architecture with these splits in the places of the paths, for ``rebuild``."""
        places = {name.removeprefix("network."): split for name, split in splits.items()}
        return BackboneArchitecture.of_splits(type(self.network).__name__, places, origin)

    def derived_cost(self, splits: Mapping[str, KernelSplit], size: Sequence[int]) -> Cost:
        """What the :meth:`derived` network costs for an image of ``size`` voxels along D, H and W."""
        return network_cost(rebuild(self.dense[0], self.derived(splits)), (1, self.in_channels, *size))

    def derived_network(self, channels: Mapping[str, Mapping[str, Sequence[int]]]) -> nn.Module:
        """
        The network of chosen paths with their weights, which equals this one in eval mode with these paths kept.

        Args:
            channels: for each layer the channels of each sub-kernel, as :func:`cakes_monai.blocks.keep_paths` takes
                them, e.g. those of :class:`cakes_monai.search.KeptPaths`.

        Raises:
            ValueError: unless the priority is "performance" and every channel has exactly one sub-kernel.
        """
        if self.priority != "performance":
            raise ValueError("paths of cost priority are added up, a network of one path each starts anew: rebuild it.")
        derived = copied(self.network)
        for name, operation in path_operations(self).items():
            place = name.removeprefix("network.")
            operation.keep(channels[name])  # refuses channels with none or several sub-kernels
            operation.keep(None)
            self._put_chosen(derived, place, operation, channels[name])
        return derived

    def _put_chosen(
        self, derived: nn.Module, place: str, operation: SampledPaths, channels: Mapping[str, Sequence[int]]
    ) -> None:
        dense, weight = self.dense[0], operation.gates
        layer: Any = dense.get_submodule(place)
        split = {name: len(chosen) for name, chosen in channels.items()}
        conv = cakes_conv_like(layer, split).to_empty(device=weight.device).train(operation.training)
        kernels = {name: part.get_parameter("weight") for name, part in operation.conv.sub_kernels.items()}
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)  # the norm takes a bias away, so paths have none
        set_channels(conv, channels, kernels)
        replace_layer(derived, place, conv)
        norm = copy.deepcopy(dense.get_submodule(self.norms[place])).to_empty(device=weight.device)
        paths = torch.empty(conv.out_channels, dtype=torch.long)
        for name, chosen in channels.items():
            paths[list(chosen)] = self.sub_kernels.index(name)
        with torch.no_grad():
            for name, value in operation.norm.norm.state_dict().items():
                picked = value[paths, torch.arange(len(paths))] if value.dim() else value
                norm.state_dict()[name].copy_(picked)
        replace_layer(derived, self.norms[place], norm.train(operation.training))


def _factory(norm: Any) -> Factory:
    """A norm as MONAI names it."""
    if isinstance(norm, nn.GroupNorm):
        return "GROUP", {"num_groups": norm.num_groups, "eps": norm.eps}
    options = {"eps": norm.eps, "momentum": norm.momentum, "track_running_stats": norm.track_running_stats}
    if isinstance(norm, _InstanceNorm):
        return "INSTANCE", {"affine": True, **options}
    return "SYNCBATCH" if isinstance(norm, SyncBatchNorm) else "BATCH", options


def _start_from(paths: Any, layer: DenseLayer, norm: Any) -> None:
    """Give every path the taps of the dense kernel, and scales, shifts and statistics of its norm."""
    with torch.no_grad():
        for name, part in paths.conv.sub_kernels.items():
            part.get_parameter("weight").copy_(sub_kernel_of(dense_kernel(layer), name))
        state = (paths.norm.norm if isinstance(paths, SampledPaths) else paths.adn.N).state_dict()
        for name, value in norm.state_dict().items():
            if name == "running_mean" and layer.bias is not None:
                value = value - layer.bias
            times = state[name].numel() // max(1, value.numel())
            state[name].copy_(value.repeat(times).view_as(state[name]) if value.dim() else value)
