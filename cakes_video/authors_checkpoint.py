# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the CAKES authors' video code become architectures and weights of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cakes_monai.architecture import SUB_KERNELS, KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.architectures import check_layers
from cakes_video.residual_plan import BACKBONES, block_plans

__all__ = ["convert_authors_checkpoint", "load_authors_checkpoint"]

#: Of the bottlenecks of their I3D.py: in a replaced convolution "convs.<i>.0" are parallel and "out.0" is their norm,
#: "op.<i>" follow each other, the last one being the norm.
_REPLACED = re.compile(r"(layer\d\.\d+)\.convT\.(convs\.(\d+)\.0|out\.0|op\.(\d+))\.(\w+)")


def load_authors_checkpoint(path: str | os.PathLike[str]) -> tuple[BackboneArchitecture, dict[str, Tensor]]:
    """
    Read a file such as ``8frame_CAKES123D_PerformancePriority.tar``.

    Args:
        path: the file; what it holds beside tensors and plain values is not executed.

    Returns:
        What :func:`convert_authors_checkpoint` does.

    Raises:
        ValueError: when the file cannot be read or is no such checkpoint.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise
        raise ValueError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]}).") from error
    try:
        return convert_authors_checkpoint(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def convert_authors_checkpoint(content: Mapping[str, Any]) -> tuple[BackboneArchitecture, dict[str, Tensor]]:
    """
    Architecture and state dict of a :class:`~cakes_video.resnet.VideoResNet` with the same logits.

    Args:
        content: the checkpoint, or its state dict, with keys ``module.base_model...`` and ``module.new_fc...``.

    Returns:
        The architecture (ResNet-50 or -101) and the state dict; ``fc.weight`` has a row for each class.

    Raises:
        ValueError: naming the key that is missing or not understood.
    """
    weights = content.get("state_dict", content)
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if "new_fc.weight" not in weights:
        raise ValueError("has no 'new_fc.weight'; it is no checkpoint of the CAKES authors' video code.")
    found: dict[str, dict[int, Tensor]] = {}
    state = {"fc.weight": weights["new_fc.weight"], "fc.bias": weights["new_fc.bias"]}
    for name, value in weights.items():
        if not name.startswith("base_model."):
            continue
        plain = name.removeprefix("base_model.")
        if "convT" not in plain:
            state[plain] = value
        elif (match := _REPLACED.fullmatch(plain)) is None:
            raise ValueError(f"{name!r} is not understood; a super-network has no weights of one architecture.")
        elif value.dim() == 5:
            found.setdefault(match[1], {})[int(match[3] or match[4])] = value
        else:
            state[f"{match[1]}.conv2.adn.N.{match[5]}"] = value
    layers: dict[str, tuple[KernelSplit, ...]] = {}
    for block, kernels in found.items():
        in_a_row = f"base_model.{block}.convT.op.0.weight" in weights
        groups = [[kernels[i]] for i in sorted(kernels)] if in_a_row else [[kernels[i] for i in sorted(kernels)]]
        layers[f"{block}.conv2"] = tuple(_split(group) for group in groups)
        for number, group in enumerate(groups):
            for kernel in group:
                state[f"{block}.conv2.convs.{number}.sub_kernels.{_name(kernel)}.weight"] = kernel
    width = len(weights["base_model.conv1.weight"])
    architecture = BackboneArchitecture(_backbone(layers), layers, {"converted": "CAKES authors' video code"})
    check_layers(architecture, width)
    return architecture, state


def _split(kernels: list[Tensor]) -> KernelSplit:
    return KernelSplit(tuple((_name(kernel), len(kernel)) for kernel in kernels))


def _name(kernel: Tensor) -> str:
    name = "x".join(str(taps) for taps in kernel.shape[2:])
    if name not in SUB_KERNELS:
        raise ValueError(f"a convolution of {name} is no sub-kernel, allowed are {', '.join(SUB_KERNELS)}.")
    return name


def _backbone(layers: Mapping[str, Any]) -> str:
    for backbone in BACKBONES:
        plans = block_plans(backbone)
        if {place for plan in plans for place in plan.replaced} == set(layers):
            return backbone
    raise ValueError(f"{len(layers)} replaced convolutions are those of no known network ({', '.join(BACKBONES)}).")
