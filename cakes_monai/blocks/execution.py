# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The seam behind which a :class:`CakesConv` is computed: same weights, same result, another way to run them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EXECUTIONS", "DenseConvolution", "Execution", "SeparateConvolutions"]


class Execution(nn.Module):
    """
    A way to run a CakesConv: a module without weights of its own.

    Its ``forward(x, weights, order=None)`` convolves ``x``, ``(N, C, D, H, W)``, with ``weights``, one ``(channels, C,
    kD, kH, kW)`` for each sub-kernel. ``order`` holds indices that bring the output channels into another order; None
    leaves them as the weights are.

    Args:
        stride: along D, H and W.
    """

    def __init__(self, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride


class SeparateConvolutions(Execution):
    """One convolution for each sub-kernel, results concatenated: only the multiply-adds of the sub-kernels."""

    def forward(self, x: Tensor, weights: list[Tensor], order: Tensor | None = None) -> Tensor:  # noqa: D102 - see Execution
        outputs: list[Tensor] = []
        for weight in weights:
            padding = [weight.shape[2] // 2, weight.shape[3] // 2, weight.shape[4] // 2]
            outputs.append(F.conv3d(x, weight, stride=self.stride, padding=padding))
        output = torch.cat(outputs, 1)
        return output if order is None else output.index_select(1, order)


class DenseConvolution(Execution):
    """
    One 3x3x3 convolution with zeros outside the sub-kernels: reads its input once, multiplies the zeros as well.

    Where the sub-kernels have so few channels that they fill no vector register, this is the faster way.
    """

    def forward(self, x: Tensor, weights: list[Tensor], order: Tensor | None = None) -> Tensor:  # noqa: D102 - see Execution
        dense: list[Tensor] = []
        for weight in weights:
            depth, height, width = weight.shape[2], weight.shape[3], weight.shape[4]
            margin = [1 - width // 2] * 2 + [1 - height // 2] * 2 + [1 - depth // 2] * 2
            dense.append(F.pad(weight, margin))
        kernel = torch.cat(dense)
        if order is not None:
            kernel = kernel.index_select(0, order)  # cheaper than to reorder the output
        return F.conv3d(x, kernel, stride=self.stride, padding=[1, 1, 1])


#: Ways to run a CakesConv by name.
EXECUTIONS: dict[str, type[Execution]] = {"separate": SeparateConvolutions, "dense": DenseConvolution}
