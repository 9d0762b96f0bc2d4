# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The operation of a cell in the super-network of C2FNAS: one of several, chosen anew for every iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cakes_monai.architecture import OPERATIONS, SUB_KERNELS, Cell, KernelSplit
from cakes_monai.blocks.cell import SubKernelOperation
from cakes_monai.blocks.transition import Factory

__all__ = ["OperationChoice"]


class _IdleParameters(torch.autograd.Function):
    """A tensor as it is; parameters that took no part in it get a gradient of zero instead of none."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *idle: Tensor) -> Tensor:
        ctx.save_for_backward(*idle)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (*gradients, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors))


class OperationChoice(nn.Module):
    """
    Holds one operation for each choice, with weights and norm of its own, and computes the chosen one only.

    C2FNAS (Yu et al., CVPR 2020), section 3.4: the single-path one-shot super-network. "cakes" is ours: the papers'
    manual setting, channels divided evenly among all sub-kernels. In training every parameter takes part in every
    iteration, those of the other operations with a gradient of zero, so DistributedDataParallel needs no search for
    unused parameters. (An optimizer with momentum or weight decay moves them nevertheless.)

    Args:
        channels: number of channels C.
        operations: the choices, different ones of "2d", "3d", "p3d" and "cakes".
        norm: norm after the convolutions.
        act: activation after the norm, "" for none.

    Raises:
        ValueError: for no, unknown or repeated operations, and in ``forward`` before the first choice.

    Shapes:
        - input and output: ``(N, C, D, H, W)``
    """

    def __init__(self, channels: int, operations: Sequence[str], norm: Factory, act: Factory) -> None:
        super().__init__()
        if isinstance(operations, str) or not operations or len(set(operations)) < len(operations):
            raise ValueError(f"operations are {operations!r}, allowed are different ones of {', '.join(OPERATIONS)}.")
        self.out_channels = channels
        self.choices = nn.ModuleDict(
            {name: SubKernelOperation(channels, _convolutions(name, channels), norm, act) for name in operations}
        )
        self.chosen: str | None = None  # not part of the state: chosen anew before every iteration

    def choose(self, operation: str) -> None:
        """
        Compute this operation from now on, in training and in eval.

        Raises:
            ValueError: when it is none of the choices.
        """
        if operation not in self.choices:
            raise ValueError(f"operation {operation!r} is no choice, allowed are {', '.join(self.choices)}.")
        self.chosen = operation

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        if self.chosen is None:
            raise ValueError("no operation is chosen; training needs cakes_monai.handlers.OperationSampler.")
        output: Tensor = self.choices[self.chosen](x)
        if not self.training:
            return output
        others = (operation for name, operation in self.choices.items() if name != self.chosen)
        idle = (parameter for operation in others for parameter in operation.parameters())
        return _IdleParameters.apply(output, *idle)


def _convolutions(operation: str, channels: int) -> tuple[KernelSplit, ...]:
    if operation == "cakes":
        return (KernelSplit.even(SUB_KERNELS, channels),)
    return Cell(operation).convolutions(0, channels)
