# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Test images of a task, and which of them have no label map in a submission."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cakes_monai.data import DecathlonTestImages

LABELS = {"0": "background", "1": "spleen"}


@pytest.fixture
def task(tmp_path: Path, nifti: Callable[..., Path]) -> Path:
    """A task with the test images 5, 1 and 3, in this order, and what macOS leaves beside one of them."""
    folder = tmp_path / "Task09_Spleen"
    names = [f"./imagesTs/spleen_{number}.nii.gz" for number in (5, 1, 3)]
    for name in names:
        nifti(f"{folder.name}/{name}")
    (folder / "imagesTs" / "._spleen_1.nii.gz").write_text("Mac OS X")
    write(folder, test=names)
    return folder


def write(folder: Path, **entries: Any) -> None:
    """Write dataset.json."""
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "modality": {"0": "CT"}, **entries}))


def names(images: DecathlonTestImages) -> list[str]:
    """Names of the good images."""
    return [Path(item["image"]).name for item in images.data]


def test_the_list_of_dataset_json(task: Path) -> None:
    """Images come in the list's order, whatever else is in the folder."""
    (task / "imagesTs" / "spleen_9.nii.gz").touch()
    images = DecathlonTestImages(task, "out")
    assert names(images) == ["spleen_5.nii.gz", "spleen_1.nii.gz", "spleen_3.nii.gz"]
    assert images.label_dir == Path("out/Task09_Spleen")


@pytest.mark.parametrize("entries", [{}, {"test": []}])
def test_without_a_list_the_folder_is_taken(task: Path, entries: dict[str, Any]) -> None:
    """Where dataset.json lists no test images those in imagesTs are, without hidden files."""
    write(task, **entries)
    assert names(DecathlonTestImages(task, "out")) == ["spleen_1.nii.gz", "spleen_3.nii.gz", "spleen_5.nii.gz"]


def test_missing_test_images(task: Path) -> None:
    """Listed images that are not there, and a task without any, are errors before anything is segmented."""
    (task / "imagesTs" / "spleen_3.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"Task09_Spleen: 1 missing files: .*spleen_3\.nii\.gz"):
        DecathlonTestImages(task, "out")
    write(task)
    shutil.rmtree(task / "imagesTs")
    with pytest.raises(ValueError, match="imagesTs: no such file or folder"):
        DecathlonTestImages(task, "out")


def test_a_folder_of_another_name(task: Path, tmp_path: Path) -> None:
    """The folder of a submission has the task's name; where the data have another one it must be given."""
    other = task.rename(tmp_path / "spleen")
    with pytest.raises(ValueError, match="task_folder: 'spleen' is no folder of a submission"):
        DecathlonTestImages(other, "out")
    assert DecathlonTestImages(other, "out", task_folder="Task09_Spleen").label_dir == Path("out/Task09_Spleen")


def test_all_without_a_label_map_are_listed(
    task: Path, tmp_path: Path, nifti: Callable[..., Path], volume: np.ndarray
) -> None:
    """Test images that could not be segmented are listed with the reason, those without a file as well."""
    nifti("Task09_Spleen/imagesTs/spleen_1.nii.gz", np.stack([volume, volume], -1))
    folder = tmp_path / "out" / "Task09_Spleen"
    folder.mkdir(parents=True)
    for name in ("spleen_1.nii.gz", "spleen_5.nii.gz"):  # the first one of an earlier run
        (folder / name).touch()
    with pytest.raises(SystemExit) as end:
        DecathlonTestImages(task, tmp_path / "out").raise_for_rejected()
    head, first, second = str(end.value).splitlines()
    assert head == f"2 of 3 test images have no label map in {folder}:"
    assert first.startswith("  spleen_1.nii.gz: 4D or multi-channel image")
    assert second == "  spleen_3.nii.gz: was not segmented"
    nifti("Task09_Spleen/imagesTs/spleen_1.nii.gz")
    (folder / "spleen_3.nii.gz").touch()
    DecathlonTestImages(task, tmp_path / "out").raise_for_rejected()
