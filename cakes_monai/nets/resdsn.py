# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The second backbone of CAKES: a residual encoder-decoder with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.utils import get_act_layer, get_norm_layer
from torch import Tensor, nn

from cakes_monai.blocks import conv_norm_act
from cakes_monai.blocks.transition import Factory

__all__ = ["ResDSN"]

_BLOCKS = (1, 2, 2, 2)  # of each level on the way down; as many on the way up
_SUPERVISED = 3  # levels with an output of their own


class ResidualBlock(nn.Module):
    """
    Two 3x3x3 convolutions beside a shortcut; the shortcut is a 1x1x1 convolution where the channels change.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: norm after every convolution.
        act: activation after the first convolution and after the sum.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, out_channels, D, H, W)``
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Factory, act: Factory) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv_norm_act(in_channels, out_channels, 3, norm, act),
            conv_norm_act(out_channels, out_channels, 3, norm, ""),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm_act(in_channels, out_channels, 1, norm, "")
        self.act = get_act_layer(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.convs(x) + self.shortcut(x))


class ResDSN(nn.Module):
    """
    3D residual encoder-decoder with summed long skip connections and deep supervision.

    The second backbone of CAKES (Yu et al., AAAI 2021, table 2), from Zhu et al., "A 3D coarse-to-fine framework for
    volumetric medical image segmentation", 3DV 2018. The papers print 10.03 M parameters and 188.37 G (C2FNAS, table
    2) or 192.07 G (CAKES) FLOPs for an input of 96x96x96; this network has 10.03 M and 189.9 G as they count.

    Its layers are not in the papers of CAKES and C2FNAS, so they are assumptions, chosen to meet both figures: four
    levels of f, 2f, 4f and 8f channels with f = 28; 1, 2, 2 and 2 residual blocks of two 3x3x3 convolutions on the way
    down and as many on the way up; 3x3x3 convolutions of stride 2 between levels on the way down, 2x2x2 transposed
    convolutions on the way up; skips are added; every convolution is followed by a norm and, but for the last one of a
    block, a ReLU; a 1x1x1 convolution with bias gives the output, and in training also one on each of the next two
    levels.

    CAKES on it is :func:`cakes_monai.conversion.shrink`: ``shrink(ResDSN(1, 2), "123d", init="random")`` has 3.52 M
    and 65.9 G. The searched split of CAKES-C with 4.63 M and 98.12 G is not published.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        init_filters: channels f of the first level.
        norm: norm after every convolution, as MONAI names it.
        act: activation, as MONAI names it.

    Raises:
        ValueError: in ``forward`` for a size that is no multiple of 8.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``, multiples of 8
        - output: ``(N, out_channels, D, H, W)``, logits; in training a list of these and of two more of 1/2 and 1/4 of
          the size, as :class:`monai.losses.DeepSupervisionLoss` takes them
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        init_filters: int = 28,
        norm: Factory = ("INSTANCE", {"affine": True}),
        act: Factory = ("RELU", {"inplace": True}),
    ) -> None:
        super().__init__()
        widths = [init_filters * 2**level for level in range(len(_BLOCKS))]
        first = ResidualBlock(in_channels, widths[0], norm, act)
        self.encoder = nn.ModuleList([first])
        for level in range(1, len(widths)):
            down = conv_norm_act(widths[level - 1], widths[level], 3, norm, act, stride=2)
            self.encoder.append(nn.Sequential(down, *_blocks(level, widths, norm, act)))
        levels = range(len(widths) - 1)
        self.ups = nn.ModuleList(_up(widths[level + 1], widths[level], norm, act) for level in levels)
        self.decoder = nn.ModuleList(nn.Sequential(*_blocks(level, widths, norm, act)) for level in levels)
        self.heads = nn.ModuleList(nn.Conv3d(widths[level], out_channels, 1) for level in range(_SUPERVISED))
        self.divisor = 2 ** (len(widths) - 1)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:  # noqa: D102 - described above
        if any(length % self.divisor for length in x.shape[2:]):
            size = "x".join(str(length) for length in x.shape[2:])
            raise ValueError(f"an input of {size}: sizes must be multiples of {self.divisor}.")
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](self.ups[level](x) + skips[level])
            if self.training or level == 0:
                outputs.append(self.heads[level](x))
        return outputs[::-1] if self.training else outputs[-1]


def _blocks(level: int, widths: Sequence[int], norm: Factory, act: Factory) -> list[nn.Module]:
    return [ResidualBlock(widths[level], widths[level], norm, act) for _ in range(_BLOCKS[level])]


def _up(in_channels: int, out_channels: int, norm: Factory, act: Factory) -> nn.Sequential:
    convolution = nn.ConvTranspose3d(in_channels, out_channels, 2, 2, bias=False)
    return nn.Sequential(convolution, get_norm_layer(norm, 3, out_channels), get_act_layer(act))
