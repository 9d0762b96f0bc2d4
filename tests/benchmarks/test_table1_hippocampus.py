# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of the hippocampus benchmark says what the results file holds, and what is unfinished."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    command = [sys.executable, str(repository / "benchmarks" / "table1_hippocampus.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three seeds of the dense network, two of the manual one."""
    scores = {"3D/0": 0.88, "3D/1": 0.89, "3D/2": 0.90, "CAKES manual 1,2,3D/0": 0.87, "CAKES manual 1,2,3D/1": 0.89}

    def one(name: str, dice: float) -> dict[str, Any]:
        params = 1_400_000 if name.startswith("3D") else 700_000
        return {"dice": {"mean": dice}, "params": params, "paper_flops": 2_000_000_000, "architecture": {}}

    content = {
        "settings": {"init_filters": 8, "epochs": 10, "patch": [32, 48, 32]},
        "versions": {},
        "runs": {name: one(name, dice) for name, dice in scores.items()},
        "times": {
            "eager": {"ratios": {"3D": 1.0, "CAKES manual 1,2,3D": 1.25}},
            "fastest": {"ratios": {"3D": 1.0, "CAKES manual 1,2,3D": 0.75}, "engines": {"3D": "openvino"}},
        },
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return path


def test_mean_spread_and_what_is_unfinished(repository: Path, results: Path) -> None:
    """Means and standard deviations by hand: 89 ± 1, and 88 ± 1.41 with one seed missing."""
    lines = run(repository, "--table", "--results", str(results)).stdout.splitlines()
    dense = next(line for line in lines if line.startswith("| 3D |"))
    manual = next(line for line in lines if "manual 1,2,3D" in line)
    assert "| 3 of 3 | 89.00 ± 1.00 |" in dense
    assert "| 1.400 | 2.000 | 1.00 | 1.00 |" in dense
    assert "| 2 of 3, unfinished | 88.00 ± 1.41 | -1.00 (p " in manual
    assert manual.endswith("| 1.25 | 0.75 |")
    assert "Engines, fastest: 3D openvino." in lines
    assert sum("0 of 3, unfinished" in line for line in lines) == 9


def test_results_of_another_recipe_are_not_mixed(repository: Path, results: Path) -> None:
    """Other settings are refused, the file stays as it is."""
    before = results.read_bytes()
    result = run(repository, "--dataset-dir", "nowhere", "--results", str(results), "--epochs", "5")
    assert result.returncode == 1
    assert "use --results" in result.stderr
    assert results.read_bytes() == before
