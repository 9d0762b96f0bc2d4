# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of training steps runs, compares with the first network, and keeps one entry for each setting."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("supernet_cost")


def test_steps_are_measured_and_kept(benchmark: Any, tmp_path: Path) -> None:
    """Twice the same setting is one entry; the dense network over itself is 1, in time and memory."""
    app, output = benchmark.typer.Typer(), tmp_path / "cost.json"
    app.command()(benchmark.main)
    small = ["--size", "32", "32", "32", "--init-filters", "4", "--batch-size", "1", "--steps", "2"]
    for networks in ("dense 3D", "dense 3D,performance"):
        result = CliRunner().invoke(app, [*small, "--networks", networks, "--output", str(output)])
        assert result.exit_code == 0, result.output
    (entry,) = json.loads(output.read_text())
    dense, performance = entry["networks"].values()
    assert (dense["time_ratio"], dense["memory_ratio"]) == (1.0, 1.0)
    assert performance["time_ratio"] == performance["seconds"] / dense["seconds"]
    assert all(len(row["all_seconds"]) == 2 and row["mib"] > 1 for row in (dense, performance))
    printed = CliRunner().invoke(app, ["--table", "--output", str(output)]).output.splitlines()
    assert printed[0].endswith("| dense 3D | performance |")
    ratio, memory = performance["time_ratio"], performance["memory_ratio"]
    assert printed[2].startswith("| 4 | 1 of 32x32x32 | float32 | eager | dense | ")
    assert printed[2].endswith(f" s ({ratio:.2f}), {performance['mib']:.0f} ({memory:.2f}) |")
