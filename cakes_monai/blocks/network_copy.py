# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Copies of networks in any state, so that the original is never changed."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copied", "tensors_in"]

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """
    A deep copy, also of a network that keeps results of its last run.

    ``copy.deepcopy`` refuses those, e.g. a DynUNet after a step of training with deep supervision.
    """
    results = [tensor for module in network.modules() for tensor in tensors_in(vars(module)) if not tensor.is_leaf]
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in results})


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a value: itself, or what lists, tuples and dicts hold."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]
