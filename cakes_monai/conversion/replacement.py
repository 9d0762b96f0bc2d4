# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A CakesConv in the place of a 3x3x3 convolution, with all that convolution had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cakes_monai.architecture import KernelSplit, kernel_size
from cakes_monai.blocks import CakesConv

__all__ = ["DenseLayer", "cakes_conv_like", "dense_kernel", "replace_layer", "set_channels", "sub_kernel_of"]

#: A convolution with 3x3x3 kernels only: a Conv3d, or a CakesConv of which every channel has that sub-kernel.
DenseLayer = nn.Conv3d | CakesConv


def dense_kernel(layer: DenseLayer) -> Tensor:
    """Kernels of a convolution with 3x3x3 kernels only, ``(out_channels, in_channels, 3, 3, 3)``."""
    if isinstance(layer, nn.Conv3d):
        return layer.weight
    weight = layer.sub_kernels["3x3x3"].get_parameter("weight")
    return weight if layer.order is None else weight.index_select(0, layer.order)


def sub_kernel_of(kernel: Tensor, sub_kernel: str) -> Tensor:
    """The taps of a 3x3x3 kernel, ``(..., 3, 3, 3)``, that a sub-kernel keeps: its centre along the dropped axes."""
    depth, height, width = (slice(0, 3) if taps == 3 else slice(1, 2) for taps in kernel_size(sub_kernel))
    return kernel[..., depth, height, width]


def cakes_conv_like(layer: DenseLayer, split: KernelSplit | Mapping[str, int]) -> CakesConv:
    """
    A CakesConv with new weights that can take the place of a convolution with 3x3x3 kernels.

    Stride, bias, padding mode, dtype, device, mode and what is trained are those of ``layer``.

    Raises:
        ValueError: when the split gives another number of channels.
    """
    split = KernelSplit.of(split)
    if split.out_channels != layer.out_channels:
        raise ValueError(f"sub-kernels give {split.out_channels} channels, the layer has {layer.out_channels}.")
    bias, padding_mode = layer.bias is not None, layer.padding_mode
    conv = CakesConv(layer.in_channels, split, layer.stride, "separate", bias, padding_mode, ordered=True)
    kernel = dense_kernel(layer)
    conv.requires_grad_(kernel.requires_grad)
    if conv.bias is not None and layer.bias is not None:
        conv.bias.requires_grad_(layer.bias.requires_grad)
    return conv.to(kernel.device, kernel.dtype).train(layer.training)


def set_channels(
    conv: CakesConv,
    channels: Mapping[str, Sequence[int]],
    kernels: Mapping[str, Tensor],
    biases: Mapping[str, Tensor] | None = None,
) -> None:
    """
    Give every output channel its weights.

    Args:
        conv: an ordered CakesConv, which is changed.
        channels: the output channels of each sub-kernel.
        kernels: for each sub-kernel weights of all output channels, ``(out_channels, in_channels, kD, kH, kW)``, of
            which those of its channels are taken.
        biases: for each sub-kernel the biases of all output channels; None leaves them out.
    """
    assert conv.order is not None
    with torch.no_grad():
        for name, part in conv.sub_kernels.items():
            part.get_parameter("weight").copy_(kernels[name][list(channels[name])])
            if conv.bias is not None and biases is not None:
                conv.bias[list(channels[name])] = biases[name][list(channels[name])].to(conv.bias)
        laid_out = torch.tensor([channel for name in conv.sub_kernels for channel in channels[name]])
        conv.order.copy_(torch.argsort(laid_out))


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` in the place ``name`` of a network, which is changed."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)
