# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers make up for what the shrunken layers before them lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cakes_monai.blocks import CakesConv
from cakes_monai.conversion.division import Channels
from cakes_monai.conversion.network_trace import NetworkTrace
from cakes_monai.conversion.norm_statistics import recalibrate_norms
from cakes_monai.conversion.patches import sample_patches
from cakes_monai.conversion.projection import Candidates, fit_again
from cakes_monai.conversion.replacement import set_channels

__all__ = ["refit_layers"]


def refit_layers(
    shrunken: nn.Module,
    network: nn.Module,
    trace: NetworkTrace,
    channels: Channels,
    candidates: Mapping[str, Candidates],
    volumes: Sequence[Tensor],
    samples: int,
) -> None:
    """
    Fit the sub-kernels once more: the output as in the dense network, though the input no longer is.

    Layer after layer in the order in which they are run, as in "Whole Model Pruning" of He et al., Channel Pruning for
    Accelerating Very Deep Neural Networks, ICCV 2017. Channels that have kept 3x3x3 are fitted, too. BatchNorms follow
    step by step.

    Args:
        shrunken: the network with CakesConvs fitted one by one, which is changed.
        network: the dense network.
        trace: a run of it.
        channels: output channels of each sub-kernel of each layer.
        candidates: what the layers were fitted to.
        volumes: inputs of the network, ``(N, C, D, H, W)``.
        samples: patches of each layer; the places are those of the first fit.
    """
    for name in (layer for layer in trace.layers if layer in channels):
        conv, fitted = shrunken.get_submodule(name), candidates[name]
        assert isinstance(conv, CakesConv)
        kept = {kernel: torch.tensor(chosen) for kernel, chosen in channels[name].items()}
        patches = sample_patches(shrunken, {name: conv}, volumes, samples)[name]
        kernels, shifts = fit_again(fitted, kept, patches)
        bias: Any = network.get_submodule(name).bias
        biases = None if bias is None else {kernel: shift + bias.detach() for kernel, shift in shifts.items()}
        set_channels(conv, channels[name], kernels, biases)
        recalibrate_norms(shrunken, network, volumes)
