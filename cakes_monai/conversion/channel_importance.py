# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How much the output of a network changes with each channel of its convolutions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cakes_monai.blocks.network_copy import tensors_in
from cakes_monai.conversion.patches import run_volumes
from cakes_monai.conversion.replacement import DenseLayer

__all__ = ["channel_importance"]

logger = logging.getLogger(__name__)


def channel_importance(
    network: nn.Module, layers: Mapping[str, DenseLayer], volumes: Sequence[Tensor]
) -> dict[str, NDArray[np.float64]]:
    """
    Energy that the network's output changes by, when a channel loses all of its own.

    To first order, and as if what is lost were independent from voxel to voxel: the channel's variance times the sum,
    over voxels, of squared derivatives of the output. Those of all outputs together are estimated by one random
    direction of signs for each volume (Hutchinson's estimator). So a channel that loses a part e of its energy changes
    the output by e times this, whatever norms and layers follow.

    Args:
        network: the network; it is as before afterwards.
        layers: some of its convolutions.
        volumes: inputs of the network, ``(N, C, D, H, W)``. A forward and a backward pass of one is done at a time.

    Returns:
        For each layer ``(out_channels,)``; zeros for a network that has no derivatives, which is logged.
    """
    nothing = {name: np.zeros(layer.out_channels) for name, layer in layers.items()}
    found = {name: values.copy() for name, values in nothing.items()}
    given: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(0)

    def keep(name: str, _: nn.Module, __: Any, y: Tensor) -> Tensor:
        given.append((name, y if y.requires_grad else y.requires_grad_()))
        return y.clone()  # what follows may work in place

    def add(_: nn.Module, __: Any, output: Any) -> None:
        ends = [end for end in tensors_in(output) if end.requires_grad]
        if not ends:
            raise ValueError("the output does not depend on the convolutions by a derivative")
        signs = [torch.randint(2, end.shape, generator=generator).to(end) * 2 - 1 for end in ends]
        gradients = torch.autograd.grad(ends, [y for _, y in given], signs, allow_unused=True)
        for (name, y), gradient in zip(given, gradients, strict=True):
            if gradient is not None:
                variance = y.detach().double().var((0, 2, 3, 4), correction=0)
                found[name] += (variance * gradient.double().square().sum((0, 2, 3, 4))).cpu().numpy()
        given.clear()

    handles = [layer.register_forward_hook(partial(keep, name)) for name, layer in layers.items()]
    handles.append(network.register_forward_hook(add))
    try:
        run_volumes(network, volumes, gradients=True)
    except ValueError as error:  # that of the network; it did run on the volumes without derivatives
        logger.warning("All channels count the same: %s", error)
        return nothing
    finally:
        for handle in handles:
            handle.remove()
    return found
