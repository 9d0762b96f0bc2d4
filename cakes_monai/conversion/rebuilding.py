# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A shrunken network from its original constructor, architecture.json and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.blocks.network_copy import copied
from cakes_monai.conversion.layer_search import unsuitable_because
from cakes_monai.conversion.replacement import cakes_conv_like, replace_layer

__all__ = ["load_shrunken", "rebuild"]


def rebuild(
    network: nn.Module, architecture: BackboneArchitecture | Mapping[str, Any] | str | os.PathLike[str]
) -> nn.Module:
    """
    A copy of a network with new CakesConvs in the places that an architecture names.

    Channels are in the order of their sub-kernels, until weights are loaded that have another one: it is a part of the
    state dict, not of the architecture.

    Args:
        network: the network as its constructor makes it; it is not changed.
        architecture: splits by layer, or the content of its JSON, or the file.

    Raises:
        ValueError: when a layer is not in the network, or has other channels, or the file cannot be read.

    Example:
        >>> network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1))
        >>> split = {"3x3x3": 2, "1x3x3": 2}
        >>> rebuild(network, {"format": 1, "backbone": "Sequential", "layers": {"0": [split]}})[0].split.as_dict()
        {'3x3x3': 2, '1x3x3': 2}
    """
    if isinstance(architecture, str | os.PathLike):
        architecture = BackboneArchitecture.load(architecture)
    found = BackboneArchitecture.of(architecture)
    rebuilt = copied(network)
    modules = dict(rebuilt.named_modules())
    for name, splits in found.layers.items():
        layer: Any = modules.get(name)
        reason = "is not in the network" if layer is None else unsuitable_because(name, layer)
        if reason is not None or len(splits) > 1:
            reason = reason or "has several splits"
            raise ValueError(f"{name}: the architecture has a split for what cannot be shrunk ({reason}).")
        try:
            replace_layer(rebuilt, name, cakes_conv_like(layer, splits[0]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return rebuilt


def load_shrunken(
    network: nn.Module, architecture: str | os.PathLike[str], weights: str | os.PathLike[str]
) -> nn.Module:
    """
    A shrunken network as it was saved.

    Args:
        network: the network as its constructor makes it; it is not changed.
        architecture: architecture.json.
        weights: file with the state dict.

    Raises:
        ValueError: when a file cannot be read or is not what it should be, or the three do not fit each other.

    Example:
        >>> shrunken, report = shrink(network, "12d", init="slice")
        >>> report.architecture.save("architecture.json")
        >>> torch.save(shrunken.state_dict(), "model.pt")
        >>> shrunken = load_shrunken(DynUNet(**arguments), "architecture.json", "model.pt")
    """
    rebuilt = rebuild(network, architecture)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises all kinds
        raise ValueError(f"{weights}: this is no file of weights ({type(error).__name__}).") from error
    try:
        rebuilt.load_state_dict(state)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{weights}: {' '.join(str(error).split())}") from error
    return rebuilt
