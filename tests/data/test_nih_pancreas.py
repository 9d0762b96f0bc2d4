# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds of a data set in the layout of NIH Pancreas-CT, and what is refused in it."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cakes_monai.data import nih_pancreas_fold

WriteCase = Callable[..., dict[str, str]]
SHAPE = (8, 8, 6)


@pytest.fixture
def dataset(tmp_path: Path, write_nih_case: WriteCase) -> tuple[Path, list[dict[str, str]]]:
    """Cases 2, 3, 10, 24, 26 and 71, written out of order, below a manifest folder, one label not compressed."""
    top = tmp_path / "manifest-1599750808610"
    cases = {n: write_nih_case(top, n, SHAPE, suffix=".nii" if n == 3 else ".nii.gz") for n in (71, 10, 2, 26, 3, 24)}
    return tmp_path, [cases[number] for number in sorted(cases)]


def test_folds_are_consecutive_in_the_order_of_numbers(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """Six cases in four folds are 2, 2, 1 and 1 of them; every fold trains on the others, in order, absolute paths."""
    top, cases = dataset
    parts = [[0, 1], [2, 3], [4], [5]]
    for fold, part in enumerate(parts):
        assert nih_pancreas_fold(top, "validation", fold) == [cases[index] for index in part]
        assert nih_pancreas_fold(top, "training", fold) == [cases[i] for i in range(6) if i not in part]
    assert all(Path(path).is_absolute() for case in cases for path in case.values())
    assert len(nih_pancreas_fold(top, "validation", 1, num_folds=2)) == 3


def test_labels_may_lie_elsewhere(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """Labels are looked for anywhere below labels_dir, when it is given."""
    top, cases = dataset
    labels = shutil.move(Path(cases[0]["label"]).parent, top / "elsewhere")
    found = nih_pancreas_fold(top / "manifest-1599750808610", "validation", labels_dir=labels)
    assert [Path(case["label"]) for case in found] == [labels / "label0002.nii.gz", labels / "label0003.nii"]


def test_withdrawn_cases(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """The labels 25 and 70, which come without series, and their empty folders change nothing."""
    top, cases = dataset
    for number in (25, 70):
        shutil.copy(cases[0]["label"], Path(cases[0]["label"]).with_name(f"label{number:04}.nii.gz"))
        (Path(cases[0]["image"]).parents[2] / f"PANCREAS_{number:04}").mkdir()
    everything = [*nih_pancreas_fold(top, "validation"), *nih_pancreas_fold(top, "training")]
    assert everything == cases


def test_other_files_do_not_matter(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """Hidden copies, predictions and notes are none of the cases."""
    top, cases = dataset
    label = Path(cases[0]["label"])
    shutil.copy(label, label.with_name("._label0002.nii.gz"))
    shutil.copy(label, label.with_name("label0002_seg.nii.gz"))
    (Path(cases[0]["image"]) / "LICENSE").write_text("CC BY 3.0")
    assert nih_pancreas_fold(top, "validation") == cases[:2]


def test_a_series_without_label(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """Named by its number, wherever the fold has it."""
    top, cases = dataset
    Path(cases[2]["label"]).unlink()
    with pytest.raises(ValueError, match=r"^\S+: no label for series 0010; allowed: a folder with PANCREAS_0001/"):
        nih_pancreas_fold(top, "validation")


def test_labels_without_series(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """Three are named by their numbers, the others counted."""
    top, cases = dataset
    for case in cases[:4]:
        shutil.rmtree(case["image"])
    with pytest.raises(ValueError, match="no DICOM series for label 0002, 0003, 0010 and 1 more; allowed"):
        nih_pancreas_fold(top, "validation", num_folds=2)


def test_number_of_slices_that_differs(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """A series that lost a slice is refused with both files, in the section it is in."""
    top, cases = dataset
    next(Path(cases[0]["image"]).iterdir()).unlink()
    with pytest.raises(ValueError, match=r"label0002\.nii\.gz: label of 8x8x6 voxels, its series \S+ has 5 slices"):
        nih_pancreas_fold(top, "validation")
    assert nih_pancreas_fold(top, "training") == cases[2:]


def test_two_of_one_number(dataset: tuple[Path, list[dict[str, str]]], write_nih_case: WriteCase) -> None:
    """Two labels, or two series, of one number are refused with both paths."""
    top, cases = dataset
    second = Path(cases[1]["label"]).with_name("label0003.nii.gz")
    second.write_bytes(gzip.compress(Path(cases[1]["label"]).read_bytes()))
    with pytest.raises(ValueError, match=r"one of two labels of number 0003, the other is \S+; allowed: one"):
        nih_pancreas_fold(top, "validation")
    second.unlink()
    shutil.copytree(cases[1]["image"], Path(cases[1]["image"]).with_name("copy"))
    with pytest.raises(ValueError, match=r"one of two series of number 0003, the other is \S+; allowed: one"):
        nih_pancreas_fold(top, "validation")


def test_labels_that_are_no_images(dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """A label that cannot be read, and one of two dimensions, are refused in one line with their file."""
    top, cases = dataset
    nib.save(nib.Nifti1Image(np.zeros((8, 8), np.uint8), np.eye(4)), cases[0]["label"])
    with pytest.raises(ValueError, match=r"label0002\.nii\.gz: label of 8x8 voxels, its series \S+ has 6 slices"):
        nih_pancreas_fold(top, "validation")
    Path(cases[0]["label"]).write_text("no image")
    with pytest.raises(ValueError, match=r"label0002\.nii\.gz: cannot be read \(.*\); allowed: a NIfTI file") as error:
        nih_pancreas_fold(top, "validation")
    assert "\n" not in str(error.value)


def test_no_such_data(tmp_path: Path, dataset: tuple[Path, list[dict[str, str]]]) -> None:
    """No folder, one without images, and labels alone are refused with the layout."""
    with pytest.raises(ValueError, match=r"none: no such folder; allowed: a folder with PANCREAS_0001/<study>"):
        nih_pancreas_fold(tmp_path / "none", "training")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images in this folder"):
        nih_pancreas_fold(tmp_path / "empty", "training")
    with pytest.raises(ValueError, match="no DICOM series in a folder PANCREAS_"):
        nih_pancreas_fold(Path(dataset[1][0]["label"]).parent, "training")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"section": "test"}, "nih_pancreas_fold: section is 'test', allowed are training and validation"),
        ({"fold": 4}, "nih_pancreas_fold: fold is 4, allowed are 0 to 3"),
        ({"num_folds": 1}, "nih_pancreas_fold: num_folds is 1, allowed are 2 or more"),
        ({"num_folds": 7}, r"6 training cases, allowed are 7 \(num_folds\) or more"),
    ],
)
def test_bad_options(dataset: tuple[Path, list[dict[str, str]]], options: dict[str, object], message: str) -> None:
    """Sections and folds that do not exist are refused as in a decathlon task."""
    with pytest.raises(ValueError, match=message):
        nih_pancreas_fold(dataset[0], **{"section": "training", **options})
