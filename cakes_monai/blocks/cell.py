# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The cell of C2FNAS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.blocks import ADN
from torch import Tensor, nn

from cakes_monai.architecture import Cell, KernelSplit
from cakes_monai.blocks.cakes_conv import CakesConv
from cakes_monai.blocks.transition import Factory, conv_norm_act, make_transition

__all__ = ["C2FNASCell", "OperationFactory", "SubKernelOperation"]

#: Makes the operation on one input of a cell from the cell's channels, its norm and its activation.
OperationFactory = Callable[[int, Factory, Factory], nn.Module]


class SubKernelOperation(nn.Module):
    """
    CakesConvs that follow each other directly, then one norm and one activation.

    One CakesConv is the operation "2d", "3d" or "cakes" of a cell; two of them, 3x3x1 and 1x1x3, are "p3d" (C2FNAS,
    section 3.4, choice 2).

    Args:
        in_channels: number of input channels C.
        splits: split of each convolution.
        norm: norm after the last convolution.
        act: activation after the norm, "" for none.
        stride: stride of the first convolution.

    Shapes:
        - input: ``(N, C, D, H, W)``
        - output: ``(N, splits[-1].out_channels, D/stride, H/stride, W/stride)``
    """

    def __init__(
        self,
        in_channels: int,
        splits: Sequence[KernelSplit],
        norm: Factory,
        act: Factory,
        stride: Sequence[int] | int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = splits[-1].out_channels
        widths = (in_channels, *(split.out_channels for split in splits))
        self.convs = nn.Sequential(*(CakesConv(widths[i], split, 1 if i else stride) for i, split in enumerate(splits)))
        self.adn = ADN("NA", in_channels=self.out_channels, norm=norm, act=act, norm_dim=3)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        return self.adn(self.convs(x))


class C2FNASCell(nn.Module):
    """
    Cell with one or two inputs: each is pre-processed and convolved, the results are summed, then a 1x1x1 convolution.

    C2FNAS (Yu et al., CVPR 2020), section 4.1 and figure 5 (right).

    Args:
        channels: number of channels C of the cell.
        steps: level of the cell minus level of each input (1: the input is down-sampled, -1: up-sampled).
        cell: the operation, or what makes it for each input; an operation may give more than C channels
            (``out_channels``), the 1x1x1 convolution brings them back to C.
        norm: norm after every convolution.
        act: activation after every norm.
        dropout: probability of the dropout behind the cell, 0 for none.

    Shapes:
        - inputs: list of ``(N, C, D, H, W)``, ``(N, C/2, 2D, 2H, 2W)`` or ``(N, 2C, D/2, H/2, W/2)``
        - output: ``(N, C, D, H, W)``
    """

    def __init__(
        self,
        channels: int,
        steps: Sequence[int],
        cell: Cell | OperationFactory,
        norm: Factory,
        act: Factory,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.preprocessing = nn.ModuleList(make_transition(step, channels, norm, act) for step in steps)
        operations = [
            SubKernelOperation(channels, cell.convolutions(branch, channels), norm, act)
            if isinstance(cell, Cell)
            else cell(channels, norm, act)
            for branch in range(len(steps))
        ]
        self.operations = nn.ModuleList(operations)
        width = int(operations[0].out_channels)  # type: ignore[arg-type]  # what an OperationFactory makes has it
        self.postprocessing = conv_norm_act(width, channels, 1, norm, act)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, inputs: list[Tensor]) -> Tensor:  # noqa: D102 - described above
        results: list[Tensor] = []
        for i, (preprocess, operate) in enumerate(zip(self.preprocessing, self.operations)):  # noqa: B905 - scripted
            results.append(operate(preprocess(inputs[i])))
        total = results[0]
        for result in results[1:]:
            total = torch.add(total, result)
        return self.dropout(self.postprocessing(total))
