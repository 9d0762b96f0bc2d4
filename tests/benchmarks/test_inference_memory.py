# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Inference takes bounded memory, as the benchmark of it measures; and it measures what is there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cakes_monai.architecture import Architecture, Topology, even_cells

SIZE = (256, 256, 200)
BYTES_OF_A_VOXEL = 40  # 24 in benchmarks/results/inference_memory.json; MONAI's Invertd alone takes 100
FIXED_GB = 0.6  # a slab of the label map and the windows of a small network
#: In a process of its own, in which nothing else comes and goes.
USE_AND_LET_GO = """
import numpy as np
from memory_watch import MemoryWatch, resident_gb

before = resident_gb()
with MemoryWatch() as watch:
    array = np.ones(25_000_000)
    array += 1
    for _ in range(3):  # long enough to be looked at
        array.sum()
    del array
print([watch.peak[0] - before, resident_gb() - before])
"""


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("inference_memory")


def test_memory_of_a_large_volume(benchmark: Any, repository: Path, tmp_path: Path) -> None:
    """Beyond the libraries a CT of 13 million voxels is segmented in its share of 8 GB for 105 million."""
    bundle, topology = repository / "bundles" / "pancreas_ct_c2fnas_cakes", Topology((0,))
    network = Architecture(topology, even_cells(topology, ("3x3x3", "1x3x3"), 2))
    options = benchmark.other_network(bundle, tmp_path, network, 2) | {
        "dataset_dir": str(benchmark.make_ct(tmp_path / "ct.nii.gz", SIZE, (0.8, 0.8, 1.0))),
        "output_dir": str(tmp_path / "out"),
        "patch_size": [96, 96, 96],
        "stride": [96, 96, 96],
        "engine": "torch",
    }
    found = benchmark.in_own_process(benchmark.measured_inference, str(bundle), options, 1)
    assert (tmp_path / "out" / "ct_seg.nii.gz").exists()
    assert found["peak_gb"] - found["imported_gb"] < FIXED_GB + np.prod(SIZE) * BYTES_OF_A_VOXEL / 1e9
    assert {"SpacingSafed", "EngineInferer", "InvertLabelsd"} <= {step["name"] for step in found["steps"]}


def test_the_watch_sees_what_is_used(repository: Path) -> None:
    """An array of 0.2 GB that is written to and let go is in the peak, and not in what remains."""
    found = subprocess.run(
        [sys.executable, "-c", USE_AND_LET_GO],
        cwd=repository / "benchmarks",
        capture_output=True,
        check=True,
        text=True,
    )
    peak, remains = json.loads(found.stdout)
    assert 0.19 < peak < 0.3
    assert remains < 0.1


def test_the_committed_numbers_are_below_the_bound(repository: Path) -> None:
    """The CT of 512x512x400 voxels takes less than 8 GB, the windows of the full network included."""
    content = json.loads((repository / "benchmarks" / "results" / "inference_memory.json").read_text())
    volumes = {name: found for name, found in content["volumes"].items() if "512x512x400" in name}
    assert volumes
    windows = max(content["windows"].values())
    assert all(found["peak_gb"] + windows < 8 for found in volumes.values())


def test_help(benchmark: Any) -> None:
    """Both commands are there."""
    output = CliRunner().invoke(benchmark.app, ["--help"]).output
    assert "volume" in output
    assert "window" in output
