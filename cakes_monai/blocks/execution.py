# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The seam behind which a :class:`CakesConv` is computed: same weights, same result, another way to run them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai import native

__all__ = [
    "EXECUTIONS",
    "PADDING_MODES",
    "DenseConvolution",
    "Execution",
    "NativeConvolutions",
    "SeparateConvolutions",
]

#: What can be beyond the border, as nn.Conv3d names it.
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Execution(nn.Module):
    """
    A way to run a CakesConv: a module without weights of its own.

    Its ``forward(x, weights, order=None, bias=None)`` convolves ``x``, ``(N, C, D, H, W)``, with ``weights``, one
    ``(channels, C, kD, kH, kW)`` for each sub-kernel. ``order`` holds indices that bring the output channels into
    another order; None leaves them as the weights are. ``bias`` is added to the channels in that order.

    Args:
        stride: along D, H and W.
        padding_mode: what is beyond the border, as nn.Conv3d names it.
    """

    def __init__(self, stride: tuple[int, ...], padding_mode: str = "zeros") -> None:
        super().__init__()
        self.stride = stride
        self.padding_mode = padding_mode

    def convolve(self, x: Tensor, weight: Tensor, padding: list[int], bias: Tensor | None = None) -> Tensor:
        """Convolve with ``padding`` on both sides along D, H and W."""
        if self.padding_mode == "zeros":
            return F.conv3d(x, weight, bias, stride=self.stride, padding=padding)
        depth, height, width = padding
        margins = [width, width, height, height, depth, depth]
        return F.conv3d(F.pad(x, margins, mode=self.padding_mode), weight, bias, stride=self.stride)


class SeparateConvolutions(Execution):
    """One convolution for each sub-kernel, results concatenated: only the multiply-adds of the sub-kernels."""

    def forward(  # noqa: D102 - see Execution
        self, x: Tensor, weights: list[Tensor], order: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        outputs: list[Tensor] = []
        for weight in weights:
            padding = [weight.shape[2] // 2, weight.shape[3] // 2, weight.shape[4] // 2]
            outputs.append(self.convolve(x, weight, padding))
        output = torch.cat(outputs, 1)
        if order is not None:
            output = output.index_select(1, order)
        return output if bias is None else output + bias.to(output.dtype).view(1, -1, 1, 1, 1)  # autocast: in bfloat16


class DenseConvolution(Execution):
    """
    One 3x3x3 convolution with zeros outside the sub-kernels: reads its input once, multiplies the zeros as well.

    Where the sub-kernels have so few channels that they fill no vector register, this is the faster way.
    """

    def forward(  # noqa: D102 - see Execution
        self, x: Tensor, weights: list[Tensor], order: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        dense: list[Tensor] = []
        for weight in weights:
            depth, height, width = weight.shape[2], weight.shape[3], weight.shape[4]
            margin = [1 - width // 2] * 2 + [1 - height // 2] * 2 + [1 - depth // 2] * 2
            dense.append(F.pad(weight, margin))
        kernel = torch.cat(dense)
        if order is not None:
            kernel = kernel.index_select(0, order)  # cheaper than to reorder the output
        return self.convolve(x, kernel, [1, 1, 1], bias)


class NativeConvolutions(Execution):
    """
    This package's own kernels on the CPU (:mod:`cakes_monai.native`): time follows the multiply-adds, also in training.

    What they cannot compute is run by :class:`SeparateConvolutions`: on a GPU, where there is no compiler, in
    TorchScript, with strides, other padding than zeros, or bfloat16 and an odd number of channels.
    """

    def __init__(self, stride: tuple[int, ...], padding_mode: str = "zeros") -> None:
        super().__init__(stride, padding_mode)
        self.separate = SeparateConvolutions(stride, padding_mode)

    def forward(  # noqa: D102 - see Execution
        self, x: Tensor, weights: list[Tensor], order: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.separate(x, weights, order, bias)
        else:  # TorchScript does not compile this branch
            if self.padding_mode != "zeros" or not native.can_convolve(x, weights, self.stride):
                return self.separate(x, weights, order, bias)
            output = native.convolve(x, weights)
            if order is not None:
                output = output.index_select(1, order)
            return output if bias is None else output + bias.to(output.dtype).view(1, -1, 1, 1, 1)


#: Ways to run a CakesConv by name.
EXECUTIONS: dict[str, type[Execution]] = {
    "separate": SeparateConvolutions,
    "dense": DenseConvolution,
    "native": NativeConvolutions,
}
