# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What was measured of engines before, on this machine, in a file."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from cakes_monai.inference.engines.engine import Engine
from cakes_monai.inference.timing import Cache, machine, read_times, write_times
from cakes_monai.native.library import cache_folder

__all__ = ["EngineTimes", "default_cache"]

logger = logging.getLogger(__name__)


def default_cache() -> Path:
    """``engines.json`` in the folder ``CAKES_MONAI_CACHE``, by default ``~/.cache/cakes_monai``."""
    return cache_folder() / "engines.json"


class EngineTimes:
    """
    Seconds that engines need for one network, input size and type on this machine.

    Args:
        cache: JSON file; None for :func:`default_cache`, "" for none.
        network: name of its structure.
        device: where it runs.
        dtype: least precise type that is allowed.
        size: of an input, without the batch.
    """

    def __init__(
        self, cache: Cache, network: str, device: torch.device, dtype: torch.dtype, size: tuple[int, ...]
    ) -> None:
        self.cache = default_cache() if cache is None else (cache or None)
        sizes = "x".join(map(str, size))
        self.key = f"{machine(device)}, network {network}, {dtype}, input {sizes}"
        self._times: dict[str, float] | None = None

    def known(self, engine: Engine) -> tuple[float, float] | None:
        """Seconds of a run of one item and of a build; None when they were never measured."""
        if self._times is None:
            self._times = read_times(self.cache)
        run, build = (self._times.get(key, math.nan) for key in self._keys(engine))
        return None if math.isnan(run + build) else (run, build)

    def add(self, engine: Engine, run: float, build: float) -> None:
        """Write seconds down, infinite ones for an engine that cannot run the network."""
        self._times = read_times(self.cache) | dict(zip(self._keys(engine), (run, build), strict=True))
        try:
            write_times(self.cache, self._times)
        except OSError as error:  # a home that cannot be written to
            logger.debug("%s: times are not kept: %s", self.cache, error)

    def _keys(self, engine: Engine) -> tuple[str, str]:
        name = f"{self.key}, {engine.version()}"
        return f"{name}, run", f"{name}, build"
