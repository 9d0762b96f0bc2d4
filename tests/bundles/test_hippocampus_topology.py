# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The coarse and the scaling stage run as commands of the bundle, killed and resumed, on real trainings."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.architecture import Architecture
from cakes_monai.cost import c2fnas_cost
from cakes_monai.search import read_journal

TINY = {
    "init_filters": 2,
    "max_epochs": 1,
    "val_interval": 1,
    "batch_size": 1,
    "patch_size": [16, 16, 16],
    "engine_options": {"max_retries": 0},
}
SPACE = {"num_cells": 3, "num_downs": 1, "num_clusters": 2, "num_initial_per_cluster": 1, "max_networks": 3}


def arguments(bundle: Path, task: Path, folder: Path, file: str, **options: Any) -> dict[str, Any]:
    """Options of a tiny search."""
    own = {**TINY, **(SPACE if file == "search_topology.json" else {}), **options}
    return {"bundle_root": str(bundle), "dataset_dir": str(task), "output_dir": str(folder), **own}


def run(bundle: Path, task: Path, folder: Path, file: str, **options: Any) -> None:
    """Run a search in this process; its trials are processes of their own."""
    given = arguments(bundle, task, folder, file, **options)
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / file), logging_file=False, workflow_type="train", **given
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def causes(error: BaseException | None) -> str:
    """All messages below what MONAI puts on top."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)


def test_killed_driver_goes_on_with_the_same_trials(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """
    SIGKILL while the second network trains: the first keeps its score, the second goes on in its folder, and after the
    search architecture.json has the best topology, which train.json accepts.
    """
    given = arguments(bundle, small_task, tmp_path, "search_topology.json")
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += ["--config_file", str(bundle / "configs" / "search_topology.json")]
    command += [f"--{name}={value}" for name, value in given.items()]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = tmp_path / "journal.jsonl"
    deadline = time.monotonic() + 900  # a busy machine
    while time.monotonic() < deadline and driver.poll() is None:
        trials = read_journal(journal).trials if journal.exists() and journal.stat().st_size else ()
        if len(trials) == 2 and trials[1].state == "running":
            break
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = read_journal(journal).trials
    assert [trial.state for trial in before] == ["finished", "running"]

    status = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert status.output.startswith("1 of 3 finished, 1 running, 0 failed; best ")

    run(bundle, small_task, tmp_path, "search_topology.json", resume=True)
    after = read_journal(journal).trials
    assert [trial.state for trial in after] == ["finished"] * 3
    assert after[0] == before[0]
    assert after[1].proposal == before[1].proposal
    assert after[1].starts == 2

    best = max(after, key=lambda trial: (trial.score, -trial.index))
    found = Architecture.load(tmp_path / "architecture.json")
    assert found.topology.levels == best.proposal.candidate
    assert found.origin["score"] == best.score
    cost = c2fnas_cost(found, 1, 3, 2, (16, 16, 16))
    assert (best.details["params"], best.details["paper_flops"]) == (cost.params, cost.paper_flops)
    assert {"clusters.png", "topology.png"} <= {path.name for path in tmp_path.iterdir()}
    trained = Architecture.load(tmp_path / "trials" / f"{best.index:04d}" / "architecture.json")
    assert (trained.topology, trained.cells) == (found.topology, found.cells)

    picture = tmp_path / "found.png"
    CliRunner().invoke(app, ["plot", str(tmp_path / "architecture.json"), "--output", str(picture)])
    assert picture.stat().st_size > 1000


def test_a_failing_trial_is_written_down(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """A batch of no image fails in every trial: the reason is in the journal, and the search stops after so many."""
    with pytest.raises(RuntimeError) as error:
        run(bundle, small_task, tmp_path, "search_topology.json", batch_size=0, max_failures=2)
    assert "2 trials have failed, the last one: ValueError: batch_size should be a positive integer" in causes(
        error.value
    )
    trials = read_journal(tmp_path / "journal.jsonl").trials
    assert [trial.state for trial in trials] == ["failed", "failed"]
    assert "batch_size should be a positive integer" in trials[0].failures[-1]
    assert "batch_size" in (tmp_path / "trials" / "0000" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 99}, "clusters"),
        ({"max_networks": 1}, "max_networks is 1"),
        ({"operation": "4d"}, "unknown operation '4d'"),
        ({"engine": "cloud"}, "unknown engine 'cloud', allowed are processes, ray"),
        ({"num_downs": 3}, "cells"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str, bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """One clear line, and no trial is started."""
    with pytest.raises(RuntimeError) as error:
        run(bundle, small_task, tmp_path, "search_topology.json", **options)
    assert message in causes(error.value)
    assert not (tmp_path / "trials").exists()


def test_searches_are_not_mixed(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """Another seed in the same folder is refused, and so is the same search without resume; the journal stays."""
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(RuntimeError) as error:
        run(bundle, small_task, tmp_path, "search_topology.json", max_failures=1, batch_size=0)
    assert "there is a search already; use --resume True" in causes(error.value)
    with pytest.raises(RuntimeError):
        run(bundle, small_task, tmp_path, "search_topology.json", max_failures=1, batch_size=0, resume=True)
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(RuntimeError) as error:
        run(bundle, small_task, tmp_path, "search_topology.json", batch_size=0, resume=True, seed=1)
    assert "seed" in causes(error.value)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_widths_are_a_grid(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """Every multiplier is trained with its filters and scaled splits, and has its row with the closed-form cost."""
    Architecture.published("cakes-manual-123d", 4).save(tmp_path / "parent.json")
    options = {"architecture": str(tmp_path / "parent.json"), "init_filters": 4, "multipliers": [0.5, 1.0]}
    options["patch_size"] = [32, 16, 16]
    run(bundle, small_task, tmp_path / "out", "search_width.json", **options)
    with (tmp_path / "out" / "widths.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["width"], row["init_filters"]) for row in rows] == [("0.5", "2"), ("1.0", "4")]
    for row in rows:
        scaled = Architecture.published("cakes-manual-123d", 4).scaled(int(row["init_filters"]))
        assert int(row["params"]) == c2fnas_cost(scaled, 1, 3, int(row["init_filters"]), (32, 16, 16)).params
    assert {"params.png", "flops.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    content = json.loads((tmp_path / "out" / "trials" / "0000" / "architecture.json").read_text())
    assert content["origin"]["scaled_to"] == 2
