# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The convolution of CAKES: every output channel has its own 1D, 2D or 3D sub-kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from cakes_monai.architecture import KernelSplit, kernel_size
from cakes_monai.blocks.execution import EXECUTIONS, PADDING_MODES

__all__ = ["CakesConv", "set_execution"]


class SubKernel(nn.Module):
    """
    The weight of one sub-kernel, initialised like the convolution it stands for.

    Args:
        in_channels: number of input channels C.
        out_channels: output channels that use this sub-kernel.
        size: taps along D, H and W.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # what nn.Conv3d does


class CakesConv(nn.Module):
    """
    3D convolution in which every output channel uses one sub-kernel: 3x3x3, or its 2D or 1D restriction.

    Implements CAKES (Yu et al., AAAI 2021), "Channel-wise Shrinkage", equation 7. Equals a 3x3x3 convolution with
    padding 1 whose kernel is zero outside each channel's sub-kernel, at the cost of the non-zero taps only. Output
    channels are ordered by sub-kernel as in :data:`cakes_monai.architecture.SUB_KERNELS`, unless ``ordered``.

    Weights are one parameter for each sub-kernel, named by it (``sub_kernels.1x3x3.weight``); how they are run is
    chosen by ``execution`` and never part of the state.

    Args:
        in_channels: number of input channels C.
        split: output channels of each sub-kernel, e.g. ``{"3x3x3": 28, "1x3x3": 36}``.
        stride: stride along D, H and W.
        execution: "separate", "dense" or "native", see :mod:`cakes_monai.blocks.execution`.
        bias: whether a number is added to every output channel.
        padding_mode: what is beyond the border: "zeros", "reflect", "replicate" or "circular".
        ordered: whether the state has an ``order``: output channel i is channel ``order[i]`` by sub-kernel. It starts
            without a change. A layer that takes the place of a trained one needs it, as others expect that one's order.

    Raises:
        ValueError: for an illegal split, stride, execution or padding mode, and in ``load_state_dict`` (strict or not)
            for weights of another split, or with an order where there is none or the other way round.

    Shapes:
        - input: ``(N, C, D, H, W)``
        - output: ``(N, split.out_channels, ceil(D/stride), ceil(H/stride), ceil(W/stride))``

    Example:
        >>> conv = CakesConv(16, {"3x3x3": 8, "1x1x3": 8})
        >>> conv(torch.zeros(1, 16, 5, 6, 7)).shape
        torch.Size([1, 16, 5, 6, 7])
    """

    def __init__(
        self,
        in_channels: int,
        split: KernelSplit | Mapping[str, int],
        stride: Sequence[int] | int = 1,
        execution: str = "separate",
        bias: bool = False,
        padding_mode: str = "zeros",
        ordered: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.split = KernelSplit.of(split)
        self.out_channels = self.split.out_channels
        self.stride = ensure_tuple_rep(stride, 3)
        if in_channels < 1 or min(self.stride) < 1:
            raise ValueError(f"in_channels {in_channels} and stride {self.stride} must be at least 1.")
        self.sub_kernels = nn.ModuleDict(
            {name: SubKernel(in_channels, count, kernel_size(name)) for name, count in self.split.counts}
        )
        self.bias: nn.Parameter | None
        self.register_parameter("bias", _bias(in_channels, self.split) if bias else None)
        self.order: Tensor | None
        self.register_buffer("order", torch.arange(self.out_channels) if ordered else None)
        self.padding_mode = padding_mode
        self.execution = _execution(execution, self.stride, padding_mode)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        weights = [sub_kernel.weight for sub_kernel in self.sub_kernels.values()]
        return self.convolve(x, weights, self.order, self.bias)  # type: ignore[arg-type]

    def convolve(
        self, x: Tensor, weights: list[Tensor], order: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """
        Run the chosen execution with other weights than all of its own.

        Args:
            x: the input.
            weights: one ``(channels, C, kD, kH, kW)`` for each sub-kernel.
            order: indices that bring the output channels into another order; None leaves them as the weights are.
            bias: what is added to the output channels; None adds nothing.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.execution(x, weights, order, bias)
        else:  # TorchScript does not compile this branch
            if _is_miscomputed_in_bfloat16(x):
                with torch.autocast("cpu", enabled=False):
                    return self.execution(x.float(), weights, order, bias)
            return self.execution(x, weights, order, bias)

    def extra_repr(self) -> str:  # noqa: D102
        options = {"bias": self.bias is not None, "padding_mode": self.padding_mode, "ordered": self.order is not None}
        said = "".join(f", {name}={value}" for name, value in options.items() if value not in (False, "zeros"))
        return f"{self.in_channels}, {self.split.as_dict()}, stride={self.stride}{said}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        """Refuse weights of another split also with ``strict=False``, which would leave random weights behind."""
        prefix_of_weights = f"{prefix}sub_kernels."
        found = {
            key.removeprefix(prefix_of_weights).split(".")[0]: len(value)
            for key, value in state_dict.items()
            if key.startswith(prefix_of_weights)
        }
        if found != self.split.as_dict():
            layer, ours = prefix.rstrip("."), self.split.as_dict()
            raise ValueError(f"{layer}: the weights are for sub-kernels {found}, the network has {ours}.")
        self._check_order(state_dict.get(f"{prefix}order"), prefix.rstrip("."))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def _check_order(self, order: Tensor | None, layer: str) -> None:
        """Refuse what would compute the channels of other weights in the wrong places without a word."""
        if (order is None) != (self.order is None):
            found, ours = ("no order", "one") if order is None else ("an order", "none")
            raise ValueError(f"{layer}: the weights have {found} of the output channels, the network has {ours}.")
        if order is not None and sorted(order.tolist()) != list(range(self.out_channels)):
            raise ValueError(f"{layer}: the order of the weights must have each of {self.out_channels} channels once.")


def set_execution(network: nn.Module, execution: str) -> nn.Module:
    """
    Run every CakesConv of ``network`` in another way; weights and results stay the same.

    Args:
        network: changed in place and returned.
        execution: "separate", "dense" or "native", see :mod:`cakes_monai.blocks.execution`.

    Raises:
        ValueError: for an unknown execution.
    """
    for module in network.modules():
        if isinstance(module, CakesConv):
            module.execution = _execution(execution, module.stride, module.padding_mode)
    return network


def _is_miscomputed_in_bfloat16(x: Tensor) -> bool:
    """
    Whether the weight gradient would hold numbers from uninitialised memory.

    Seen with torch 2.15 on a CPU with AVX512_BF16 for every kernel of depth 3 on an input of depth 2, whatever the
    other sizes; depths 1 and 3 to 6 and strided convolutions are right. The volumes are tiny, float32 costs nothing.
    """
    training = torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    return training and x.device.type == "cpu" and x.shape[2] == 2  # the size last: an export must not depend on it


def _bias(in_channels: int, split: KernelSplit) -> nn.Parameter:
    """A bias for each output channel, initialised as nn.Conv3d does for a kernel of that size."""
    taps = [prod(kernel_size(name)) for name, count in split.counts for _ in range(count)]
    bound = (in_channels * torch.tensor(taps, dtype=torch.get_default_dtype())).rsqrt()
    return nn.Parameter(bound * (2 * torch.rand(len(taps)) - 1))


def _execution(name: str, stride: tuple[int, ...], padding_mode: str) -> nn.Module:
    if name not in EXECUTIONS:
        raise ValueError(f"unknown execution {name!r}, allowed are {', '.join(EXECUTIONS)}.")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"unknown padding_mode {padding_mode!r}, allowed are {', '.join(PADDING_MODES)}.")
    return EXECUTIONS[name](stride, padding_mode)
