# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine stage of C2FNAS with the hippocampus bundle: trained, ranked, killed in both and resumed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cakes_monai.architecture import Architecture, Cell, Topology
from cakes_monai.cost import c2fnas_cost

CANDIDATES = 40  # of 64


@pytest.fixture(scope="module")
def small_operations(small_search: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a small search for the operations of three cells."""
    parent = tmp_path_factory.mktemp("parent") / "architecture.json"
    Architecture(Topology((0, 1, 0)), (Cell("3d"),) * 3, {"stage": "topology", "seed": 5}).save(parent)
    options = {
        "architecture": str(parent),
        "candidates": CANDIDATES,
        "chunk_size": CANDIDATES,
        "val_interval": 4,
        "overlap": 0.5,
        "amp": False,
        "slots": 1,
        "engine_options": {"threads_per_trial": 1},
    }

    def make(folder: Path, **given: Any) -> Any:
        run = small_search(folder, **(options | given))
        run.file = "search_operations.json"
        return run

    return make


@pytest.fixture(scope="module")
def searched(small_operations: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search that ran from beginning to end."""
    run = small_operations(tmp_path_factory.mktemp("searched"))
    run.here()
    return run


def scored(run: Any) -> int:
    """Number of scores that are on the disk."""
    journals = (run.folder / "eval" / "ranking").glob("chunk_*/journal.jsonl")
    return sum(path.read_text().count('"event": "finished"') for path in journals)


def kill_in_ranking(run: Any) -> None:
    """Resume in another process and kill it after the first scores."""
    command = [sys.executable, *run.command()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 900
    while scored(run) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run.folder / "eval" / "architecture.json").exists(), "the kill came too late to show anything"


def test_data_and_training_settings_are_those_of_train_json(bundle: Path) -> None:
    """All is as for the network that is found, but for twice the iterations (C2FNAS, section 4.1)."""
    texts = ((bundle / "configs" / f"{name}.json").read_text() for name in ("search_operations", "train"))
    search, train = (json.loads(text.replace("displayable_configs#", "")) for text in texts)  # MONAI Label's options
    for key in (
        "loss",
        "optimizer",
        "learning_rate",
        "batch_size",
        "patch_size",
        "init_filters",
        "flip_prob",
        "validate",
    ):
        assert search[key] == train[key], key
    for key in ("deterministic_transforms", "random_transforms", "dataset", "dataloader", "inferer", "trainer"):
        assert search["train"][key] == train["train"][key], key
    assert search["max_epochs"] == 2 * train["max_epochs"]
    assert search["candidates"] == 2000
    assert search["overlap"] < train["validate"]["inferer"]["inferer"]["overlap"]


def test_options_are_those_of_the_documentation(repository: Path, bundle: Path) -> None:
    """The table has every option that train.json has not, and its default."""
    search, train = (
        json.loads((bundle / "configs" / f"{name}.json").read_text()) for name in ("search_operations", "train")
    )
    text = (repository / "docs" / "searching.md").read_text(encoding="utf-8")
    section = text.split("\n## Operations of the cells\n")[1].split("\n## ")[0]
    described = dict(re.findall(r"^\| `(\w+)` \| `(.*?)`.* \| .* \|$", section, re.MULTILINE))
    options = {name: value for name, value in search.items() if value == {} or not isinstance(value, dict)}
    own = {name for name, value in options.items() if name not in train or value != train[name]} - {"imports", "run"}
    assert set(described) - {"architecture"} == own
    for name, default in described.items():
        assert default in (json.dumps(search[name]), *re.findall(r"'/(.*?)'", str(search[name]))), name


def test_what_a_search_leaves(searched: Any) -> None:
    """An architecture of the given topology with its origin, the candidates by score, three pictures."""
    found = Architecture.load(searched.folder / "eval" / "architecture.json")
    assert found.topology.levels == (0, 1, 0)
    assert (found.origin["stage"], found.origin["candidates"]) == ("operations", CANDIDATES)
    assert found.origin["topology"] == {"stage": "topology", "seed": 5}
    rows = json.loads((searched.folder / "eval" / "candidates.json").read_text())["candidates"]
    assert [row["rank"] for row in rows] == list(range(1, CANDIDATES + 1))
    assert rows[0]["score"] == found.origin["score"] > rows[-1]["score"]
    assert set(rows[0]["dice"]) == {"anterior", "posterior"}
    for picture in ("candidates.png", "architecture.png"):
        assert (searched.folder / "eval" / picture).stat().st_size > 5000


def test_the_found_network_is_trained_by_train_json(searched: Any, small_training: Any, tmp_path: Path) -> None:
    """--architecture is all that train.json needs, and the model has the parameters of the closed form."""
    path = searched.folder / "eval" / "architecture.json"
    run = small_training(tmp_path, architecture=str(path), max_epochs=1)
    run.here()
    expected = c2fnas_cost(Architecture.load(path), 1, 3, 4).params
    assert sum(weight.numel() for weight in run.model.values()) == expected


def test_killed_in_training_and_in_ranking_it_finds_the_same(
    searched: Any, small_operations: Any, tmp_path: Path, same_bits: Any
) -> None:
    """After two SIGKILLs --resume True ends with the same weights, scores and architecture.json, bit by bit."""
    run = small_operations(tmp_path, resume=True)
    run.killed()
    kill_in_ranking(run)
    before = scored(run)
    assert 2 <= before < CANDIDATES
    run.here()
    assert before <= scored(run) <= CANDIDATES + 1  # one may have been under way when the driver was killed
    same_bits(run.checkpoint, searched.checkpoint)
    for name in ("architecture.json", "candidates.json", "candidates.csv"):
        assert (run.folder / "eval" / name).read_bytes() == (searched.folder / "eval" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": ["2d", "4d"]}, "unknown operation '4d', allowed are 2d, 3d, p3d, cakes"),
        ({"candidates": 0}, "count is 0, allowed is 1 or more"),
        ({"overlap": 1.0}, "overlap is 1.0, allowed is from 0 to below 1"),
        ({"engine": "threads"}, "unknown engine 'threads', allowed are processes, ray"),
        ({"slots": 0}, "0 slots, there must be at least 1"),
        ({"architecture": "nowhere.json"}, "nowhere.json: cannot be read"),
    ],
)
def test_wrong_settings_are_refused_before_the_search(
    options: dict[str, Any], message: str, small_operations: Any, tmp_path: Path
) -> None:
    """Each is one clear error, and nothing is trained."""
    assert message in small_operations(tmp_path, **options).messages()
    assert not (tmp_path / "eval" / "search_checkpoint.pt").exists()


def test_results_of_another_search_stay(searched: Any, small_operations: Any, tmp_path: Path) -> None:
    """Neither a new search nor one with other operations takes the place of scores and checkpoint."""
    shutil.copytree(searched.folder / "eval", tmp_path / "eval")
    before = torch.load(tmp_path / "eval" / "search_checkpoint.pt", weights_only=True)["iteration"]
    assert "has scores of an earlier run; use --resume True, or delete it" in small_operations(tmp_path).messages()
    run = small_operations(tmp_path, resume=True, operations=["2d", "3d"])
    assert "search_checkpoint.pt: was written with operations" in run.messages()
    own = small_operations(tmp_path, architecture=str(tmp_path / "eval" / "architecture.json"), resume=True)
    assert "gives the topology and would be overwritten" in own.messages()
    assert run.checkpoint["iteration"] == before
