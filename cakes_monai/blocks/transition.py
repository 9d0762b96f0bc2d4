# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What brings a feature map to the level and width of the cell that reads it."""

from __future__ import annotations

from monai.networks.blocks import Convolution
from torch import Tensor, nn

__all__ = ["UpTransition", "conv_norm_act", "make_transition"]

#: Norm and activation as MONAI names them: a name, or a name and its arguments.
Factory = tuple[str, dict[str, object]] | str


def conv_norm_act(
    in_channels: int, out_channels: int, kernel_size: int, norm: Factory, act: Factory, stride: int = 1
) -> nn.Module:
    """What the papers call a convolution: bias-free convolution, norm, activation."""
    return Convolution(
        3,
        in_channels,
        out_channels,
        strides=stride,
        kernel_size=kernel_size,
        adn_ordering="NA",
        norm=norm,
        act=act,
        bias=False,
    )


class UpTransition(nn.Module):
    """
    Trilinear up-sampling by 2, then a 1x1x1 convolution that halves the channels (C2FNAS, section 4.1).

    Args:
        out_channels: number of output channels C.
        norm: norm after the convolution.
        act: activation after the norm.

    Attributes:
        convolve_first: whether the 1x1x1 convolution, which commutes with the up-sampling, is done before it, on an
            eighth of the voxels. The result is the same up to rounding; the papers' costs are those without.

    Shapes:
        - input: ``(N, 2C, D, H, W)``
        - output: ``(N, C, 2D, 2H, 2W)``
    """

    def __init__(self, out_channels: int, norm: Factory, act: Factory) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2.0, mode="trilinear", align_corners=False)
        self.conv = conv_norm_act(2 * out_channels, out_channels, 1, norm, act)
        self.convolve_first = False

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        if self.convolve_first:
            # MONAI's Convolution; TorchScript takes a longer comment behind the line for types of its own
            return self.conv.adn(self.upsample(self.conv.conv(x)))  # type: ignore[operator]
        return self.conv(self.upsample(x))


def make_transition(step: int, out_channels: int, norm: Factory, act: Factory) -> nn.Module:
    """
    Pre-processing of a cell's input (C2FNAS, section 4.1).

    Args:
        step: level of the cell minus level of its input: 1 down-samples, -1 up-samples, 0 keeps the level.
        out_channels: channels of the cell.
        norm: norm after the convolution.
        act: activation after the norm.

    Raises:
        ValueError: for any other step.
    """
    if step == 1:
        return conv_norm_act(out_channels // 2, out_channels, 3, norm, act, stride=2)
    if step == 0:
        return conv_norm_act(out_channels, out_channels, 1, norm, act)
    if step == -1:
        return UpTransition(out_channels, norm, act)
    raise ValueError(f"a transition changes the level by -1, 0 or 1, not {step}.")
