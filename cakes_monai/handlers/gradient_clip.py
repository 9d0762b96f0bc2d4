# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradient clipping for MONAI's trainers, which also stops a training that has diverged."""

from __future__ import annotations

import logging
import math

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from torch import nn

__all__ = ["GradientClip"]

logger = logging.getLogger(__name__)


class GradientClip:
    """
    Scale the gradient of every iteration down to a largest norm; skip the step when it is not finite.

    Args:
        network: its parameters' gradients are clipped together.
        max_norm: largest 2-norm; None for any that is finite.
        patience: iterations without a finite gradient in a row after which the training ends with an error.

    Raises:
        FloatingPointError: from the training, after ``patience`` such iterations.
    """

    def __init__(self, network: nn.Module, max_norm: float | None, patience: int = 10) -> None:
        self.network = network
        self.max_norm = math.inf if max_norm is None else max_norm
        self.patience = patience
        self._skipped_in_a_row = 0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip, or skip, the step that follows."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if torch.isfinite(norm):
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        logger.warning("Skipped iteration %d: its gradient is not finite.", engine.state.iteration)
        if self._skipped_in_a_row == self.patience:
            raise FloatingPointError(
                f"iterations up to {engine.state.iteration}: no finite gradient {self.patience} times in a row, the "
                f"training has diverged; lower learning_rate, or resume from the last checkpoint with amp false."
            )
        for parameter in self.network.parameters():
            parameter.grad = None  # the optimizer passes over it
