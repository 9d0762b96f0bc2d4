# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers that run on Triton's kernels, made from layers with weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cakes_monai.blocks import CakesConv
from cakes_monai.inference.triton.convolution import sub_kernel_convolution
from cakes_monai.inference.triton.instance_norm import instance_norm_act
from cakes_monai.inference.triton.packed_weights import PackedWeights

__all__ = ["TritonCakesConv", "TritonInstanceNormAct"]


class TritonCakesConv(nn.Module):
    """
    A CakesConv for inference on a GPU, see :func:`cakes_monai.inference.triton.sub_kernel_convolution`.

    An input of another type than the weights is converted, as autocast does it.

    Args:
        weights: of all sub-kernels; its ``padded_share`` says what the blocks cost.
        stride: along D, H and W.
        bias: added to each output channel, if any.
        precision: how float32 is multiplied.

    Shapes:
        - input: ``(N, C, D, H, W)``, without a copy when channels-last in memory
        - output: ``(N, channels, ceil(D/stride), ceil(H/stride), ceil(W/stride))``, channels-last in memory
    """

    bias: Tensor | None

    def __init__(
        self,
        weights: PackedWeights,
        stride: Sequence[int] | int = 1,
        bias: Tensor | None = None,
        precision: str = "tf32x3",
    ) -> None:
        super().__init__()
        self.weights = weights
        self.stride = stride
        self.precision = precision
        self.register_buffer("bias", None if bias is None else bias.detach().to(weights.weight))

    @classmethod
    def from_layer(
        cls,
        layer: CakesConv,
        dtype: torch.dtype = torch.float16,
        block_size: int | None = None,
        precision: str = "tf32x3",
    ) -> TritonCakesConv:
        """
        Make it from a layer with weights, on the device of these.

        Args:
            layer: what is to be computed; it stays as it is.
            dtype: type of weights and output: float16, bfloat16 or float32.
            block_size: output channels of a block, 16 to 128; None lets a model of the GPU choose.
            precision: how float32 is multiplied: "tf32x3" (nearly float32), "tf32" or "ieee" (no tensor cores).

        Raises:
            ValueError: for another dtype or block size, or a layer with something else than zeros beyond the border.
        """
        if layer.padding_mode != "zeros":
            raise ValueError(f"the layer has padding_mode {layer.padding_mode!r}, the Triton kernel only has 'zeros'.")
        sub_kernels = {name: sub_kernel.weight for name, sub_kernel in layer.sub_kernels.items()}
        weights = PackedWeights(sub_kernels, layer.order, dtype, block_size)  # type: ignore[arg-type]
        return cls(weights, layer.stride, layer.bias, precision)

    @property
    def padded_share(self) -> float:
        """Multiply-adds that are executed over those of the sub-kernels."""
        return self.weights.padded_share

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        x = x.to(self.weights.weight.dtype)
        return sub_kernel_convolution(x, self.weights, self.stride, self.bias, self.precision)


class TritonInstanceNormAct(nn.Module):
    """
    Instance norm, activation and sum, see :func:`cakes_monai.inference.triton.instance_norm_act`.

    Args:
        weight: factor of each channel; None for 1.
        bias: added to each channel; None for 0.
        eps: added to the variance.
        act: "relu" or None.

    Shapes:
        - input: ``(N, C, D, H, W)``, without a copy when channels-last in memory
        - output: the same, channels-last in memory
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, act: str | None = "relu"
    ) -> None:
        super().__init__()
        self.eps = eps
        self.act = act
        self.register_buffer("weight", None if weight is None else weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @classmethod
    def from_layer(cls, norm: nn.InstanceNorm3d, act: str | None = "relu") -> TritonInstanceNormAct:
        """
        Make it from a norm with weights, on the device of these.

        Args:
            norm: what is to be computed; it stays as it is.
            act: what follows it: "relu" or None.

        Raises:
            ValueError: for a norm that uses running statistics.
        """
        if norm.track_running_stats:
            raise ValueError("the norm uses running statistics, the Triton kernel only those of the input.")
        return cls(norm.weight, norm.bias, norm.eps, act)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:  # noqa: D102 - described above
        return instance_norm_act(x, self.weight, self.bias, self.eps, self.act, add)

    def extra_repr(self) -> str:  # noqa: D102
        channels = "no factors" if self.weight is None else str(len(self.weight))
        return f"{channels}, eps={self.eps}, act={self.act}"
