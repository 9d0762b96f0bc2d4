# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Norms whose affine scales are the gates of a super-network's paths."""

from __future__ import annotations

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from cakes_monai.blocks.transition import Factory

__all__ = ["PathNorm", "gated_norm", "norm_of_all_paths"]


def gated_norm(norm: Factory, channels: int) -> nn.Module:
    """
    The norm MONAI makes of ``norm``, if it has a scale for each channel.

    Raises:
        ValueError: for a norm without scales, which has no gates.
    """
    layer = get_norm_layer(norm, spatial_dims=3, channels=channels)
    gated = isinstance(layer, _NormBase | nn.GroupNorm) and layer.weight is not None
    if not gated:
        raise ValueError(
            f"norm {norm!r} has no scale for each channel, so paths have no gates; allowed are 'BATCH', 'SYNCBATCH', "
            f"('INSTANCE', {{'affine': True}}) and ('GROUP', {{'num_groups': ...}})."
        )
    return layer


def norm_of_all_paths(norm: Factory, num_paths: int, channels: int) -> Factory:
    """
    ``norm`` for the outputs of all paths concatenated.

    A group of a GroupNorm keeps its number of channels, so that it never mixes sub-kernels when it does not mix
    channels of different groups in the network that is searched for.

    Raises:
        ValueError: for a norm without scales, which has no gates.
    """
    layer = gated_norm(norm, channels)
    if isinstance(layer, nn.GroupNorm) and not isinstance(norm, str):
        return norm[0], {**norm[1], "num_groups": layer.num_groups * num_paths}
    return norm


class PathNorm(nn.Module):
    """
    Norm over the C channels that were computed, with own scale, shift and running statistics for every path.

    The state is that of MONAI's norm with a first dimension more: ``norm.weight`` is ``(paths, C)``. Channels whose
    path was not drawn keep their running statistics, the others take in their own batch's.

    With GroupNorm the statistics of a group are those of the channels computed together, whatever their sub-kernels;
    scale and shift still belong to the path.

    Args:
        norm: norm as MONAI names it.
        num_paths: number of candidate sub-kernels.
        channels: number of channels C.

    Raises:
        ValueError: for a norm without scales, or a BatchNorm with cumulative statistics.

    Shapes:
        - input and output: ``(N, C, D, H, W)``
    """

    def __init__(self, norm: Factory, num_paths: int, channels: int) -> None:
        super().__init__()
        self.norm = gated_norm(norm, channels)
        if isinstance(self.norm, _BatchNorm) and self.norm.momentum is None:
            raise ValueError(f"norm {norm!r}: paths that are drawn at random need a momentum.")
        for name, parameter in list(self.norm.named_parameters()):
            setattr(self.norm, name, nn.Parameter(parameter.detach().repeat(num_paths, 1)))
        for name, value in list(self.norm.named_buffers()):
            if value.dim():  # all but the number of batches
                self.norm.register_buffer(name, value.repeat(num_paths, 1))

    @property
    def gates(self) -> Tensor:
        """Scale of every path, ``(paths, C)``."""
        return self.norm.get_parameter("weight")

    def forward(self, x: Tensor, paths: Tensor) -> Tensor:
        """
        Normalise.

        Args:
            x: ``(N, C, D, H, W)``.
            paths: index of the path that computed each channel, ``(C,)``.
        """
        channels = len(paths)
        places = paths * channels + torch.arange(channels, device=paths.device)
        state: dict[str, Tensor] = {**dict(self.norm.named_parameters()), **dict(self.norm.named_buffers())}
        picked = {name: value.view(-1).index_select(0, places) for name, value in state.items() if value.dim() == 2}
        output: Tensor = functional_call(self.norm, picked, (x,))
        if self.training:
            for name, value in self.norm.named_buffers():
                if name in picked:
                    value.view(-1)[places] = picked[name]
        return output
