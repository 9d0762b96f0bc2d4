# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What an engine is built from, and whether that is still what the network is."""

from __future__ import annotations

import hashlib
import zlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from cakes_monai.blocks.network_copy import copied
from cakes_monai.blocks.transition import UpTransition

__all__ = ["fingerprint", "frozen_copy", "structure"]


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy for inference that an engine may change; 1x1x1 convolutions come before the up-sampling they follow."""
    with torch.no_grad():
        frozen = copied(_bare(network)).eval().requires_grad_(False)
    for module in frozen.modules():
        if isinstance(module, UpTransition):
            module.convolve_first = True
    return frozen


def fingerprint(network: nn.Module) -> tuple[object, ...]:
    """What differs whenever weights or buffers do; equal ones may differ in it after they were written."""
    return tuple((tensor.data_ptr(), _version(tensor), _content(tensor)) for tensor in _tensors(network))


def structure(network: nn.Module) -> str:
    """A short name that networks with the same layers and sizes have in common, whatever their weights."""
    sizes = [(name, tuple(tensor.shape)) for name, tensor in _bare(network).state_dict().items()]
    return hashlib.sha256(f"{_bare(network)!r} {sizes}".encode()).hexdigest()[:16]


def _bare(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DataParallel | DistributedDataParallel) else network


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _content(tensor: Tensor) -> float:
    """A number for what the version misses: writing through ``.data``."""
    tensor = tensor.detach()
    if tensor.device.type == "cpu":
        return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0
    return tensor.double().sum().item()
