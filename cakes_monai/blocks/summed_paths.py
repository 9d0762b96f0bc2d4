# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Cost priority in networks that have no 1x1x1 convolution behind their 3x3x3 ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cakes_monai.blocks.kernel_supernet import ConcatenatedPaths
from cakes_monai.blocks.transition import Factory

__all__ = ["SummedPaths"]


class SummedPaths(ConcatenatedPaths):
    """
    All paths of a layer, brought back to the channels of one by a 1x1x1 convolution of its own.

    CAKES (Yu et al., AAAI 2021), "Cost-Priority Search", leaves the sum of equation 5 to the 1x1x1 convolution that
    follows in its backbones. Here it starts as the mean of the paths of each channel.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels C.
        sub_kernels: candidates: the name of a set or a list.
        norm: norm over the channels of all paths, it must have scales.
        act: activation between norm and sum, "" for none.
        stride: stride along D, H and W.

    Raises:
        ValueError: for unknown sub-kernels or a norm without scales.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, C, D/stride, H/stride, W/stride)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        sub_kernels: str | Iterable[str],
        norm: Factory,
        act: Factory,
        stride: Sequence[int] | int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, sub_kernels, norm, act, stride)
        paths = len(self.sub_kernels)
        self.total = nn.Conv3d(paths * out_channels, out_channels, 1, bias=False)
        self.out_channels = out_channels
        with torch.no_grad():
            self.total.weight.copy_(torch.eye(out_channels).repeat(1, paths)[..., None, None, None] / paths)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        return self.total(super().forward(x))
