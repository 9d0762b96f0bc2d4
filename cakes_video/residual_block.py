# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Residual blocks for clips, whose 3x3x3 convolutions are made by what the network is for."""

from __future__ import annotations

from collections.abc import Callable

from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from cakes_monai.blocks.transition import Factory
from cakes_video.residual_plan import BlockPlan

__all__ = ["ReplacedConvolution", "ResidualBlock"]

Stride = tuple[int, int, int]

#: Makes what stands in the place of a 3x3x3 convolution and its norm and activation, from the place's name, its input
#: and output channels, its stride and the activation ("" for none). In a bottleneck it may give more channels
#: (``out_channels``).
ReplacedConvolution = Callable[[str, int, int, Stride, Factory], nn.Module]


class ResidualBlock(nn.Module):
    """
    Block of a ResNet for clips (He et al., 2016, figure 5), with the stride in the 3x3x3 convolution, never in time.

    The names of the parts are those of torchvision; a replaced convolution has its norm and activation within.

    Args:
        plan: the block's place and channels.
        make: makes what stands in the place of the 3x3x3 convolutions.
        norm: norm as MONAI names it.

    Shapes:
        - input: ``(N, plan.in_channels, T, H, W)``
        - output: ``(N, plan.out_channels, T, ceil(H/stride), ceil(W/stride))``
    """

    __constants__ = ("bottleneck",)  # TorchScript then compiles only what the block has

    def __init__(self, plan: BlockPlan, make: ReplacedConvolution, norm: Factory) -> None:
        super().__init__()
        stride = (1, plan.stride, plan.stride)
        relu: Factory = ("RELU", {"inplace": True})
        if plan.bottleneck:
            self.conv1: nn.Module = _pointwise(plan.in_channels, plan.planes)
            self.bn1: nn.Module = get_norm_layer(norm, 3, plan.planes)
            self.conv2 = make(f"{plan.name}.conv2", plan.planes, plan.planes, stride, relu)
            self.conv3 = _pointwise(int(self.conv2.out_channels), plan.out_channels)  # type: ignore[arg-type]
            self.bn3 = get_norm_layer(norm, 3, plan.out_channels)
        else:
            self.conv1 = make(f"{plan.name}.conv1", plan.in_channels, plan.planes, stride, relu)
            self.conv2 = make(f"{plan.name}.conv2", plan.planes, plan.planes, (1, 1, 1), "")
        self.relu = nn.ReLU(inplace=True)
        self.bottleneck = plan.bottleneck
        self.downsample: nn.Module = nn.Identity()
        if plan.projected:
            projection = _pointwise(plan.in_channels, plan.out_channels, stride)
            self.downsample = nn.Sequential(projection, get_norm_layer(norm, 3, plan.out_channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        if self.bottleneck:
            residual = self.bn3(self.conv3(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        else:
            residual = self.conv2(self.conv1(x))
        return self.relu(residual + self.downsample(x))


def _pointwise(in_channels: int, out_channels: int, stride: Stride = (1, 1, 1)) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, 1, stride, bias=False)
