# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The four searches of the pancreas bundle on CTs made here, and the networks that they find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from cakes_monai.architecture import Architecture, Cell, Topology
from cakes_monai.cost import c2fnas_cost
from cakes_monai.search import read_journal

pytestmark = pytest.mark.filterwarnings("ignore:the prediction of class")  # MONAI's remark on what was missed


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with three cells on two levels, which gives the searches a small network."""
    path = tmp_path_factory.mktemp("topology") / "architecture.json"
    Architecture(Topology((0, 1, 0)), (Cell("3d"),) * 3, {"stage": "topology"}).save(path)
    return str(path)


def found(run: Any) -> Architecture:
    """The architecture a search wrote."""
    return Architecture.load(run.folder / "eval" / "architecture.json")


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_kernels(priority: str, ct_training: Any, topology: str, tmp_path: Path) -> None:
    """A search of either priority ends with a network that train.json takes by --architecture."""
    options = {"max_epochs": 1, "val_interval": 1, "architecture": topology}
    run = ct_training(tmp_path / "search", file="search.json", priority=priority, **options)
    run.here()
    assert found(run).topology.levels == (0, 1, 0)
    assert found(run).origin["priority"] == priority
    path = run.folder / "eval" / "architecture.json"
    training = ct_training(tmp_path / "training", **options | {"architecture": str(path)})
    training.here()
    expected = c2fnas_cost(found(run), 1, 3, 4).params
    assert sum(weight.numel() for weight in training.model.values()) == expected


def test_kernels_with_the_schedule_of_c2fnas(ct_training: Any, topology: str, tmp_path: Path) -> None:
    """c2fnas.json over search.json: the first of eight iterations has the warm-up's learning rate."""
    run = ct_training(tmp_path, file="search.json", max_epochs=1, warmup_lr=0.25, architecture=topology)
    del run.options["learning_rate"]
    run.here("c2fnas.json")
    group = run.checkpoint["objects"]["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.25 + (0.02 - 0.25) * 7 / 1000)


def test_operations(ct_training: Any, topology: str, tmp_path: Path) -> None:
    """The super-network is trained, candidates are ranked with a stride of their own, the best is written."""
    options = {"architecture": topology, "candidates": 4, "chunk_size": 4, "ranking_stride": 32, "slots": 1}
    run = ct_training(tmp_path, file="search_operations.json", max_epochs=1, val_interval=1, **options)
    run.here()
    assert found(run).origin["candidates"] == 4
    assert {cell.operation for cell in found(run).cells} <= {"2d", "3d", "p3d"}
    rows = json.loads((tmp_path / "eval" / "candidates.json").read_text())["candidates"]
    assert set(rows[0]["dice"]) == {"pancreas", "cancer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "count is 0, allowed is 1 or more"),
        (
            {"architecture": "c2fnas-pank"},
            "c2fnas-pank: cannot be read (no such file), and is no published architecture",
        ),
        ({"ranking_stride": 33}, "stride is 33 for a window of 32 voxels, allowed are whole numbers 1 to 32"),
    ],
)
def test_operations_on_a_published_topology(
    options: dict[str, Any], message: str, ct_training: Any, tmp_path: Path
) -> None:
    """The topology may be given by a published name; wrong settings are one line before the training."""
    given = {"architecture": "c2fnas-panc", "ranking_stride": 32} | options
    assert message in ct_training(tmp_path, file="search_operations.json", **given).messages()
    assert not list(tmp_path.rglob("*.pt"))


def test_topologies(ct_training: Any, tmp_path: Path) -> None:
    """A trial is a training by train.json with C2FNAS' schedule, validated once; its topology is written."""
    space = {"num_cells": 3, "num_downs": 1, "num_clusters": 1, "num_initial_per_cluster": 1, "max_networks": 1}
    tiny = {"patch_size": [16, 16, 16], "stride": 16, "init_filters": 2, "engine_options": {"max_retries": 0}}
    run = ct_training(tmp_path, file="search_topology.json", max_iterations=1, **tiny, **space)
    run.here()
    (trial,) = read_journal(tmp_path / "eval" / "journal.jsonl").trials
    assert (trial.state, trial.details["epoch"]) == ("finished", 1), "one epoch has an iteration"
    assert found(run).topology.levels == trial.proposal.candidate
    state = torch.load(tmp_path / "eval" / "trials" / "0000" / "checkpoint.pt", weights_only=True)
    iteration = state["iteration"]
    assert state["objects"]["optimizer"]["param_groups"][0]["lr"] == pytest.approx(
        0.0025 + (0.1 - 0.0025) * (iteration - 1) / 1000
    )


def test_widths(ct_training: Any, tmp_path: Path) -> None:
    """C2FNAS-Panc with 0.25 to 2 times its 32 filters, each trained for 40000 iterations (C2FNAS, section 5.3)."""
    run = ct_training(tmp_path, file="search_width.json")
    parser = ConfigParser()
    parser.read_config(str(run.bundle / "configs" / run.file))
    parser.update({"bundle_root": str(run.bundle), "dataset_dir": str(run.options["dataset_dir"])})
    search = parser.get_parsed_content("search")
    assert [search.filters(multiplier) for multiplier in search.multipliers] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert search.found == Architecture.published("c2fnas-panc")
    assert search.options["max_iterations"] == 40000
