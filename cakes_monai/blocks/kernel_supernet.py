# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The operations of a CAKES super-network: every output channel has one path for each candidate sub-kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from monai.networks.layers.utils import get_act_layer
from torch import Tensor, nn

from cakes_monai.architecture import KernelSplit, sub_kernel_set
from cakes_monai.blocks.cakes_conv import CakesConv
from cakes_monai.blocks.cell import SubKernelOperation
from cakes_monai.blocks.path_norm import PathNorm, norm_of_all_paths
from cakes_monai.blocks.transition import Factory

__all__ = ["PRIORITIES", "ConcatenatedPaths", "SampledPaths", "candidate_paths"]


class SampledPaths(nn.Module):
    """
    Performance priority: of the candidate sub-kernels of every output channel only one is computed.

    CAKES (Yu et al., AAAI 2021), "Performance-Priority Search". In training the paths are those of the last
    :meth:`draw`; in eval those with the largest gate of each channel (equation 9), or those of :meth:`keep`. Every
    parameter takes part in every iteration, an undrawn path with a gradient of zero, so DistributedDataParallel needs
    no search for unused parameters. (An optimizer with momentum or weight decay moves such a path nevertheless.)

    With GroupNorm a derived network, whose channels lie sub-kernel after sub-kernel, has other channels in a group.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels C.
        sub_kernels: candidates: the name of a set or a list.
        norm: norm after the convolution, it must have scales.
        act: activation after the norm, "" for none.
        stride: stride along D, H and W.
        execution: "dense" (of constant shape, channels in their order at no cost) or "separate".

    Raises:
        ValueError: for unknown sub-kernels, a norm without scales, and in training before the first draw.

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
        execution: str = "dense",
    ) -> None:
        super().__init__()
        self.sub_kernels = sub_kernel_set(sub_kernels)
        self.out_channels = self.channels = out_channels
        every_path = KernelSplit(tuple((name, out_channels) for name in self.sub_kernels))
        self.conv = CakesConv(in_channels, every_path, stride, execution)
        self.norm = PathNorm(norm, len(self.sub_kernels), out_channels)
        self.act: nn.Module = get_act_layer(act)
        # not part of the state: drawn anew before every iteration
        self.drawn: Tensor
        self.register_buffer("drawn", torch.zeros(out_channels, dtype=torch.long), persistent=False)
        self.drawn_counts: list[int] = []
        self.kept: Tensor | None
        self.register_buffer("kept", None, persistent=False)

    @property
    def gates(self) -> Tensor:
        """Path weights alpha, ``(sub-kernels, C)``."""
        return self.norm.gates

    def draw(self, generator: torch.Generator) -> None:
        """Choose for every channel one sub-kernel uniformly for the coming iterations; ``generator`` is on the CPU."""
        drawn = torch.randint(len(self.sub_kernels), (self.channels,), generator=generator)
        self.drawn_counts = self._counts(drawn)
        self.drawn = drawn.to(self.gates.device)

    def keep(self, channels: Mapping[str, Sequence[int]] | None) -> None:
        """
        Evaluate other paths than those with the largest gates.

        Args:
            channels: the channels of each sub-kernel, the same on all ranks; None returns to the largest gates.

        Raises:
            ValueError: unless every channel has exactly one sub-kernel.
        """
        pairs = sorted((c, self.sub_kernels.index(name)) for name, chosen in (channels or {}).items() for c in chosen)
        if channels is not None and [c for c, _ in pairs] != list(range(self.channels)):
            raise ValueError("performance priority evaluates exactly one sub-kernel of every channel (rule 'argmax').")
        kept = torch.tensor([path for _, path in pairs], device=self.gates.device)
        self.kept = None if channels is None else kept

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        paths, counts = self._paths()
        order = torch.argsort(paths, stable=True)  # grouped by sub-kernel, as CakesConv lays channels out
        output = self.conv.convolve(x, self._weights(order.split(counts)), torch.argsort(order))
        return self.act(self.norm(output, paths))

    def _paths(self) -> tuple[Tensor, list[int]]:
        """Index of the sub-kernel of every channel, and the channels of every sub-kernel."""
        if not self.training:
            paths = self.gates.detach().abs().argmax(0) if self.kept is None else self.kept  # the first of equal ones
            return paths, self._counts(paths)
        if not self.drawn_counts:
            raise ValueError("no paths are drawn; training needs cakes_monai.handlers.PathSampler (or draw_paths).")
        return self.drawn, self.drawn_counts

    def _counts(self, paths: Tensor) -> list[int]:
        return torch.bincount(paths, minlength=len(self.sub_kernels)).tolist()

    def _weights(self, channels: Sequence[Tensor]) -> list[Tensor]:
        picked = [
            sub_kernel.get_parameter("weight").index_select(0, index)
            for sub_kernel, index in zip(self.conv.sub_kernels.values(), channels, strict=True)
        ]
        drawn = [weight for weight in picked if len(weight)]
        undrawn = [weight.sum() for weight in picked if not len(weight)]
        if undrawn and self.training:  # adds 0, so that the whole sub-kernel has a gradient, which is 0
            drawn[0] = drawn[0] + torch.stack(undrawn).sum()
        return drawn


class ConcatenatedPaths(SubKernelOperation):
    """
    Cost priority: all paths are computed and concatenated for the 1x1x1 convolution that follows.

    CAKES (Yu et al., AAAI 2021), "Cost-Priority Search". The outputs lie sub-kernel after sub-kernel. With GroupNorm
    a group has as many channels as without the paths, so there are more groups.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels C of the paths of each sub-kernel.
        sub_kernels: candidates: the name of a set or a list.
        norm: norm over the channels of all paths, it must have scales.
        act: activation after the norm, "" for none.
        stride: stride along D, H and W.

    Raises:
        ValueError: for unknown sub-kernels or a norm without scales.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, sub-kernels * C, D/stride, H/stride, W/stride)``
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
        names = sub_kernel_set(sub_kernels)
        every_path = KernelSplit(tuple((name, out_channels) for name in names))
        super().__init__(in_channels, [every_path], norm_of_all_paths(norm, len(names), out_channels), act, stride)
        self.sub_kernels = names
        self.channels = out_channels
        self.kept: Tensor | None
        self.register_buffer("kept", None, persistent=False)

    @property
    def conv(self) -> CakesConv:
        """The convolution with all paths."""
        conv = self.convs[0]
        assert isinstance(conv, CakesConv)
        return conv

    @property
    def gates(self) -> Tensor:
        """Path weights alpha, ``(sub-kernels, C)``."""
        return self.adn.N.weight.view(len(self.sub_kernels), self.channels)

    def keep(self, channels: Mapping[str, Sequence[int]] | None) -> None:
        """
        In eval, set the outputs of all other paths to zero.

        Args:
            channels: the channels of each sub-kernel, the same on all ranks; None returns to all paths.
        """
        kept = torch.zeros_like(self.gates, requires_grad=False)
        for name, chosen in (channels or {}).items():
            kept[self.sub_kernels.index(name), list(chosen)] = 1
        self.kept = None if channels is None else kept

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        output = super().forward(x)
        return output if self.training or self.kept is None else output * self.kept.view(1, -1, 1, 1, 1)


_PATHS: dict[str, type[SampledPaths | ConcatenatedPaths]] = {"performance": SampledPaths, "cost": ConcatenatedPaths}

#: Kinds of search of CAKES.
PRIORITIES = tuple(_PATHS)


def candidate_paths(priority: str) -> type[SampledPaths | ConcatenatedPaths]:
    """
    The operation of a super-network of this priority.

    Raises:
        ValueError: for an unknown priority.
    """
    if priority not in PRIORITIES:
        raise ValueError(f"unknown priority {priority!r}, allowed are {', '.join(PRIORITIES)}.")
    return _PATHS[priority]
