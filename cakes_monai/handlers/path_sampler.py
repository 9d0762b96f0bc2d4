# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One random path per channel and iteration."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn

from cakes_monai.blocks import draw_paths

__all__ = ["PathSampler"]


class PathSampler:
    """
    Draw the paths of a super-network of performance priority before every iteration.

    The draw is a function of seed and iteration: the same on every rank, and after a resume what it would have been.

    Args:
        network: the super-network, within DistributedDataParallel or not.
        seed: any whole number from 0.

    Raises:
        ValueError: when the network has no paths to draw.
    """

    def __init__(self, network: nn.Module, seed: int = 0) -> None:
        self.network = network
        self.seed = seed
        draw_paths(network, seed, 0)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw for the iteration that starts."""
        draw_paths(self.network, self.seed, engine.state.iteration)
