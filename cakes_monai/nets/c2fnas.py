# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The segmentation network of C2FNAS, which is also the backbone of CAKES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.architecture import Architecture, Cell, Topology
from cakes_monai.blocks import C2FNASCell, OperationFactory, conv_norm_act
from cakes_monai.blocks.transition import Factory

__all__ = ["C2FNAS", "C2FNASBackbone"]


class C2FNASBackbone(nn.Module):
    """
    Stem, cells and end of C2FNAS (section 4.1 and figure 5), whatever the cells do with their inputs.

    Any input size is allowed: one that is no multiple of ``topology.divisor`` is padded by repeating its border, and
    the output is cropped to the input's size.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        topology: levels of the cells.
        cells: for each cell its operation, or what makes it.
        init_filters: filters of the first convolution.
        norm: norm after every convolution, as MONAI names it.
        act: activation after every norm, as MONAI names it.
        dropout: probability of the dropout behind every cell, 0 for none.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, out_channels, D, H, W)``, logits
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        cells: Sequence[Cell | OperationFactory],
        init_filters: int,
        norm: Factory,
        act: Factory,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        # the outputs that each cell reads; 0 is the stem's, 1 that of the first cell
        self.sources = [[i + 1 for i in inputs] for inputs in topology.inputs]
        self.divisor = topology.divisor

        levels = (0, *topology.levels)  # the stem in front, as in self.sources
        self.stem = nn.Sequential(
            conv_norm_act(in_channels, init_filters, 3, norm, act),
            conv_norm_act(init_filters, 2 * init_filters, 3, norm, act, stride=2),
        )
        self.cells = nn.ModuleList(
            C2FNASCell(
                channels=init_filters * 2 ** (level + 1),
                steps=[level - levels[source] for source in sources],
                cell=cell,
                norm=norm,
                act=act,
                dropout=dropout,
            )
            for level, sources, cell in zip(levels[1:], self.sources, cells, strict=True)
        )
        self.end = nn.Sequential(
            conv_norm_act(2 * init_filters, init_filters, 3, norm, act),
            nn.Upsample(scale_factor=2.0, mode="trilinear", align_corners=False),
            conv_norm_act(init_filters, init_filters, 3, norm, act),
            nn.Conv3d(init_filters, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        depth, height, width = x.shape[2], x.shape[3], x.shape[4]
        outputs: list[Tensor] = [self.stem(self._pad(x))]
        for i, cell in enumerate(self.cells):
            inputs: list[Tensor] = []
            for source in self.sources[i]:
                inputs.append(outputs[source])
            outputs.append(cell(inputs))
        return self.end(outputs[-1])[:, :, :depth, :height, :width]

    def _pad(self, x: Tensor) -> Tensor:
        """Repeat the far border until the size divides, so that voxel 0 stays where it is."""
        if x.shape[2] <= self.divisor and x.shape[3] <= self.divisor and x.shape[4] <= self.divisor:
            raise ValueError(
                f"an input of {x.shape[2]}x{x.shape[3]}x{x.shape[4]} leaves one voxel at the lowest resolution, too "
                f"few for its norm; at least one axis must be longer than {self.divisor}."
            )
        margins: list[int] = []
        for axis in (4, 3, 2):
            margins += [0, -x.shape[axis] % self.divisor]
        return F.pad(x, margins, mode="replicate")


class C2FNAS(C2FNASBackbone):
    """
    3D segmentation network built from an :class:`~cakes_monai.architecture.Architecture`.

    C2FNAS (Yu et al., CVPR 2020), section 4.1 and figure 5; with "cakes" cells the network of CAKES (Yu et al., AAAI
    2021). Level l works at 1/2^(l+1) of the input resolution with 2^(l+1) * ``init_filters`` channels. The stem, the
    end and the transitions are the same in all architectures.

    Any input size is allowed: one that is no multiple of ``architecture.topology.divisor`` is padded by repeating its
    border, and the output is cropped to the input's size.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        architecture: an Architecture or the content of its JSON.
        init_filters: filters of the first convolution, 32 in the papers.
        norm: norm after every convolution, as MONAI names it.
        act: activation after every norm, as MONAI names it.
        dropout: probability of the dropout behind every cell, 0 for none.

    Raises:
        ValueError: when the architecture is illegal or made for another ``init_filters``, and in ``load_state_dict``
            (strict or not) for weights of another architecture.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, out_channels, D, H, W)``, logits

    Example:
        >>> network = C2FNAS(1, 2, Architecture.published("cakes-manual-123d"))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        architecture: Architecture | Mapping[str, Any],
        init_filters: int = 32,
        norm: Factory = ("INSTANCE", {"affine": True}),
        act: Factory = ("RELU", {"inplace": True}),
        dropout: float = 0.0,
    ) -> None:
        architecture = Architecture.of(architecture)
        architecture.check_channels(init_filters)
        super().__init__(
            in_channels, out_channels, architecture.topology, architecture.cells, init_filters, norm, act, dropout
        )
        self.architecture = architecture
