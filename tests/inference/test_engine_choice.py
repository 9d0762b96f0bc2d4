# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Engines are built when that saves time, checked before they are used, and given up when they fail."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cakes_monai.inference.engines import Engine, EngineChoice, EngineTimes, Run

X = torch.arange(16.0).reshape(2, 2, 4)


class Slow(nn.Module):
    """Adds a weight, which takes 20 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 1))
        self.pause = 0.02

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.pause)
        return x + self.weight


class Quick(Engine):
    """Runs Slow without its pause."""

    name = "quick"
    speed = 100.0

    def __init__(self, build_seconds: float = 0.0, error: float = 0.0, pause: float = 0.0) -> None:
        self.build_seconds, self.error, self.pause = build_seconds, error, pause
        self.builds = 0

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:
        self.builds += 1
        network.pause = self.pause
        return lambda x: network(x) * (1 + self.error)


class Broken(Quick):
    """Cannot be built."""

    name = "broken"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:
        self.builds += 1
        raise RuntimeError("no operation x\nand more")


class FailsLater(Quick):
    """Fails from the third run on, as one that runs out of memory."""

    name = "fails later"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:
        run, left = super().build(network, example, dtype), [2]

        def count(x: Tensor) -> Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise MemoryError
            return run(x)

        return count


def choice(*engines: Engine, cache: Path | str = "", forced: bool = False) -> EngineChoice:
    """A choice among engines for Slow."""
    times = EngineTimes(cache, "slow", torch.device("cpu"), torch.float32, (2, 4))
    return EngineChoice(engines, torch.float32, times, forced)


def work(chosen: EngineChoice, runs: int, ahead: int = 0) -> None:
    """Run a few batches, whose results are always those of the network."""
    network = Slow().eval()
    with torch.no_grad():
        for _ in range(runs):
            assert torch.equal(chosen(network, X, ahead), X + 1)


def test_a_short_job_is_left_to_torch() -> None:
    """Nothing is built as long as the work done so far took less time than a build."""
    engine = Quick(build_seconds=60)
    chosen = choice(engine)
    work(chosen, 4)
    assert (chosen.engine, engine.builds) == ("torch", 0)


def test_an_engine_is_built_when_that_saves_time() -> None:
    """As soon as as much work was done as a build takes, or at once when it is known to come."""
    engine = Quick(build_seconds=0.1)
    chosen = choice(engine)
    work(chosen, 20)
    assert (chosen.engine, engine.builds) == ("quick", 1)
    engine = Quick(build_seconds=0.1)
    chosen = choice(engine)
    work(chosen, 2, ahead=1000)
    assert (chosen.engine, engine.builds) == ("quick", 1)


def test_garbage_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    """A fast engine whose results are wrong is never used, and is not built a second time."""
    engine = Quick(error=0.01)
    chosen = choice(engine)
    work(chosen, 10, ahead=1000)
    assert (chosen.engine, engine.builds) == ("torch", 1)
    (message,) = caplog.messages
    assert message.startswith("engine quick is not used: DisagreementError: a logit is off by 0.01 of the largest")


@pytest.mark.parametrize("forced", [False, True])
def test_an_engine_that_cannot_be_built(forced: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Torch does the work, and one line of the log says why, whether it was asked for or not."""
    engine = Broken()
    chosen = choice(engine, forced=forced)
    work(chosen, 10, ahead=1000)
    assert (chosen.engine, engine.builds) == ("torch", 1)
    assert caplog.messages == ["engine broken is not used: RuntimeError: no operation x"]


def test_an_engine_that_fails_later(caplog: pytest.LogCaptureFixture) -> None:
    """Torch goes on with the batch at which the engine failed."""
    chosen = choice(FailsLater(), forced=True)
    work(chosen, 5)
    assert chosen.engine == "torch"
    assert caplog.messages == ["engine fails later failed, torch goes on: MemoryError"]


def test_a_slower_engine_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """What was promised to be fast is measured; the log has the times of both."""
    engine = Quick(pause=0.05)
    chosen = choice(engine)
    with caplog.at_level(logging.INFO):
        work(chosen, 10, ahead=1000)
    assert (chosen.engine, engine.builds) == ("torch", 1)
    assert chosen.seconds["quick"] > 0.05
    (message,) = caplog.messages
    assert message.startswith("2x4 in float32 on cpu: torch 0.0")
    assert message.endswith(" s); torch runs it.")


def test_the_fastest_is_kept() -> None:
    """An engine that is faster than the one in use takes over; one that promises less is not built."""
    fast, faster, slow = Quick(pause=0.008), Quick(), Quick()
    fast.name, faster.name, slow.name = "fast", "faster", "slow"
    fast.speed, faster.speed, slow.speed = 200.0, 100.0, 0.5
    chosen = choice(slow, faster, fast)
    work(chosen, 20, ahead=10000)
    assert chosen.engine == "faster"
    assert (fast.builds, faster.builds, slow.builds) == (1, 1, 0)


def test_times_are_remembered(tmp_path: Path) -> None:
    """A second run builds and checks, but does not measure; what is known to be slow or broken is not built."""
    cache = tmp_path / "engines.json"
    quick, slow, broken = Quick(), Quick(pause=0.05), Broken()
    slow.name = "slow"
    work(choice(slow, broken, quick, cache=cache), 20, ahead=1000)
    times = json.loads(cache.read_text())
    assert {key.split(", ")[-2] for key in times} == {"quick", "slow", "broken"}
    assert all("network slow, torch.float32, input 2x4, " in key for key in times)
    again = choice(slow, broken, quick, cache=cache)
    work(again, 20, ahead=1000)
    assert again.engine == "quick"
    assert [engine.builds for engine in (quick, slow, broken)] == [2, 1, 1]
    assert json.loads(cache.read_text()) == times
    quick.error = 0.1
    unchecked = choice(quick, cache=cache)
    work(unchecked, 20, ahead=1000)
    assert unchecked.engine == "torch", "the check is made every time"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """It does not stop the work; a file that is no cache is named."""
    (tmp_path / "file").touch()
    chosen = choice(Quick(), cache=tmp_path / "file" / "engines.json")
    work(chosen, 10, ahead=1000)
    assert chosen.engine == "quick"
    (tmp_path / "file").write_text("[")
    with pytest.raises(ValueError, match=r"file: is no file of measured times"):
        work(choice(Quick(), cache=tmp_path / "file"), 10)


def test_builds_in_vain_make_the_next_less_likely() -> None:
    """After a build that took long and was of no use, another one must save the time of both."""

    class Lingering(Broken):
        name = "lingering"

        def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:
            time.sleep(1.0)
            return super().build(network, example, dtype)

    lingering, quick = Lingering(), Quick()
    lingering.speed = 1000.0
    chosen = choice(lingering, quick)
    work(chosen, 12)
    assert (lingering.builds, quick.builds) == (1, 0)
    work(chosen, 2, ahead=1000)
    assert chosen.engine == "quick"
