# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernel search of the hippocampus bundle: both priorities, killed and resumed, and the network that was found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.architecture import KERNEL_SETS, Architecture
from cakes_monai.cost import c2fnas_cost


@pytest.fixture(scope="module")
def searched(small_search: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search of performance priority that ran from beginning to end."""
    run = small_search(tmp_path_factory.mktemp("searched"))
    run.here()
    return run


def found(run: Any) -> Architecture:
    """The architecture a search wrote."""
    return Architecture.load(run.folder / "eval" / "architecture.json")


def test_data_and_training_settings_are_those_of_train_json(bundle: Path) -> None:
    """The network that was found is trained as the super-network was (CAKES, "Training stage")."""
    texts = ((bundle / "configs" / name).read_text() for name in ("search.json", "train.json"))
    search, train = (json.loads(text.replace("displayable_configs#", "")) for text in texts)  # MONAI Label's options
    for key in ("optimizer", "learning_rate", "max_epochs", "batch_size", "patch_size", "init_filters", "flip_prob"):
        assert search[key] == train[key], key
    for key in ("deterministic_transforms", "random_transforms", "dataset", "dataloader", "inferer", "trainer"):
        assert search["train"][key] == train["train"][key], key
    assert search["validate"] == train["validate"]
    assert search["loss"]["loss"] == train["loss"]


def test_what_a_search_leaves(searched: Any) -> None:
    """An architecture with its origin, the channels of each sub-kernel, two pictures."""
    architecture = found(searched)
    assert architecture.origin["priority"] == "performance"
    assert architecture.origin["seed"] == 0
    assert len(architecture.origin["data"]) == 12
    kernels = json.loads((searched.folder / "eval" / "kernels.json").read_text())
    assert sum(kernels["dimensions"].values()) == 2560 * 4 // 32
    for picture in ("architecture.png", "gates.png"):
        assert (searched.folder / "eval" / picture).stat().st_size > 5000


def test_the_found_network_is_trained_by_train_json(searched: Any, small_training: Any, tmp_path: Path) -> None:
    """--architecture is all that train.json needs, and the model has the parameters of the closed form."""
    path = searched.folder / "eval" / "architecture.json"
    run = small_training(tmp_path, architecture=str(path), max_epochs=1)
    run.here()
    expected = c2fnas_cost(found(searched), 1, 3, 4).params
    assert sum(weight.numel() for weight in run.model.values()) == expected


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_killed_and_resumed_it_finds_the_same(
    priority: str, searched: Any, small_search: Any, tmp_path: Path, same_bits: Any
) -> None:
    """After a SIGKILL in the middle, --resume true ends with the same architecture.json and weights, bit by bit."""
    whole = searched
    if priority == "cost":
        whole = small_search(tmp_path / "whole", priority="cost")
        whole.here()
    run = small_search(tmp_path / "killed", priority=priority, resume=True)
    run.killed()
    run.here()
    same_bits(run.checkpoint, whole.checkpoint)
    assert (run.folder / "eval" / "architecture.json").read_bytes() == (
        whole.folder / "eval" / "architecture.json"
    ).read_bytes()


def test_a_strong_penalty_finds_a_cheap_network(small_search: Any, tmp_path: Path) -> None:
    """With cost priority and a large lambda the 3D sub-kernels, whose gates cost most, are chosen least."""
    run = small_search(tmp_path, priority="cost", lasso=0.05, max_epochs=6)
    run.here()
    dimensions = json.loads((tmp_path / "eval" / "kernels.json").read_text())["dimensions"]
    assert dimensions["3D"] / 1 < dimensions["1D"] / 3, dimensions


def test_sets_granularity_and_budget(small_search: Any, tmp_path: Path) -> None:
    """Only sub-kernels of the set, in multiples of the granularity, within the budget."""
    largest = c2fnas_cost(Architecture.published("cakes-manual-2d", 4), 1, 3, 4).params
    budget = {"limit": largest + 1000, "unit": "params", "size": [32, 32, 16]}
    run = small_search(tmp_path, sub_kernels="12d", granularity=4, budget=budget, max_epochs=1)
    run.here()
    architecture = found(run)
    used = {name: count for cell in architecture.cells for split in cell.kernels for name, count in split.counts}
    assert set(used) <= set(KERNEL_SETS["12d"])
    assert all(count % 4 == 0 for cell in architecture.cells for split in cell.kernels for _, count in split.counts)
    assert c2fnas_cost(architecture, 1, 3, 4).params <= largest + 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "speed"}, "unknown priority 'speed', allowed are performance, cost"),
        ({"sub_kernels": "4d"}, "4d"),
        ({"rule": "best"}, "unknown rule 'best', allowed are argmax, top_c"),
        ({"priority": "cost", "lasso": -1.0}, "must be at least 0"),
        ({"priority": "cost", "beta": "money"}, "unknown beta 'money', allowed are params, flops, latency"),
        ({"granularity": 3}, "granularity"),
        ({"budget": {"limit": 10, "unit": "params", "size": [32, 32, 16]}}, "the smallest possible is"),
    ],
)
def test_wrong_settings_are_refused_before_the_search(
    options: dict[str, Any], message: str, small_search: Any, tmp_path: Path
) -> None:
    """Each is one clear error, and nothing is written."""
    assert message in small_search(tmp_path, **options).messages()
    assert not list((tmp_path / "eval").glob("*.json"))


def test_a_checkpoint_of_another_search_is_refused(searched: Any, small_search: Any, tmp_path: Path) -> None:
    """Another set of sub-kernels or other data cannot continue a search; its results stay."""
    shutil.copytree(searched.folder, tmp_path, dirs_exist_ok=True)
    run = small_search(tmp_path, resume=True, sub_kernels="12d")
    before = (tmp_path / "eval" / "architecture.json").read_bytes()
    assert "search_checkpoint.pt: was written with sub_kernels 123d, this training has 12d" in run.messages()
    assert (tmp_path / "eval" / "architecture.json").read_bytes() == before


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_two_processes(priority: str, small_search: Any, tmp_path: Path) -> None:
    """Two processes (torchrun, gloo) search together and write one architecture."""
    run = small_search(tmp_path, priority=priority, max_epochs=2, batch_size=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*torchrun, *run.command("multi_gpu_train.json")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert run.checkpoint["iteration"] == 2 * 2  # 8 volumes, two processes, two a batch: two iterations an epoch
    assert found(run).origin["priority"] == priority
