# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One call that puts CAKES in the place of the 3x3x3 convolutions of a network and keeps what they have learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from cakes_monai.blocks.network_copy import copied
from cakes_monai.conversion.channel_importance import channel_importance
from cakes_monai.conversion.division import Channels, Division, Kernels, splits_of
from cakes_monai.conversion.layer_budget import layer_budget
from cakes_monai.conversion.layer_search import LayerSearch, Patterns, find_layers
from cakes_monai.conversion.norm_statistics import recalibrate_norms
from cakes_monai.conversion.patches import sample_patches, sampled_layers
from cakes_monai.conversion.projection import INITS, Candidates, project, restrict
from cakes_monai.conversion.refit import refit_layers
from cakes_monai.conversion.replacement import DenseLayer, cakes_conv_like, dense_kernel, replace_layer, set_channels
from cakes_monai.conversion.report import ShrinkReport, report_of

__all__ = ["shrink"]


def shrink(
    network: nn.Module,
    kernels: Kernels,
    volumes: Iterable[Tensor] = (),
    *,
    init: str = "project",
    division: str = "even",
    granularity: int = 1,
    budget: Mapping[str, Any] | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    keep_ends: bool = True,
    input_shape: Sequence[int] | None = None,
    samples: int = 4096,
) -> tuple[nn.Module, ShrinkReport]:
    """
    Replace the 3x3x3 convolutions of a network by CakesConvs that start from what these have learnt.

    Every output channel gets a sub-kernel with which the network loses least: what a channel loses of its own counts
    by how much the network's output depends on it. Biases, strides, padding modes, types, devices and the order of
    channels are kept, so the network's other layers stay as they are. Running statistics of BatchNorms are corrected on
    the volumes.

    Args:
        network: any network; it is not changed.
        kernels: candidates, the name of a set ("12d", "123d" ...) or a list of sub-kernels; or proportions for all
            layers, e.g. ``{"3x3x3": 1, "1x3x3": 3}``; or a split for each layer to shrink, also an architecture.
        volumes: a few inputs of the network, ``(N, C, D, H, W)``, prepared as for inference.
        init: "project" fits the sub-kernels to what the layers read when the network runs on the volumes, by least
            squares, and then once more, layer after layer, to what they read in the shrunken network; "slice" keeps the
            taps of the dense kernel, "sum" adds up those of the axes that are dropped; "random" starts anew.
        division: with a set, "even" gives each sub-kernel as many channels (the papers' manual setting), "best" as
            many as lose least. A larger sub-kernel never loses more, so "best" wants sub-kernels of one size or a
            budget.
        granularity: with a set, every sub-kernel gets a multiple of this many channels.
        budget: with division "best" what the whole network may cost: ``{"limit": ..., "unit": "params" |
            "multiply_adds" | "paper_flops"}`` or ``{"share": 0.5, "unit": ...}`` of what it costs now; or
            ``{"limit": ..., "unit": "ms"}`` for the replaced convolutions, measured on this machine.
        include: names of the convolutions to replace as patterns, e.g. ``"encoder.*"``.
        exclude: names of those to leave alone.
        keep_ends: leave alone what reads the image and the convolution that is run last, as in the papers.
        input_shape: ``(N, C, D, H, W)`` for which multiply-adds are counted; by default the first volume's, else one
            image of 96x96x96.
        samples: patches of its input that each layer is fitted to and its error measured on. They take
            ``27 * in_channels * samples`` numbers, at most half a GiB at a time (or one layer's).

    Returns:
        The new network and a report: architecture, splits, cost before and after, what each layer loses.

    Raises:
        ValueError: for options that are unknown or do not fit each other, everything
            :func:`~cakes_monai.conversion.find_layers` refuses, a budget no division can meet, and volumes that the
            network does not take.

    Example:
        >>> shrunken, report = shrink(DynUNet(...), "123d", volumes)
        >>> print(report.table())
    """
    images = _checked(network, volumes, init, division, budget, samples)
    rule = Division(kernels, division, granularity)
    shape = tuple(images[0].shape) if images and input_shape is None else input_shape
    found = find_layers(network, shape, include, exclude, keep_ends)
    layers = rule.select(found.layers)
    for name, layer in layers.items():
        rule.split(name, layer.out_channels)
    limit = None if budget is None else layer_budget(network, found.trace, layers, rule, budget)
    candidates = _candidates(network, found, layers, rule, init, images, samples)
    errors = {name: candidate.errors.cpu().numpy() for name, candidate in candidates.items()}
    known = images and init != "random"
    channels = rule.assign(errors, limit, channel_importance(network, layers, images) if known else None)
    shrunken = _replaced(network, channels, candidates if init != "random" else {})
    if init == "project":
        refit_layers(shrunken, network, found.trace, channels, candidates, images, samples)  # and its norms
    elif images:
        recalibrate_norms(shrunken, network, images)
    origin: dict[str, Any] = {"stage": "shrink", "init": init, "division": division, "granularity": granularity}
    origin |= {"budget": None if budget is None else dict(budget), "volumes": len(images)}
    lost = {} if init == "random" else _lost(errors, channels, rule)
    return shrunken, report_of(network, shrunken, found, splits_of(channels), lost, origin)


