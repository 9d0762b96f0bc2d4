# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Plans: ways to run one trained convolution, all with the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai import native
from cakes_monai.blocks import CakesConv
from cakes_monai.inference import triton
from cakes_monai.native.packing import Tap, pack_channels

__all__ = ["PLANS", "Kernel", "MergedConvolutions", "Plan", "kernel_of"]

_LANES = 16  # channels that libraries compute together


@dataclass(frozen=True)
class Kernel:
    """
    A convolution as numbers.

    Args:
        weight: ``(channels, C, kD, kH, kW)`` with sides 1 or 3, zero where a channel has no taps.
        bias: of each output channel; None for none.
        stride: along D, H and W.
        taps: the taps of each output channel, as the network defines them, zero or not.
        layer: what it was taken from.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int, int]
    taps: tuple[frozenset[Tap], ...]
    layer: nn.Module


def kernel_of(layer: nn.Module) -> Kernel | None:
    """
    The kernel of a CakesConv or Conv3d; None for a layer that is run as it is.

    Those are other modules and convolutions in groups, dilated ones, of sides other than 1 and 3, or padded with
    anything but zeros, by half of the side.
    """
    if isinstance(layer, CakesConv) and layer.padding_mode == "zeros":
        return _cakes_kernel(layer)
    if not isinstance(layer, nn.Conv3d) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    sides = layer.kernel_size
    centred = {*sides} <= {1, 3} and tuple(layer.padding) == tuple(side // 2 for side in sides)
    if not centred or layer.groups != 1 or {*layer.dilation} != {1}:
        return None
    taps = (_all_taps(sides),) * layer.out_channels
    bias = None if layer.bias is None else layer.bias.detach()
    return Kernel(layer.weight.detach(), bias, layer.stride, taps, layer)  # type: ignore[arg-type]  # three numbers


def _cakes_kernel(layer: CakesConv) -> Kernel:
    weights: list[Tensor] = []
    taps: list[frozenset[Tap]] = []
    for sub_kernel in layer.sub_kernels.values():
        own: Tensor = sub_kernel.weight.detach()  # type: ignore[operator]  # SubKernel has one
        weights.append(_padded(own))
        taps += [_all_taps(own.shape[2:])] * len(own)
    weight = torch.cat(weights)
    if layer.order is not None:  # folded in once
        weight, taps = weight[layer.order], [taps[channel] for channel in layer.order.tolist()]
    bias = None if layer.bias is None else layer.bias.detach()
    return Kernel(weight, bias, layer.stride, tuple(taps), layer)


def _all_taps(sides: Sequence[int]) -> frozenset[Tap]:
    depth, height, width = (range(-(side // 2), side // 2 + 1) for side in sides)
    return frozenset(product(depth, height, width))


def _padded(weight: Tensor) -> Tensor:
    """A kernel with zeros around it, 3x3x3."""
    margins = [(3 - side) // 2 for side in reversed(weight.shape[2:]) for _ in range(2)]
    return F.pad(weight, margins)


class MergedConvolutions(nn.Module):
    """
    One torch convolution for each group of output channels, with zeros where a channel has fewer taps than its group.

    Args:
        kernel: the convolution.
        groups: output channels of each group; every channel once.
        dtype: of input, weights and output.

    Shapes:
        - input: ``(N, C, D, H, W)``
        - output: ``(N, channels, ceil(D/stride), ceil(H/stride), ceil(W/stride))``
    """

    order: Tensor | None
    bias: Tensor | None

    def __init__(self, kernel: Kernel, groups: Iterable[Sequence[int]], dtype: torch.dtype) -> None:
        super().__init__()
        self.stride = kernel.stride
        channels = [list(group) for group in groups]
        order = [channel for group in channels for channel in group]
        self.weights = nn.ParameterList(
            nn.Parameter(_cut(kernel, group).to(dtype).contiguous(memory_format=torch.channels_last_3d), False)
            for group in channels
        )
        self.register_buffer("order", None if order == sorted(order) else torch.tensor(order).argsort(), False)
        self.register_buffer("bias", None if kernel.bias is None else kernel.bias.to(dtype), False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        bias = self.bias if len(self.weights) == 1 else None
        outputs = [F.conv3d(x, w, bias, self.stride, [side // 2 for side in w.shape[2:]]) for w in self.weights]
        if len(outputs) == 1:
            return outputs[0]
        output = torch.cat(outputs, 1)
        output = output if self.order is None else output.index_select(1, self.order)
        return output if self.bias is None else output + self.bias.view(1, -1, 1, 1, 1)


def _cut(kernel: Kernel, channels: list[int]) -> Tensor:
    """The kernels of some channels, without margins in which none of them has taps."""
    union = frozenset().union(*(kernel.taps[channel] for channel in channels))
    weight = kernel.weight[channels]
    for axis in range(3):
        if weight.shape[2 + axis] == 3 and not any(tap[axis] for tap in union):
            weight = weight.narrow(2 + axis, 1, 1)
    return weight


#: Makes a module that runs a kernel on a device in a type, or says by None that it cannot.
Plan = Callable[[Kernel, torch.device, torch.dtype], nn.Module | None]


def _separate(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> nn.Module | None:
    kinds = dict.fromkeys(kernel.taps)
    if len(kinds) == 1:
        return None  # as dense
    groups = [[channel for channel, own in enumerate(kernel.taps) if own == taps] for taps in kinds]
    return MergedConvolutions(kernel, groups, dtype).to(device)


def _merged(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> nn.Module | None:
    boxes: dict[tuple[bool, ...], list[int]] = {}
    for block in pack_channels(kernel.taps, _LANES):
        sides = tuple(any(tap[axis] for tap in block.taps) for axis in range(3))
        boxes.setdefault(sides, []).extend(block.channels)
    groups = list(boxes.values())
    if len(groups) == 1 or all(len({kernel.taps[channel] for channel in group}) == 1 for group in groups):
        return None  # as dense or separate
    return MergedConvolutions(kernel, groups, dtype).to(device)


def _dense(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return MergedConvolutions(kernel, [range(len(kernel.weight))], dtype).to(device)


def _native(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> nn.Module | None:
    odd = dtype == torch.bfloat16 and kernel.weight.shape[1] % 2
    if device.type != "cpu" or odd or native.missing(dtype) is not None:
        return None
    return native.NativeConvolution(kernel.weight, kernel.bias, kernel.stride, dtype)


def _triton(size: int) -> Plan:
    def make(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> nn.Module | None:
        if device.type != "cuda" or not isinstance(kernel.layer, CakesConv) or triton.missing(device) is not None:
            return None
        return triton.TritonCakesConv.from_layer(kernel.layer, dtype, size).to(device)

    return make


#: Plans by name; "separate" and "merged" exist where they differ from those behind them.
PLANS: dict[str, Plan] = {
    "separate": _separate,
    "merged": _merged,
    "dense": _dense,
    "native": _native,
    **{f"triton-{size}": _triton(size) for size in triton.BLOCK_SIZES},
}
