# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The papers' step-wise learning rate as a function of the iteration, without a state to restore."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events
from torch.optim import Optimizer

__all__ = ["StepLearningRate"]


class StepLearningRate:
    """
    Multiply the learning rate by ``factor`` at every step, after a linear warm-up (C2FNAS, 4.1; CAKES, video).

    It keeps no state: steps are read in iterations from the trainer's own count, so a resumed training goes on as the
    whole one would have. A parameter group with an entry "lr_scale" has that many times the learning rate.

    Args:
        optimizer: what the learning rate is set of.
        initial_lr: learning rate between warm-up and the first step.
        steps: epochs (or iterations) after which it is multiplied.
        factor: 0.1 for video, 0.5 for C2FNAS.
        warmup: epochs (or iterations) over which it rises linearly; 0 for none.
        warmup_lr: learning rate of the first iteration of the warm-up.
        in_iterations: ``steps`` and ``warmup`` count iterations instead of epochs.

    Raises:
        ValueError: for steps that do not increase or are not above 0, or a warm-up below 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        initial_lr: float,
        steps: Sequence[float],
        factor: float = 0.1,
        warmup: float = 0,
        warmup_lr: float = 0.0,
        in_iterations: bool = False,
    ) -> None:
        if list(steps) != sorted(set(steps)) or min(steps, default=1) <= 0 or warmup < 0:
            raise ValueError(f"steps {list(steps)} must increase and be above 0, warmup {warmup} must be at least 0.")
        self.optimizer = optimizer
        self.initial_lr = initial_lr
        self.steps = tuple(steps)
        self.factor = factor
        self.warmup = warmup
        self.warmup_lr = warmup_lr
        self.in_iterations = in_iterations

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the learning rate of the iteration that starts."""
        unit = 1 if self.in_iterations else engine.state.epoch_length
        done = (engine.state.iteration - 1) / unit
        rate = self.initial_lr * self.factor ** sum(done >= step for step in self.steps)
        if done < self.warmup:
            rate = self.warmup_lr + (self.initial_lr - self.warmup_lr) * done / self.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