def _checked(
    network: nn.Module, volumes: Iterable[Tensor], init: str, division: str, budget: Any, samples: int
) -> list[Tensor]:
    """The volumes where the network is, when all options fit each other."""
    if init not in INITS:
        raise ValueError(f"unknown init {init!r}, allowed are {', '.join(INITS)}.")
    if init == "random" and division != "even":
        raise ValueError("random weights tell no sub-kernel from another; init 'random' needs division 'even'.")
    if budget is not None and division != "best":
        raise ValueError("a budget is for division 'best'; an even division costs what it costs.")
    if samples < 1:
        raise ValueError(f"samples {samples} must be at least 1.")
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    images = [convert_to_tensor(volume, track_meta=False).to(like) for volume in volumes]
    if init == "project" and not images:
        raise ValueError("init 'project' needs volumes for the network to run on; without any use 'slice' or 'sum'.")
    for number, image in enumerate(images):
        if image.dim() != 5:
            raise ValueError(f"volumes[{number}] has shape {tuple(image.shape)}, it must be (N, C, D, H, W).")
    return images


def _candidates(
    network: nn.Module,
    found: LayerSearch,
    layers: Mapping[str, DenseLayer],
    rule: Division,
    init: str,
    images: Sequence[Tensor],
    samples: int,
) -> dict[str, Candidates]:
    """Weights and errors of every sub-kernel of every channel."""
    modules = dict(network.named_modules())
    candidates = {}
    for group in sampled_layers(layers, samples):
        patches = sample_patches(network, group, images, samples) if images and init != "random" else {}
        for name, layer in group.items():
            norm = modules.get(found.trace.layers[name].norm or "")
            centred = layer.bias is not None or _takes_means_away(norm)
            kernel, names = dense_kernel(layer).detach(), rule.candidates(name)
            if init == "project":
                candidates[name] = project(kernel, names, patches.pop(name), centred)
            else:
                candidates[name] = restrict(kernel, names, init, patches.pop(name, None), centred)
    return candidates


def _takes_means_away(norm: nn.Module | None) -> bool:
    """Whether the mean of a channel in front of a norm does not matter, given that BatchNorms are recalibrated."""
    return isinstance(norm, _BatchNorm) or (isinstance(norm, _InstanceNorm) and not norm.track_running_stats)


def _lost(errors: Mapping[str, NDArray[np.float64]], channels: Channels, rule: Division) -> dict[str, float]:
    """Mean error of the channels of each layer."""
    lost = {}
    for name, kept in channels.items():
        rows = rule.candidates(name)
        parts = [errors[name][rows.index(kernel)][list(chosen)] for kernel, chosen in kept.items()]
        lost[name] = float(np.concatenate(parts).mean())
    return lost


def _replaced(network: nn.Module, channels: Channels, candidates: Mapping[str, Candidates]) -> nn.Module:
    """A copy of the network with CakesConvs."""
    shrunken = copied(network)
    for name, split in splits_of(channels).items():
        layer: Any = shrunken.get_submodule(name)
        conv = cakes_conv_like(layer, split)
        if name in candidates:
            fitted, bias = candidates[name], layer.bias
            biases = None if bias is None else {k: shift + bias.detach() for k, shift in fitted.shifts.items()}
            set_channels(conv, channels[name], fitted.kernels, biases)
        replace_layer(shrunken, name, conv)
    return shrunken
