# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How long a training waits for its data."""

from __future__ import annotations

import time

from ignite.engine import Engine, Events

__all__ = ["LoaderWait"]


class LoaderWait:
    """
    Set the metric ``waiting_share`` of every epoch: the share of its time in which the trainer waits for a batch.

    Near 0 the data loader keeps up; a large share asks for more ``num_workers``. It comes before what logs metrics.
    """

    def __init__(self) -> None:
        self._asked = self._started = self._waited = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the metric of the epoch that has ended."""
        engine.state.metrics["waiting_share"] = self._waited / (time.perf_counter() - self._started)

    def _start(self, engine: Engine) -> None:
        self._started, self._waited = time.perf_counter(), 0.0

    def _ask(self, engine: Engine) -> None:
        self._asked = time.perf_counter()

    def _get(self, engine: Engine) -> None:
        self._waited += time.perf_counter() - self._asked
