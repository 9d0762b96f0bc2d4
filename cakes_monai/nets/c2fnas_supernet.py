# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The network of C2FNAS in which every sub-kernel of every channel is a path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from cakes_monai.architecture import Architecture, KernelSplit, Topology, sub_kernel_set
from cakes_monai.blocks import candidate_paths
from cakes_monai.blocks.transition import Factory
from cakes_monai.cost import Cost, c2fnas_cost
from cakes_monai.nets.c2fnas import C2FNASBackbone

__all__ = ["C2FNASSupernet"]


class C2FNASSupernet(C2FNASBackbone):
    """
    Super-network of CAKES (Yu et al., AAAI 2021, "Search for an Efficient Replacement") on the backbone of C2FNAS.

    Training it searches the kernels: its gates say which sub-kernel every channel of a
    :class:`~cakes_monai.nets.C2FNAS` with the same topology gets. Stem, end, transitions and 1x1x1 convolutions are
    those of C2FNAS and have no paths.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        topology: levels of the cells.
        sub_kernels: candidates: the name of a set ("1d", "2d", "12d", "23d", "123d" ...) or a list of sub-kernels.
        priority: "performance" computes one random path per channel in every iteration, "cost" all of them.
        init_filters: filters of the first convolution, 32 in the papers.
        norm: norm after every convolution, as MONAI names it; it must have scales.
        act: activation after every norm, as MONAI names it.
        dropout: probability of the dropout behind every cell, 0 for none.

    Raises:
        ValueError: for an unknown priority, set or sub-kernel, an illegal topology, or a norm without scales.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, out_channels, D, H, W)``, logits
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology | Sequence[int],
        sub_kernels: str | Iterable[str] = "123d",
        priority: str = "performance",
        init_filters: int = 32,
        norm: Factory = ("INSTANCE", {"affine": True}),
        act: Factory = ("RELU", {"inplace": True}),
        dropout: float = 0.0,
    ) -> None:
        paths = candidate_paths(priority)
        topology = topology if isinstance(topology, Topology) else Topology(tuple(topology))
        names = sub_kernel_set(sub_kernels)

        def operation(channels: int, norm: Factory, act: Factory) -> nn.Module:
            return paths(channels, channels, names, norm, act)

        cells = [operation] * len(topology.levels)
        super().__init__(in_channels, out_channels, topology, cells, init_filters, norm, act, dropout)
        self.topology = topology
        self.sub_kernels = names
        self.priority = priority
        self.in_channels, self.out_channels, self.init_filters = in_channels, out_channels, init_filters

    def derived(self, splits: Mapping[str, KernelSplit], origin: Mapping[str, Any] | None = None) -> Architecture:
        """The architecture with these splits in the places of this network's paths."""
        return Architecture.of_splits(self.topology, splits, origin)

    def derived_cost(self, splits: Mapping[str, KernelSplit], size: Sequence[int]) -> Cost:
        """What the :meth:`derived` network costs for an image of ``size`` voxels along D, H and W."""
        return c2fnas_cost(self.derived(splits), self.in_channels, self.out_channels, self.init_filters, size)
