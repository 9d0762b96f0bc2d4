# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of shrunken backbones shrinks as much by each way, and prints what its files hold."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cakes_monai.conversion import find_layers, shrink


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("shrinking_hippocampus")


@pytest.mark.parametrize("backbone", ["DynUNet", "SegResNet", "UNet", "C2FNAS"])
def test_wider_networks_have_the_same_shares(benchmark: Any, backbone: str) -> None:
    """With four times the channels every layer has four times as many of each sub-kernel."""
    network, shape = benchmark.build(backbone, None), (1, 1, 32, 32, 32)
    splits = shrink(network, "123d", init="slice", input_shape=shape)[1].architecture.to_json()
    wide = benchmark.build(backbone, splits, 4).eval()
    for name, (split,) in splits["layers"].items():
        assert wide.get_submodule(name).split.as_dict() == {kernel: 4 * count for kernel, count in split.items()}
    with torch.inference_mode():
        assert wide(torch.zeros(shape)).shape == (1, 3, 32, 32, 32)
    assert find_layers(network, shape).layers.keys() == splits["layers"].keys()


def test_the_table_has_what_the_file_has(benchmark: Any, tmp_path: Path) -> None:
    """Means and differences by hand: 81 ± 1 dense, 80 ± 1.41 by hand with a seed missing, nothing of the others."""
    runs = {}
    for row, scores in (("dense", (0.80, 0.81, 0.82)), ("by hand", (0.79, 0.81))):
        for seed, tuned in enumerate(scores):
            costs = {"params": 2_000_000, "multiply_adds": 500_000_000, "replaceable": 0.75, "architecture": None}
            runs[f"{row}/{seed}"] = {"before": 0.79, "shrunken": 0.5, "tuned": tuned, **costs}
    settings = {"network": benchmark.BACKBONES["UNet"], "epochs": 10, "search_epochs": 4, "slower": 10}
    narrow, wide = ({"ratios": {"dense": 1.0, "by hand": ratio}} for ratio in (1.2, 0.7))
    content = {"settings": settings, "versions": {}, "runs": runs, "times": {"time": narrow, "wider": wide}}
    (tmp_path / "shrinking_unet.json").write_text(json.dumps(content))
    output = CliRunner().invoke(typer_app(benchmark), ["--table", "--results", str(tmp_path), "--backbones", "UNet"])
    lines = output.output.splitlines()
    assert "| dense | 3 of 3 | 81.00 ± 1.00 |  | 79.00 | 50.00 | 2.000 | 0.500 | 0.75 | 1.00 | 1.00 |" in lines
    by_hand = next(line for line in lines if line.startswith("| by hand"))
    assert "2 of 3, unfinished | 80.00 ± 1.41 | -1.00 (p " in by_hand
    assert by_hand.endswith("| 0.75 | 1.20 | 0.70 |")
    assert sum("0 of 3, unfinished" in line for line in lines) == 2


def test_an_unknown_network(benchmark: Any) -> None:
    """Those that there are are named."""
    result = CliRunner().invoke(typer_app(benchmark), ["--table", "--backbones", "VNet"])
    assert result.exit_code == 2
    assert "SegResNet" in result.output


def typer_app(benchmark: Any) -> Any:
    """The script's command."""
    app = benchmark.typer.Typer()
    app.command()(benchmark.main)
    return app
