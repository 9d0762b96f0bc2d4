# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which engine runs one network on inputs of one shape: the one that gets the work done first."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.agreement import disagreement
from cakes_monai.inference.engines.batches import FixedBatch
from cakes_monai.inference.engines.engine import Engine, Run
from cakes_monai.inference.engines.engine_times import EngineTimes
from cakes_monai.inference.engines.network_state import frozen_copy
from cakes_monai.inference.engines.torch_engines import run_eagerly

__all__ = ["EngineChoice", "build_checked"]

logger = logging.getLogger(__name__)

_RUNS = 5  # of which the fastest counts, as something else may keep the machine busy
_HOPELESS = 20.0  # times the present engine's seconds: such an engine is not measured further
_PREPARING_RUNS = 5  # of the eager network that a build needs: to trace it, to check it


class EngineChoice:
    """
    Run one network on inputs of one shape, at first by eager torch, then by an engine that saves time.

    An engine is built as soon as the seconds that it is expected to save exceed those of its build. It is expected
    that as much work is to come as was done already, or as the caller knows to come, whichever is more. How fast an
    engine is, and how long its build takes, is assumed until it was measured. Seconds of builds in vain are counted
    against the next one. So a job lasts at most as long as its work and about as much again, and a short one is never
    kept waiting.

    Args:
        engines: engines to choose from, without eager torch.
        dtype: float32 or bfloat16.
        times: what was measured before.
        forced: whether to build the first engine at once and not to time it.
    """

    def __init__(self, engines: Sequence[Engine], dtype: torch.dtype, times: EngineTimes, forced: bool = False) -> None:
        self.waiting = list(engines)
        self.dtype = dtype
        self.times = times
        self.forced = forced
        self.engine = "torch"
        self.built: FixedBatch | None = None
        self.seconds: dict[str, float] = {}  # of one item
        self._warm = False  # the first run of an engine sets things up
        self._spent = 0.0  # seconds of the present engine
        self._in_vain = 0.0  # seconds of builds that were of no use
        self._building = threading.Lock()

    def __call__(self, network: nn.Module, x: Tensor, ahead: int = 0) -> Tensor:
        """
        Logits, float32.

        Args:
            network: the network, in evaluation mode.
            x: a batch.
            ahead: items that are known to come after it.
        """
        if self.forced and self.waiting:
            self._try(self.waiting[0], network, x)
        if not self.waiting:
            return self._run(network, x)
        start = _now(x)
        result = self._run(network, x)
        self._note(_now(x) - start, len(x))
        engine = self._worth_building(ahead)
        if engine is not None:
            self._try(engine, network, x)
        return result

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        if self.built is not None:
            try:
                return self.built(x)
            except Exception as error:
                logger.warning("engine %s failed, torch goes on: %s", self.engine, _line(error))
                self.built, self.engine, self._warm = None, "torch", False
        return run_eagerly(network, x, self.dtype)

    def _note(self, seconds: float, items: int) -> None:
        if self._warm:
            self._spent += seconds
            least = self.seconds.get(self.engine, seconds / items)
            self.seconds[self.engine] = min(least, seconds / items)
        self._warm = True

    def _worth_building(self, ahead: int) -> Engine | None:
        """The engine that saves most of the time that is expected to come; None when none saves any."""
        now = self.seconds.get(self.engine)
        if now is None:
            return None
        expected = max(self._spent, now * ahead)
        saved = {}
        for engine in list(self.waiting):
            run, build = self.times.known(engine) or self._assumed(engine)
            saved[engine] = expected * (1 - run / now) - build - self._in_vain
        best = max(saved, key=lambda engine: saved[engine], default=None)
        return best if best and saved[best] > 0 else None

    def _assumed(self, engine: Engine) -> tuple[float, float]:
        eager = self.seconds.get("torch", 0.0)
        return eager / engine.speed, engine.build_seconds + _PREPARING_RUNS * eager

    def _try(self, engine: Engine, network: nn.Module, x: Tensor) -> None:
        """Take to an engine when its results are right and, if there is a choice, when it is the faster."""
        if not self._building.acquire(blocking=False):
            return  # another thread is about it
        try:
            self.waiting.remove(engine)
            part = x if x.is_cuda else x[:1]  # a CPU is busy with one item
            start = _now(x)
            try:
                run = build_checked(engine, network, part, self.dtype)
            except Exception as error:
                logger.warning("engine %s is not used: %s", engine.name, _line(error))
                self._in_vain += _now(x) - start
                self._give_up(engine, error)
                return
            self._compare(engine, FixedBatch(run, len(part)), part, _now(x) - start)
        finally:
            self._building.release()

    def _give_up(self, engine: Engine, error: Exception) -> None:
        if not isinstance(error, DisagreementError):  # which may be the fault of this one input
            self.times.add(engine, float("inf"), float("inf"))

    def _compare(self, engine: Engine, built: FixedBatch, x: Tensor, build: float) -> None:
        if not self.forced:
            known = self.times.known(engine)
            self.seconds[engine.name] = _seconds(built, x, self.seconds[self.engine]) if known is None else known[0]
            self.times.add(engine, self.seconds[engine.name], build if known is None else known[1])
        if self.forced or self.seconds[engine.name] < self.seconds[self.engine]:
            self.engine, self.built, self._warm, self._spent = engine.name, built, False, 0.0
        else:
            self._in_vain += build
        self._report(engine.name, x, build)

    def _report(self, built: str, x: Tensor, build: float) -> None:
        seconds = {name: f"{name} {seconds:.4f} s" for name, seconds in self.seconds.items()}
        seconds[built] = f"{seconds.get(built, built)} (built in {build:.1f} s)"
        size, dtype = "x".join(map(str, x.shape[1:])), str(self.dtype).removeprefix("torch.")
        logger.info("%s in %s on %s: %s; %s runs it.", size, dtype, x.device, ", ".join(seconds.values()), self.engine)


class DisagreementError(ValueError):
    """The results of an engine are not those of the network."""


def build_checked(engine: Engine, network: nn.Module, x: Tensor, dtype: torch.dtype) -> Run:
    """
    Build a network for inputs like ``x``, and compare the result for ``x`` with that of eager torch.

    Raises:
        ValueError: when the results disagree.
        Exception: whatever the engine raises when it cannot build or run the network.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing and converting warn of themselves
        run = engine.build(frozen_copy(network), x, dtype)
        result = run(x)
        reference = run_eagerly(network, x, torch.float32)
        reduced = None if dtype == torch.float32 else run_eagerly(network, x, dtype)
    if reason := disagreement(result, reference, reduced):
        raise DisagreementError(reason)
    return run


def _seconds(run: Run, x: Tensor, limit: float) -> float:
    """The fastest of a few runs for each item; of fewer when they take much longer than ``limit``."""
    times: list[float] = []
    while len(times) < _RUNS and sum(times) <= _HOPELESS * limit:
        start = _now(x)
        run(x)
        times.append((_now(x) - start) / len(x))
    return min(times)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def _line(error: Exception) -> str:
    """The first line of an error, for a warning of one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
