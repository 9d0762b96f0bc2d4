# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One line of log for every epoch of a training."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.utils import is_scalar
from torch.optim import Optimizer

__all__ = ["EpochLog"]

logger = logging.getLogger(__name__)


class EpochLog:
    """
    Log loss, metrics, learning rate, time taken and time left after every epoch, and the validation where there is one.

    Example of a line: ``epoch 20/80: loss 0.2113, train_dice 0.8713, learning rate 0.0234, 0:00:41, 0:41:00 left;
    validation anterior 0.8812, posterior 0.8730, val_mean_dice 0.8771 (best 0.8771 in epoch 20)``.

    Args:
        optimizer: its learning rate is logged.
        validator: its metrics are logged after the epochs in which it ran.
    """

    def __init__(self, optimizer: Optimizer, validator: Evaluator | None = None) -> None:
        self.optimizer = optimizer
        self.validator = validator
        self._losses: list[float] = []
        self._times: list[float] = []
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after its ValidationHandler."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Log the epoch that has ended."""
        self._times.append(time.monotonic() - self._started)
        left = (engine.state.max_epochs - engine.state.epoch) * sum(self._times) / len(self._times)
        parts = [
            f"loss {sum(self._losses) / len(self._losses):.4f}",
            *_metrics(engine),
            f"learning rate {self.optimizer.param_groups[0]['lr']:.4g}",
            str(timedelta(seconds=round(self._times[-1]))),
            f"{timedelta(seconds=round(left))} left",
        ]
        state, text = engine.state, ", ".join(parts) + self._validation()
        logger.info("epoch %d/%d: %s", state.epoch, state.max_epochs, text)

    def _start(self, engine: Engine) -> None:
        self._losses = []
        self._started = time.monotonic()

    def _collect(self, engine: Engine) -> None:
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)["loss"]  # decollated, and then a number, or not
        self._losses.append(torch.as_tensor(loss).item())

    def _validation(self) -> str:
        """The validation of this epoch, nothing when there was none."""
        if self.validator is None or not self.validator.state.metrics:
            return ""
        state = self.validator.state
        best = f"(best {state.best_metric:.4f} in epoch {state.best_metric_epoch})"
        text = f"; validation {', '.join(_metrics(self.validator))} {best}"
        state.metrics = {}  # the next epoch has its own, or none
        return text


def _metrics(engine: Engine) -> list[str]:
    return [f"{name} {float(value):.4f}" for name, value in engine.state.metrics.items() if is_scalar(value)]
