# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The convolution with its gradients: a training step whose time follows the taps."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cakes_monai.native.convolution import run_program
from cakes_monai.native.library import DTYPES, library, missing
from cakes_monai.native.programs import (
    Program,
    Sides,
    forward_program,
    input_gradient_program,
    weight_gradient_rows,
)

__all__ = ["can_convolve", "convolve"]

Kernels = tuple[tuple[int, Sides], ...]


def can_convolve(x: Tensor, weights: Sequence[Tensor], stride: Sequence[int]) -> bool:
    """
    Whether :func:`convolve` can: on a CPU with a compiler, stride 1, float32 or bfloat16 with even numbers of channels.

    Args:
        x: the input.
        weights: one ``(channels, C, kD, kH, kW)`` for each kernel.
        stride: along D, H and W.
    """
    dtype = _dtype(x)
    if x.device.type != "cpu" or set(stride) != {1} or dtype not in DTYPES or missing(dtype) is not None:
        return False
    return dtype == torch.float32 or not (x.shape[1] % 2 or sum(map(len, weights)) % 2)


def convolve(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """
    Convolve with several kernels, results behind each other, zeros beyond the border; differentiable once.

    Under autocast to bfloat16 input, weights and output are bfloat16, the gradient of the weights is summed in float32.

    Args:
        x: ``(N, C, D, H, W)``.
        weights: one ``(channels, C, kD, kH, kW)`` with sides 1 or 3 for each kernel.

    Returns:
        ``(N, sum of channels, D, H, W)`` in ``torch.channels_last_3d``.
    """
    return _Convolve.apply(x.to(_dtype(x)), *weights)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        kernels: Kernels = tuple((len(weight), tuple(weight.shape[2:])) for weight in weights)  # type: ignore[misc]
        ctx.save_for_backward(x, *weights)
        ctx.kernels = kernels
        program = _forward(kernels, x.shape[1], x.dtype == torch.bfloat16)
        return run_program(program, x, program.pack(weights, x.dtype), sum(map(len, weights)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last_3d)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            program = _input_gradient(ctx.kernels, x.shape[1], x.dtype == torch.bfloat16)
            x_gradient = run_program(program, gradient, program.pack(weights, x.dtype), x.shape[1])
        weight_gradients: Sequence[Tensor | None] = [None] * len(weights)
        if any(ctx.needs_input_grad[1:]):
            found = _weight_gradients(ctx.kernels, x, gradient)
            weight_gradients = [own.to(weight.dtype) for own, weight in zip(found, weights, strict=True)]
        return x_gradient, *weight_gradients


@lru_cache(maxsize=256)
def _forward(kernels: Kernels, in_channels: int, paired: bool) -> Program:
    return forward_program(kernels, in_channels, paired)


@lru_cache(maxsize=256)
def _input_gradient(kernels: Kernels, in_channels: int, paired: bool) -> Program:
    return input_gradient_program(kernels, in_channels, paired)


def _weight_gradients(kernels: Kernels, x: Tensor, gradient: Tensor) -> list[Tensor]:
    table = weight_gradient_rows(kernels)
    rows = torch.empty(table.rows, x.shape[1])
    library(x.shape[1], 1, x.dtype).weight_gradient(
        *map(ctypes.c_void_p, (x.data_ptr(), gradient.data_ptr(), rows.data_ptr())),
        table.products,
        len(table.products),
        *map(ctypes.c_long, (table.rows, len(x), *x.shape[2:], gradient.shape[1])),
        torch.get_num_threads(),
    )
    return table.split(rows)
