# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of the hippocampus bundle: killed and resumed, longer, on two processes, on bad data; and its evaluation."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def uninterrupted(small_training: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training that ran from beginning to end."""
    run = small_training(tmp_path_factory.mktemp("uninterrupted"))
    run.here()
    return run


@pytest.fixture
def copied(uninterrupted: Any, small_training: Any, tmp_path: Path) -> Any:
    """Makes a run, with other options, in a copy of the uninterrupted one's folder."""

    def make(**options: Any) -> Any:
        shutil.copytree(uninterrupted.folder, tmp_path, dirs_exist_ok=True)
        return small_training(tmp_path, **options)

    return make


def test_it_learns(uninterrupted: Any) -> None:
    """Two bright boxes are found after four epochs."""
    assert uninterrupted.checkpoint["epoch"] == 4
    assert uninterrupted.checkpoint["best_metric"] > 0.3


def test_killed_and_resumed_it_ends_with_the_same_bits(
    uninterrupted: Any, small_training: Any, tmp_path: Path, same_bits: Any
) -> None:
    """After a SIGKILL in the middle, --resume true ends with the same checkpoint and model, bit by bit."""
    run = small_training(tmp_path, resume=True)
    run.killed()
    run.here()
    same_bits(run.checkpoint, uninterrupted.checkpoint)
    same_bits(run.model, uninterrupted.model)


def test_resumed_with_more_epochs_it_follows_the_longer_schedule(uninterrupted: Any, copied: Any) -> None:
    """The learning rate of the last iteration is that of the longer schedule, and the best metric is kept."""
    run = copied(resume=True, max_epochs=5)
    run.here()
    longer = run.checkpoint
    assert (longer["epoch"], longer["iteration"]) == (5, 40)
    assert longer["objects"]["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.1 * (1 - 39 / 40) ** 0.9)
    assert longer["best_metric"] >= uninterrupted.checkpoint["best_metric"]


def test_a_worse_epoch_after_a_resume_does_not_replace_the_best(
    uninterrupted: Any, copied: Any, same_bits: Any
) -> None:
    """With a best metric that cannot be reached, model.pt stays as it is."""
    run = copied(resume=True, max_epochs=5)
    torch.save(run.checkpoint | {"best_metric": 1.5}, run.checkpoint_file)
    run.here()
    same_bits(run.model, uninterrupted.model)


def test_a_checkpoint_of_another_training_is_refused(uninterrupted: Any, copied: Any, same_bits: Any) -> None:
    """Resuming with another fold says so, and leaves the checkpoint alone."""
    run = copied(resume=True, fold=1)
    assert "checkpoint.pt: was written with fold 0, this training has 1" in run.messages()
    same_bits(run.checkpoint, uninterrupted.checkpoint)


def test_booleans_of_the_command_line(uninterrupted: Any, copied: Any, same_bits: Any) -> None:
    """``--resume false`` arrives as a text and starts anew; a text that is neither is refused."""
    run = copied(resume="false", max_epochs=1)
    run.here()
    assert run.checkpoint["epoch"] == 1
    assert "maybe" in copied(resume="maybe").messages()


def test_early_stop(small_training: Any, tmp_path: Path) -> None:
    """Without an improvement for the given number of epochs the training ends before its time."""
    run = small_training(tmp_path, early_stop_patience=1, max_epochs=30, learning_rate=1e-12)
    run.here()
    assert run.checkpoint["epoch"] - run.checkpoint["best_metric_epoch"] == 1
    assert run.checkpoint["epoch"] < 30


def test_weights_chosen_by_the_schedule(small_training: Any, tmp_path: Path, same_bits: Any) -> None:
    """With --select last the model is the network after the last epoch, whatever the validation said."""
    run = small_training(tmp_path, select="last", max_epochs=2, val_interval=5)
    run.here()
    same_bits(run.model, run.checkpoint["objects"]["network"])


@pytest.mark.filterwarnings("ignore:the prediction of class")  # MONAI's remark on a structure that was missed
def test_evaluation(copied: Any) -> None:
    """A row for every held-out case, a summary that is their mean, pictures of the best and the worst case."""
    run = copied()
    run.here("evaluate.json")
    output = run.folder / "eval"
    with (output / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["case_0", "case_1"], "fold 0 is the first fifth"
    summary = json.loads((output / "summary.json").read_text())
    mean = next(r["mean"] for r in summary["summary"] if (r["metric"], r["structure"]) == ("Dice", "anterior"))
    assert mean == pytest.approx(np.mean([float(row["Dice anterior"]) for row in rows]), abs=1e-4)
    assert {path.name.split("_")[0] for path in output.glob("*.png")} == {"best", "worst"}


@pytest.fixture
def task(small_task: Path, tmp_path: Path) -> Path:
    """A copy of the small task that a test may spoil."""
    return Path(shutil.copytree(small_task, tmp_path / "task"))


def test_label_values_outside_the_classes(small_training: Any, task: Path, tmp_path: Path) -> None:
    """The file and the value are named before anything is trained."""
    path = task / "labelsTr" / "case_3.nii.gz"
    label = np.asarray(nib.load(path).dataobj).copy()
    label[0, 0, 0] = 77
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    messages = small_training(tmp_path, task).messages()
    assert "case_3.nii.gz" in messages
    assert "77" in messages
    assert not (tmp_path / "models").exists()


def test_image_and_label_of_different_shape(small_training: Any, task: Path, tmp_path: Path) -> None:
    """Both files and both shapes are named."""
    path = task / "labelsTr" / "case_3.nii.gz"
    shorter = np.asarray(nib.load(path).dataobj)[:-1].copy()
    nib.save(nib.Nifti1Image(shorter, np.eye(4)), path)
    messages = small_training(tmp_path, task).messages()
    assert "imagesTr/case_3.nii.gz" in messages
    assert "labelsTr/case_3.nii.gz" in messages
    assert "29" in messages


def test_other_label_order(small_training: Any, task: Path, tmp_path: Path) -> None:
    """A data set whose label 1 means something else is refused."""
    content = json.loads((task / "dataset.json").read_text())
    content["labels"] = {"0": "background", "1": "Posterior", "2": "Anterior"}
    (task / "dataset.json").write_text(json.dumps(content))
    messages = small_training(tmp_path, task).messages()
    assert "background, Posterior, Anterior; allowed: background, anterior, posterior" in messages
