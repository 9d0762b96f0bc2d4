# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Times are those of the reference over, and of the engine that is fastest; wider networks keep their shares."""

from __future__ import annotations

import importlib
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def rows(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the scripts."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("seeded_rows")


class Sleeping(nn.Module):
    """A network that takes a known time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """Its input, later."""
        time.sleep(self.seconds)
        return x


def test_eager_times(rows: Any) -> None:
    """Three times as long."""
    networks = {"short": Sleeping(0.02), "long": Sleeping(0.06)}
    ratios = rows.eager_times(networks, torch.zeros(1), "short")["ratios"]
    assert ratios["short"] == 1
    assert ratios["long"] == pytest.approx(3, rel=0.25)


def test_fastest_times(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch as the only engine they are the eager ones; the engine of every network is named."""
    monkeypatch.setattr(rows, "ENGINE_NAMES", ("torch",))
    x = torch.zeros(1, 8, 16, 16, 16)
    networks = {"dense": nn.Conv3d(8, 64, 3).eval(), "thin": nn.Conv3d(8, 64, (1, 1, 3)).eval()}
    times = rows.fastest_times(networks, x, "dense")
    assert times["engines"] == {"dense": "torch", "thin": "torch"}
    assert times["ratios"]["dense"] == 1
    assert times["ratios"]["thin"] < 1


def test_wider(rows: Any) -> None:
    """Every sub-kernel gets as many times the channels, in layers of several convolutions, too."""
    narrow = {"format": 1, "layers": {"a": [{"3x3x3": 3, "1x3x3": 1}], "b": [{"1x3x3": 4}, {"3x1x1": 4}]}}
    wide = {"a": [{"3x3x3": 12, "1x3x3": 4}], "b": [{"1x3x3": 16}, {"3x1x1": 16}]}
    assert rows.wider(narrow, 4) == {"format": 1, "layers": wide}
    assert narrow["layers"]["a"] == [{"3x3x3": 3, "1x3x3": 1}]


def test_times_are_measured_for_new_rows_only(rows: Any, tmp_path: Path) -> None:
    """Once with the first seed of a row; neither for another seed nor for nothing new."""
    table = rows.SeededTable((rows.Row("a"), rows.Row("b")), "a", rows.Column("score", lambda run: run["score"]), ())
    measured: list[list[str]] = []

    def times(content: dict[str, Any]) -> Any:
        measured.append(sorted(content["runs"]))
        return {"time": {"ratios": {key.rpartition("/")[0]: 1.0 for key in content["runs"]}}}

    def run(only: str, seeds: tuple[int, ...]) -> None:
        table.run(tmp_path / "results.json", {}, lambda _, seed: {"score": seed}, times, 1.0, only, seeds)

    for only, seeds in (("a", (0,)), ("a", (0, 1)), ("b", (0,)), ("", (0, 1))):
        run(only, seeds)
    assert measured == [["a/0"], ["a/0", "a/1", "b/0"]]


def test_folds_are_compared_in_pairs(rows: Any) -> None:
    """Differences 10, 12 and 14 in folds that differ by more: t is 12 / (2 / sqrt(3)) with two degrees of freedom."""
    score = rows.Column("score", lambda run: run["score"])
    table = rows.SeededTable((rows.Row("a"), rows.Row("b")), "a", score, (), folds=True)
    scores = {"a/0": 0.2, "a/1": 0.4, "a/2": 0.6, "b/0": 0.3, "b/1": 0.52, "b/2": 0.74}
    content = {"runs": {key: {"score": value} for key, value in scores.items()}, "times": {}}
    assert "| b | 3 of 3 | 52.00 ± 22.00 | +12.00 (p 0.009) |" in table.text(content)
    assert "| row | folds |" in table.text(content)
    del content["runs"]["a/1"]  # the others, of the same folds: 10 and 14
    assert "| b | 3 of 3 | 52.00 ± 22.00 | +12.00 (p 0.105) |" in table.text(content)
    assert "| b | 3 of 3 | 52.00 ± 22.00 | +12.00 (p 0.667) |" in replace(table, folds=False).text(content)


@pytest.mark.parametrize(("wrong", "builds"), [(0, 1), (2, 3), (9, 5)])
def test_weights_are_drawn_anew_when_an_engine_disagrees(
    rows: Any, monkeypatch: pytest.MonkeyPatch, wrong: int, builds: int
) -> None:
    """The same weights in another order, until the engine is right; one that never is has no time."""
    network = nn.Conv3d(2, 2, 3)
    seen: list[Tensor] = []

    def build_checked(_: Any, built: nn.Module, *__: Any) -> nn.Module:
        seen.append(torch.cat([parameter.detach().flatten() for parameter in built.parameters()]))
        if len(seen) <= wrong:
            raise rows.DisagreementError("rounding")
        return built

    monkeypatch.setattr(rows, "build_checked", build_checked)
    assert (rows._built("torch", network, torch.zeros(1)) is None) == (wrong >= builds)
    assert len(seen) == builds
    for one, other in pairwise(seen):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one.sort().values, other.sort().values, rtol=0, atol=0)
