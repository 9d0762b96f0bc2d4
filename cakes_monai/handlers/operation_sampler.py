# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One random path per iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from cakes_monai.search import draw_candidates, draw_operations

__all__ = ["OperationSampler", "OperationSupernet"]


@runtime_checkable
class OperationSupernet(Protocol):
    """What a network offers whose cells choose among operations."""

    operations: tuple[str, ...]

    @property
    def num_cells(self) -> int:
        """Number of cells that choose."""

    def choose(self, operations: Sequence[str]) -> None:
        """Compute this path from now on."""


class OperationSampler:
    """
    Choose a path of a super-network uniformly before every iteration (C2FNAS, section 3.4).

    The choice is a function of seed and iteration: the same on every rank, and after a resume what it would have been.

    Args:
        network: the super-network, within DistributedDataParallel or not.
        seed: any whole number from 0.
        validator: evaluates always the same random path, a function of the seed, so that its scores can be compared.

    Raises:
        ValueError: when the network has no operations to choose from.
    """

    def __init__(self, network: nn.Module, seed: int = 0, validator: Evaluator | None = None) -> None:
        bare: Any = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        if not isinstance(bare, OperationSupernet):
            raise ValueError(f"{type(bare).__name__} has no operations to choose from; make a super-network.")
        self.network = bare
        self.seed = seed
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        """Register with a trainer and with the validator."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        if self.validator is not None:
            self.validator.add_event_handler(Events.STARTED, self._choose_same)

    def __call__(self, engine: Engine) -> None:
        """Choose for the iteration that starts."""
        network = self.network
        network.choose(draw_operations(self.seed, engine.state.iteration, network.num_cells, network.operations))

    def _choose_same(self, engine: Engine) -> None:
        network = self.network
        network.choose(draw_candidates(self.seed, 1, network.num_cells, network.operations)[0])
