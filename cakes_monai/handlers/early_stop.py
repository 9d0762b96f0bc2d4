# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Early stopping that can be written in a bundle's train handlers and resumed."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events
from monai.engines import Evaluator

__all__ = ["EarlyStop"]

logger = logging.getLogger(__name__)


class EarlyStop:
    """
    Stop the training when the validation has not improved for ``patience`` epochs.

    MONAI's EarlyStopHandler sits on the validator and refers to the trainer, which a bundle cannot say without a
    circular reference, and its counter is lost when a training is resumed. This one sits on the trainer and reads the
    validator's best epoch, which :class:`TrainingCheckpoint` restores.

    Args:
        validator: its key metric decides.
        patience: epochs without improvement; 0 never stops.
    """

    def __init__(self, validator: Evaluator, patience: int) -> None:
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after its ValidationHandler."""
        if self.patience:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stop when the patience is over."""
        best = self.validator.state.best_metric_epoch
        if 0 < best <= engine.state.epoch - self.patience:
            logger.info("Stopped: no better validation since epoch %d.", best)
            engine.terminate()
