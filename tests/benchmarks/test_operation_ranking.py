# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the ranking says what the search and the results file hold, and what is unfinished."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cakes_monai.search.trial import digest

DICE = {"2d_2d": 0.80, "2d_3d": 0.82, "3d_2d": 0.81, "3d_3d": 0.90}


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("operation_ranking")


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A search with five candidates, ranked 3d_3d, 2d_3d, 3d_2d, 2d_2d; the last has failed."""
    rows = [
        {"rank": rank, "score": 0.8 - rank / 10, "operations": operations.split("_")}
        for rank, operations in enumerate(("3d_3d", "2d_3d", "3d_2d", "2d_2d"), 1)
    ]
    rows.append({"rank": None, "score": None, "operations": ["p3d", "p3d"]})
    table = {"topology": [0, 0], "init_filters": 4, "candidates": rows}
    (tmp_path / "candidates.json").write_text(json.dumps(table))
    settings = {"search": digest(table), "init_filters": 4, "epochs": 80, "fold": 0}
    runs = {f"{name}/0": {"dice": {"mean": dice}} for name, dice in DICE.items()}
    (tmp_path / "results.json").write_text(json.dumps({"settings": settings, "versions": {}, "runs": runs}))
    return tmp_path


def report(benchmark: Any, search: Path, *options: str) -> Any:
    """What ``--report`` prints."""
    app = typer.Typer()
    app.command()(benchmark.main)
    arguments = ["--search", str(search), "--results", str(search / "results.json"), *options]
    return CliRunner().invoke(app, arguments)


def test_the_same_order_correlates_fully(benchmark: Any, search: Path) -> None:
    """Scores 0.7, 0.6, 0.5, 0.4 and Dice 0.90, 0.82, 0.81, 0.80: tau and rho are 1, p 2 of 24; the figure is drawn."""
    lines = report(benchmark, search, "--report").output.splitlines()
    assert "| 1 | 3d 3d | 70.00 | 90.00 | 1 |" in lines
    assert "Kendall's tau 1.00 (p 0.08), Spearman's rho 1.00, N = 4" in lines
    assert not any("p3d" in line for line in lines)
    assert (search / "results.png").stat().st_size > 5000


def test_several_seeds_and_unfinished_ones(benchmark: Any, search: Path) -> None:
    """Means over seeds, correlation of those that are trained, by hand."""
    content = json.loads((search / "results.json").read_text())
    del content["runs"]["3d_2d/0"]
    content["runs"]["3d_3d/0"]["dice"]["mean"] = 0.70
    content["runs"]["3d_3d/1"] = {"dice": {"mean": 0.72}}
    (search / "results.json").write_text(json.dumps(content))
    lines = report(benchmark, search, "--report").output.splitlines()
    assert "| 1 | 3d 3d | 70.00 | 71.00 | 2 |" in lines
    assert "| 3 | 3d 2d | 50.00 | unfinished | 0 |" in lines
    # 70, 60, 40 against 71, 82, 80: one pair of three agrees, (1 - 2) / 3; rho 1 - 6 (4 + 1 + 1) / 24
    assert "Kendall's tau -0.33 (p 1.00), Spearman's rho -0.50, N = 3" in lines


def test_candidates_are_spread_over_the_ranking(benchmark: Any) -> None:
    """From the best to the worst; all, when there are not more."""
    rows = [{"rank": rank} for rank in range(1, 2001)]
    assert [row["rank"] for row in benchmark.spread(rows, 5)] == [1, 501, 1001, 1500, 2000]
    assert benchmark.spread(rows[:3], 8) == rows[:3]


def test_results_of_another_search_are_not_mixed(benchmark: Any, search: Path) -> None:
    """Another number of epochs, or another ranking, is refused; without data nothing is trained."""
    result = report(benchmark, search, "--report", "--epochs", "5")
    assert result.exit_code == 1
    assert "use --results" in result.output
    result = report(benchmark, search)
    assert result.exit_code == 2
    assert "--dataset-dir" in result.output
