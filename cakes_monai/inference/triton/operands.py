# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What tensors must be like for the kernels of this package."""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["DTYPES", "channels_last", "check_alike", "check_operand"]

#: Types that the kernels read and write; they always compute in float32.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_operand(name: str, x: Tensor) -> None:
    """
    Refuse an input that the kernels would read wrongly, or whose gradients would be lost.

    Args:
        name: what to call the input in errors.
        x: the input, ``(N, C, D, H, W)``.

    Raises:
        ValueError: in these cases.
    """
    if x.ndim != 5:
        raise ValueError(f"{name} has {x.ndim} axes, it must have 5: (N, C, D, H, W).")
    if x.dtype not in DTYPES:
        raise ValueError(f"{name} is {x.dtype}, allowed are {', '.join(map(str, DTYPES))}.")
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":  # the interpreter is for tests
        raise ValueError(f"{name} is on {x.device}, the Triton kernels need it on an NVIDIA GPU.")
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(f"{name} needs gradients, the Triton kernels compute none; use torch.inference_mode().")


def check_alike(name: str, x: Tensor, other: Tensor) -> None:
    """
    Refuse an input of another type or on another device than a tensor that a kernel reads as well.

    Raises:
        ValueError: in this case.
    """
    if (x.dtype, x.device) != (other.dtype, other.device):
        raise ValueError(f"{name} is {x.dtype} on {x.device}, it must be {other.dtype} on {other.device}.")


def channels_last(x: Tensor) -> Tensor:
    """``x`` with channels next to each other in memory; copied only where they are not."""
    return x.contiguous(memory_format=torch.channels_last_3d)
