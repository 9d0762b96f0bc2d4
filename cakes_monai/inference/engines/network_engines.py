# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The engines of every network that is being run, until its weights change."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.engine import Engine
from cakes_monai.inference.engines.engine_choice import EngineChoice
from cakes_monai.inference.engines.engine_times import EngineTimes
from cakes_monai.inference.engines.network_state import fingerprint, structure
from cakes_monai.inference.engines.registry import ENGINES, check_engine
from cakes_monai.inference.timing import Cache

__all__ = ["NetworkEngines", "engines_of"]


class NetworkEngines:
    """
    Engines of one network by shape, device and type of the input; it holds no reference to the network.

    Args:
        engine: name of an engine or "auto".
        cache: as in :class:`~cakes_monai.inference.engines.EngineTimes`.
    """

    def __init__(self, engine: str, cache: Cache = None) -> None:
        self.engine = check_engine(engine)
        self.cache = cache
        self.choices: dict[object, EngineChoice] = {}
        self._fingerprint: object = None

    def renew(self, network: nn.Module) -> None:
        """Forget what was built from other weights than the network has now."""
        if self.engine == "torch":
            return
        now = fingerprint(network)
        if now != self._fingerprint:
            self.choices.clear()
        self._fingerprint = now

    def choice(self, network: nn.Module, x: Tensor, dtype: torch.dtype) -> EngineChoice:
        """
        The choice for inputs like ``x``.

        Raises:
            ValueError: when the engine that is asked for cannot run on the device of ``x``.
        """
        key = (tuple(x.shape[1:]), x.device, dtype)
        if key not in self.choices:
            times = EngineTimes(self.cache, structure(network), x.device, dtype, tuple(x.shape[1:]))
            self.choices[key] = EngineChoice(self._candidates(x.device), dtype, times, self.engine != "auto")
        return self.choices[key]

    def _candidates(self, device: torch.device) -> list[Engine]:
        others = [engine for name, engine in ENGINES.items() if name != "torch"]
        if self.engine == "auto":
            return [engine for engine in others if engine.missing(device) is None]
        if reason := ENGINES[self.engine].missing(device):
            raise ValueError(f"{reason}.")
        return [engine for engine in others if engine.name == self.engine]


_OF_NETWORKS: WeakKeyDictionary[nn.Module, dict[tuple[str, str], NetworkEngines]] = WeakKeyDictionary()


def engines_of(network: nn.Module, engine: str, cache: Cache = None) -> NetworkEngines:
    """
    The engines of a network, the same ones for every caller as long as the network lives and its weights stay.

    Raises:
        ValueError: for an unknown engine, or one that is not installed.
    """
    of_network = _OF_NETWORKS.setdefault(network, {})
    key = (engine, str(cache))
    if key not in of_network:
        of_network[key] = NetworkEngines(engine, cache)
    of_network[key].renew(network)
    return of_network[key]
