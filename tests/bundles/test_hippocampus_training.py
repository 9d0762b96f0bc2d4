# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of the hippocampus bundle: killed and resumed, longer, on two processes, on bad data; and its evaluation."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from cakes_monai.architecture import Architecture

EPOCHS = 4


class Run:
    """A small training of the bundle in a folder of its own."""

    def __init__(self, bundle: Path, task: Path, folder: Path, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        Architecture.published("cakes-manual-123d", 4).save(folder / "architecture.json")
        self.bundle, self.folder = bundle, folder
        self.options = {
            "bundle_root": str(bundle),
            "dataset_dir": str(task),
            "output_dir": str(folder / "eval"),
            "ckpt_dir": str(folder / "models"),
            "architecture": str(folder / "architecture.json"),
            "init_filters": 4,
            "patch_size": [32, 32, 16],
            "max_epochs": EPOCHS,
            "val_interval": 1,
            "batch_size": 1,
            "learning_rate": 0.1,
            **options,
        }

    def here(self, *files: str, **options: Any) -> None:
        """Run in this process."""
        workflow = ConfigWorkflow(
            config_file=[str(self.bundle / "configs" / name) for name in files or ("train.json",)],
            meta_file=str(self.bundle / "configs" / "metadata.json"),
            logging_file=False,
            **self.options,
            **options,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    def command(self, *files: str) -> list[str]:
        """The command line that does the same."""
        paths = [str(self.bundle / "configs" / name) for name in files]
        options = [f"--{name}={value}" for name, value in self.options.items()]
        return ["-m", "monai.bundle", "run", "--config_file", str(paths), *options]

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The state after the last epoch."""
        return torch.load(self.folder / "eval" / "checkpoint.pt", weights_only=True)

    @property
    def model(self) -> dict[str, torch.Tensor]:
        """The weights that were chosen."""
        return torch.load(self.folder / "models" / "model.pt", weights_only=True)


def assert_same(ours: Any, theirs: Any, place: str = "checkpoint") -> None:
    """Equal to the last bit, at any depth."""
    assert type(ours) is type(theirs), place
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), place
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), place
        for key in ours:
            assert_same(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(ours, list):
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{place}.{number}")
    else:
        assert ours == theirs, place


@pytest.fixture(scope="module")
def uninterrupted(bundle: Path, small_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that ran from beginning to end."""
    run = Run(bundle, small_task, tmp_path_factory.mktemp("uninterrupted"))
    run.here()
    return run


def test_it_learns(uninterrupted: Run) -> None:
    """Two bright boxes are found after four epochs, and the best epoch is the one that was kept."""
    assert uninterrupted.checkpoint["epoch"] == EPOCHS
    assert uninterrupted.checkpoint["best_metric"] > 0.3


def test_killed_and_resumed_it_ends_with_the_same_bits(uninterrupted: Run, small_task: Path, tmp_path: Path) -> None:
    """After a SIGKILL in the middle, --resume true ends with the same checkpoint and model, bit by bit."""
    run = Run(uninterrupted.bundle, small_task, tmp_path, resume=True)
    process = subprocess.Popen(
        [sys.executable, *run.command("train.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "eval" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # somewhere in the second epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= run.checkpoint["epoch"] < EPOCHS, "the kill came too late to show anything"
    run.here()
    assert_same(run.checkpoint, uninterrupted.checkpoint)
    assert_same(run.model, uninterrupted.model)


def test_resumed_with_more_epochs_it_follows_the_longer_schedule(uninterrupted: Run, tmp_path: Path) -> None:
    """The learning rate of the first new epoch is that of the longer schedule, and the best metric is kept."""
    shutil.copytree(uninterrupted.folder, tmp_path, dirs_exist_ok=True)
    task = Path(uninterrupted.options["dataset_dir"])
    Run(uninterrupted.bundle, task, tmp_path, resume=True, max_epochs=EPOCHS + 1).here()
    longer = Run(uninterrupted.bundle, task, tmp_path).checkpoint
    iterations = longer["iteration"]
    expected = 0.1 * (1 - (iterations - 1) / iterations) ** 0.9
    assert longer["epoch"] == EPOCHS + 1
    assert longer["objects"]["optimizer"]["param_groups"][0]["lr"] == pytest.approx(expected)
    assert longer["best_metric"] >= uninterrupted.checkpoint["best_metric"]


def test_a_worse_epoch_after_a_resume_does_not_replace_the_best(uninterrupted: Run, tmp_path: Path) -> None:
    """With a best metric that cannot be reached, model.pt stays as it is."""
    shutil.copytree(uninterrupted.folder, tmp_path, dirs_exist_ok=True)
    state = torch.load(tmp_path / "eval" / "checkpoint.pt", weights_only=True)
    state["best_metric"] = 1.5
    torch.save(state, tmp_path / "eval" / "checkpoint.pt")
    task = Path(uninterrupted.options["dataset_dir"])
    run = Run(uninterrupted.bundle, task, tmp_path, resume=True, max_epochs=EPOCHS + 1)
    run.here()
    assert_same(run.model, uninterrupted.model)


def test_a_checkpoint_of_another_training_is_refused(uninterrupted: Run, tmp_path: Path) -> None:
    """Resuming with another fold says so, and leaves the checkpoint alone."""
    shutil.copytree(uninterrupted.folder, tmp_path, dirs_exist_ok=True)
    task = Path(uninterrupted.options["dataset_dir"])
    run = Run(uninterrupted.bundle, task, tmp_path, resume=True, fold=1)
    with pytest.raises(RuntimeError) as error:
        run.here()
    assert "was written with fold 0, this training has 1" in str(error.value.__cause__)
    assert_same(run.checkpoint, uninterrupted.checkpoint)


def test_early_stop(uninterrupted: Run, tmp_path: Path) -> None:
    """Without an improvement for the given number of epochs the training ends before its time."""
    task = Path(uninterrupted.options["dataset_dir"])
    run = Run(uninterrupted.bundle, task, tmp_path, early_stop_patience=1, max_epochs=30, learning_rate=1e-12)
    run.here()
    assert run.checkpoint["epoch"] - run.checkpoint["best_metric_epoch"] == 1
    assert run.checkpoint["epoch"] < 30


def test_two_processes(uninterrupted: Run, tmp_path: Path) -> None:
    """Two processes (torchrun, gloo) train one network, and their evaluation sees all cases."""
    task = Path(uninterrupted.options["dataset_dir"])
    run = Run(uninterrupted.bundle, task, tmp_path, max_epochs=2, batch_size=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for files in (
        ("train.json", "multi_gpu_train.json"),
        ("train.json", "evaluate.json", "multi_gpu_evaluate.json"),
    ):
        result = subprocess.run([*torchrun, *run.command(*files)], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr[-3000:]
    assert not any(name.startswith("module.") for name in run.model)
    assert run.checkpoint["iteration"] == 2 * 2  # 8 volumes, two processes, two a batch: two iterations an epoch
    with (tmp_path / "eval" / "cases.csv").open() as stream:
        assert [row["case"] for row in csv.DictReader(stream)] == ["case_0", "case_1"]


@pytest.mark.filterwarnings("ignore:the prediction of class")  # MONAI's remark on a structure that was missed
def test_evaluation(uninterrupted: Run, tmp_path: Path) -> None:
    """A row for every held-out case, a summary that is their mean, pictures of the best and the worst case."""
    shutil.copytree(uninterrupted.folder / "models", tmp_path / "models")
    task = Path(uninterrupted.options["dataset_dir"])
    Run(uninterrupted.bundle, task, tmp_path).here("train.json", "evaluate.json")
    with (tmp_path / "eval" / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["case_0", "case_1"], "fold 0 is the first fifth"
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    mean = next(r["mean"] for r in summary["summary"] if (r["metric"], r["structure"]) == ("Dice", "anterior"))
    assert mean == pytest.approx(np.mean([float(row["Dice anterior"]) for row in rows]), abs=1e-4)
    assert {path.name.split("_")[0] for path in (tmp_path / "eval").glob("*.png")} >= {"best", "worst"}


def _copied_task(task: Path, folder: Path) -> Path:
    return Path(shutil.copytree(task, folder / "task"))


def _messages(run: Run) -> str:
    """All messages of the error a training ends with."""
    with pytest.raises(RuntimeError) as error:
        run.here()
    messages, cause = [], error.value
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__
    return "\n".join(messages)


def test_label_values_outside_the_classes(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """The file and the value are named before anything is trained."""
    task = _copied_task(small_task, tmp_path)
    path = task / "labelsTr" / "case_3.nii.gz"
    label = np.asarray(nib.load(path).dataobj).copy()
    label[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    messages = _messages(Run(bundle, task, tmp_path))
    assert "case_3.nii.gz" in messages
    assert "7" in messages
    assert not (tmp_path / "models").exists()


def test_image_and_label_of_different_shape(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """Both files and both shapes are named."""
    task = _copied_task(small_task, tmp_path)
    path = task / "labelsTr" / "case_3.nii.gz"
    nib.save(nib.load(path).slicer[:-1], path)
    messages = _messages(Run(bundle, task, tmp_path))
    assert "case_3.nii.gz" in messages
    assert "30" in messages
    assert "29" in messages


def test_other_label_order(bundle: Path, small_task: Path, tmp_path: Path) -> None:
    """A data set whose label 1 means something else is refused."""
    task = _copied_task(small_task, tmp_path)
    content = json.loads((task / "dataset.json").read_text())
    content["labels"] = {"0": "background", "1": "Posterior", "2": "Anterior"}
    (task / "dataset.json").write_text(json.dumps(content))
    assert "background, Posterior, Anterior; allowed: background, anterior, posterior" in _messages(
        Run(bundle, task, tmp_path)
    )


def test_weights_chosen_by_the_schedule(uninterrupted: Run, tmp_path: Path) -> None:
    """With --select last the model is the network after the last epoch, whatever the validation said."""
    task = Path(uninterrupted.options["dataset_dir"])
    run = Run(uninterrupted.bundle, task, tmp_path, select="last", max_epochs=2, val_interval=5)
    run.here()
    assert_same(dict(run.model), dict(run.checkpoint["objects"]["network"]))
