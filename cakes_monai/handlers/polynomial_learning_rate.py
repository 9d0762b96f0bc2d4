# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The papers' polynomial learning rate as a function of the iteration, without a state to restore."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch.optim import Optimizer

__all__ = ["PolynomialLearningRate"]


class PolynomialLearningRate:
    """
    Set ``initial_lr * (1 - iteration / all iterations) ** power`` before every iteration (CAKES, "Training stage").

    Unlike a torch scheduler it keeps no state: the number of iterations is read from the trainer, so a training that
    is resumed with more epochs follows the longer schedule from where it is.

    Args:
        optimizer: all its parameter groups get the same learning rate.
        initial_lr: learning rate of the first iteration.
        power: 0.9 in the papers.
        warmup: iterations over which it rises linearly to that of the schedule's beginning; 0 for none.
        warmup_lr: learning rate of the first iteration of the warm-up.

    Raises:
        ValueError: for a warm-up below 0.
    """

    def __init__(
        self, optimizer: Optimizer, initial_lr: float, power: float = 0.9, warmup: float = 0, warmup_lr: float = 0.0
    ) -> None:
        if warmup < 0:
            raise ValueError(f"warmup is {warmup} iterations, allowed are 0 or more.")
        self.optimizer = optimizer
        self.initial_lr = initial_lr
        self.power = power
        self.warmup = warmup
        self.warmup_lr = warmup_lr

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the learning rate of the iteration that starts."""
        before = engine.state.iteration - 1
        rate = self.initial_lr * (1 - before / (engine.state.max_epochs * engine.state.epoch_length)) ** self.power
        if before < self.warmup:
            rate = self.warmup_lr + (self.initial_lr - self.warmup_lr) * before / self.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = rate
