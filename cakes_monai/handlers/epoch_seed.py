# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Randomness that is a function of seed and epoch, so that a resumed training draws what the killed one would have."""

from __future__ import annotations

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from ignite.utils import manual_seed
from monai.transforms import Randomizable

__all__ = ["EpochSeed"]


class EpochSeed:
    """
    Seed torch, NumPy, Python and the random transforms anew at the start of every epoch.

    A training resumed from the checkpoint of an epoch then needs no saved random states: shuffling, augmentation (in
    worker processes as well, which MONAI seeds from torch) and dropout of epoch n depend on ``(seed, n, rank)`` only.

    Args:
        seed: any whole number from 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts."""
        mixed = np.random.SeedSequence((self.seed, engine.state.epoch, idist.get_rank())).generate_state(1)
        manual_seed(int(mixed[0]))
        transform = getattr(getattr(engine.state.dataloader, "dataset", None), "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=int(mixed[0]))
