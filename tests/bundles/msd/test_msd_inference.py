# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Inference with the bundle for all tasks: several channels, a submission to the decathlon, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest


def caused_by(error: BaseException | None, message: str) -> bool:
    """Whether one of the errors in the chain, which MONAI's own end, has this text."""
    while error is not None and not re.search(message, str(error)):
        error = error.__cause__
    return error is not None


@pytest.fixture
def task(brain_task: Path, tmp_path: Path) -> Path:
    """A copy of the brain's task that a test may spoil."""
    return Path(shutil.copytree(brain_task, tmp_path / brain_task.name))


@pytest.fixture
def submit(segment: Any, trained_brain: Any, tmp_path: Path) -> Any:
    """Makes a submission of a task and gives its folder."""

    def run(task: Path, **options: Any) -> Path:
        segment(trained_brain, task, tmp_path / "out", "submission.json", **options)
        return tmp_path / "out"

    return run


def test_volumes_of_four_channels(brain_task: Path, trained_brain: Any, segment: Any, tmp_path: Path) -> None:
    """Label maps, pictures and volumes with the task's structures, from the weights' folder alone."""
    segment(trained_brain, brain_task / "imagesTs", tmp_path)
    cases = [f"BRATS_{number:03}" for number in (5, 6, 7)]
    expected = {f"{case}_seg{suffix}" for case in cases for suffix in (".nii.gz", ".png")}
    assert {path.name for path in tmp_path.iterdir()} == expected | {"volumes.csv", "volumes.json"}
    volumes = json.loads((tmp_path / "volumes.json").read_text())
    assert list(volumes[0]["structures"]) == ["edema", "non-enhancing tumor", "enhancing tumour"]
    image = nib.load(brain_task / "imagesTs" / "BRATS_005.nii.gz")
    result = nib.load(tmp_path / "BRATS_005_seg.nii.gz")
    assert result.shape == image.shape[:3]
    np.testing.assert_allclose(result.affine, image.affine, atol=1e-5)


def test_images_of_other_channels_are_left_out(
    brain_task: Path, trained_brain: Any, segment: Any, tmp_path: Path
) -> None:
    """One channel where four are needed is refused by name; the others are segmented."""
    folder = tmp_path / "scans"
    folder.mkdir()
    image = nib.load(brain_task / "imagesTs" / "BRATS_005.nii.gz")
    nib.save(image, folder / "good.nii.gz")
    nib.save(image.slicer[..., 0], folder / "flair.nii.gz")
    with pytest.raises(SystemExit, match=r"1 of 2 inputs were not segmented:\n.*flair.nii.gz: .*1 channel.*4 channel"):
        segment(trained_brain, folder, tmp_path / "out")
    assert (tmp_path / "out" / "good_seg.nii.gz").exists()


def test_a_submission(submit: Any, brain_task: Path) -> None:
    """A folder with the task's name holds an 8 bit label map for each test image, under its name, and no more."""
    folder = submit(brain_task)
    assert [path.name for path in folder.iterdir()] == ["Task01_BrainTumour"]
    results = sorted((folder / "Task01_BrainTumour").iterdir())
    assert [path.name for path in results] == [f"BRATS_{number:03}.nii.gz" for number in (5, 6, 7)]
    for path in results:
        image, label = nib.load(brain_task / "imagesTs" / path.name), nib.load(path)
        assert label.shape == image.shape[:3]
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(label.dataobj)) <= {0, 1, 2, 3}
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)


@pytest.mark.parametrize("ensemble", ["vote", "mean"])
def test_a_submission_of_an_ensemble(
    submit: Any, segment: Any, brain_task: Path, trained_brain: Any, tmp_path: Path, ensemble: str
) -> None:
    """Three networks that are the same one submit what it does alone, and have one task."""
    alone = submit(brain_task) / "Task01_BrainTumour"
    weights = [str(trained_brain.folder / "models" / "model.pt")] * 3
    options = {"weights": weights, "ensemble": ensemble}
    segment(trained_brain, brain_task, tmp_path / "three", "submission.json", "ensemble.json", **options)
    for path in alone.iterdir():
        together = nib.load(tmp_path / "three" / "Task01_BrainTumour" / path.name)
        assert (np.asarray(together.dataobj) == np.asarray(nib.load(path).dataobj)).mean() > 0.999


def test_a_submission_that_is_not_complete(submit: Any, task: Path) -> None:
    """A test image that cannot be read does not stop the others, and is listed at the end."""
    (task / "imagesTs" / "BRATS_006.nii.gz").write_bytes(b"not an image")
    with pytest.raises(SystemExit) as end:
        submit(task)
    head, line = str(end.value).splitlines()
    assert head.startswith("1 of 3 test images have no label map in ")
    assert line.startswith("  BRATS_006.nii.gz: ")


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (lambda task: (task / "imagesTs" / "BRATS_007.nii.gz").unlink(), "1 missing files: .*BRATS_007"),
        (lambda task: shutil.rmtree(task / "imagesTs"), "3 missing files"),
        (lambda task: (task / "dataset.json").unlink(), "dataset.json: no such file"),
    ],
)
def test_tasks_that_cannot_be_submitted(submit: Any, task: Path, spoilt: Any, message: str) -> None:
    """Missing test images and the wrong folder are errors before anything is segmented."""
    spoilt(task)
    with pytest.raises(RuntimeError) as error:
        submit(task)
    assert caused_by(error.value, message)
    assert not list(task.parent.glob("out/**/*.nii.gz"))


def test_weights_without_their_description(brain_task: Path, trained_brain: Any, segment: Any, tmp_path: Path) -> None:
    """Inference does not guess what weights are for, and takes what it is told."""
    copied = SimpleNamespace(folder=tmp_path)
    shutil.copytree(trained_brain.folder / "models", tmp_path / "models")
    moved = (tmp_path / "models" / "task.json").rename(tmp_path / "moved.json")
    image = brain_task / "imagesTs" / "BRATS_005.nii.gz"
    with pytest.raises(RuntimeError) as error:
        segment(copied, image, tmp_path / "out")
    assert caused_by(error.value, r"models/task\.json: no such file; allowed: the task\.json that training writes")
    segment(copied, image, tmp_path / "out", task_file=str(moved))
    assert (tmp_path / "out" / "BRATS_005_seg.nii.gz").exists()


def test_weights_of_another_task(
    brain_task: Path, trained_brain: Any, segment: Any, hippocampus: Path, tmp_path: Path
) -> None:
    """A description with fewer classes than the weights have outputs is refused when they are loaded."""
    with pytest.raises(RuntimeError) as error:
        segment(
            trained_brain,
            hippocampus / "imagesTr" / "hippocampus_003.nii.gz",
            tmp_path / "out",
            task_file=str(hippocampus / "dataset.json"),
        )
    assert caused_by(error.value, r"model\.pt: these are no weights of this network: .*size mismatch")
