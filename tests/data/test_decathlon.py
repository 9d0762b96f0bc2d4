# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds and label names of datasets in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.data import check_label_names, decathlon_fold, decathlon_label_names


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A dataset of 11 cases, in an order that is not that of their names, whose files are empty."""
    cases = []
    for number in (7, 1, 3, 10, 4, 0, 2, 9, 5, 8, 6):
        case = {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
        for path in case.values():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
        cases.append({**case, "note": "kept out of the data list"})
    write(tmp_path, training=cases, labels={"0": "background", "1": "Pancreas", "2": "cancer"})
    return tmp_path


def write(folder: Path, **entries: Any) -> None:
    """Write dataset.json."""
    (folder / "dataset.json").write_text(json.dumps(entries))


def numbers(cases: list[dict[str, str]]) -> list[int]:
    """Case numbers in the order of the list."""
    return [int(Path(case["image"]).name[5:-7]) for case in cases]


def test_folds_are_consecutive(task: Path) -> None:
    """11 cases in 5 folds give 3, 2, 2, 2, 2 in the order of dataset.json, and training is the rest in its order."""
    folds = [numbers(decathlon_fold(task, "validation", fold)) for fold in range(5)]
    assert folds == [[7, 1, 3], [10, 4], [0, 2], [9, 5], [8, 6]]
    assert numbers(decathlon_fold(task, "training", 1)) == [7, 1, 3, 0, 2, 9, 5, 8, 6]
    assert numbers(decathlon_fold(task, "validation", 1, num_folds=2)) == [2, 9, 5, 8, 6]


def test_real_dataset(hippocampus: Path) -> None:
    """Of the 260 real cases fold 0 validates the first 52; each fold has no case in common with its training."""
    listed = json.loads((hippocampus / "dataset.json").read_text())["training"]
    validation = decathlon_fold(hippocampus, "validation")
    assert [Path(case["image"]).name for case in validation] == [Path(case["image"]).name for case in listed[:52]]
    for fold in range(5):
        ours = decathlon_fold(hippocampus, "validation", fold)
        others = decathlon_fold(hippocampus, "training", fold)
        assert (len(ours), len(others)) == (52, 208)
        assert not {case["image"] for case in ours} & {case["image"] for case in others}


def test_absolute_paths_of_two_keys(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are absolute paths of image and label and nothing else, also for a relative folder."""
    monkeypatch.chdir(task.parent)
    first = decathlon_fold(task.name, "validation")[0]
    assert first == {
        "image": str(task / "imagesTr" / "case_7.nii.gz"),
        "label": str(task / "labelsTr" / "case_7.nii.gz"),
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"section": "test"}, "section is 'test', allowed are training and validation"),
        ({"fold": 5}, "fold is 5, allowed are 0 to 4"),
        ({"fold": -1}, "fold is -1, allowed are 0 to 4"),
        ({"fold": "0"}, "fold is '0', allowed are 0 to 4"),
        ({"num_folds": 1}, "num_folds is 1, allowed are 2 or more"),
        ({"num_folds": 12}, r"11 training cases, allowed are 12 \(num_folds\) or more"),
    ],
)
def test_wrong_arguments(task: Path, arguments: dict[str, Any], text: str) -> None:
    """Section, fold and number of folds out of range are refused with what is allowed."""
    with pytest.raises(ValueError, match=text):
        decathlon_fold(**{"dataset_dir": task, "section": "validation", **arguments})


def test_missing_files(task: Path) -> None:
    """Missing files are counted and the first three named; those of the other section do not matter."""
    for number in (7, 1, 3):
        (task / "labelsTr" / f"case_{number}.nii.gz").unlink()
    (task / "imagesTr" / "case_7.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"4 missing files: \S+imagesTr/case_7.nii.gz, .* and 1 more"):
        decathlon_fold(task, "validation")
    assert len(decathlon_fold(task, "training")) == 8


def test_broken_dataset_json(task: Path) -> None:
    """An absent, unreadable or incomplete dataset.json is refused by its path."""
    write(task, labels={})
    with pytest.raises(ValueError, match=r"dataset.json: has no 'training'"):
        decathlon_fold(task, "validation")
    write(task, training=[{"image": "a.nii.gz"}])
    with pytest.raises(
        ValueError, match=r"dataset.json: training case 0 is .*allowed: a path as image and one as label"
    ):
        decathlon_fold(task, "validation")
    (task / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset.json: is no JSON"):
        decathlon_fold(task, "validation")
    (task / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"dataset.json: no such file"):
        decathlon_label_names(task)


def test_label_names(task: Path, hippocampus: Path) -> None:
    """Names come in the order of their values, also when dataset.json lists them in another and beyond nine."""
    assert decathlon_label_names(hippocampus) == ["background", "Anterior", "Posterior"]
    write(task, labels={str(value): f"organ {value}" for value in reversed(range(12))})
    assert decathlon_label_names(task) == [f"organ {value}" for value in range(12)]


@pytest.mark.parametrize("labels", [{"0": "background", "2": "cancer"}, {"background": 0, "pancreas": 1}, ["a", "b"]])
def test_label_names_of_another_layout(task: Path, labels: Any) -> None:
    """Labels with a gap, name to value as nnU-Net has them, or as a list are refused."""
    write(task, labels=labels)
    with pytest.raises(ValueError, match=r"dataset.json: labels are .*without gaps"):
        decathlon_label_names(task)


def test_check_label_names(task: Path) -> None:
    """The order of labels counts, their case does not."""
    check_label_names(task, ["background", "pancreas", "Cancer"])
    with pytest.raises(ValueError, match=r"are background, Pancreas, cancer; allowed: background, cancer, pancreas"):
        check_label_names(task, ["background", "cancer", "pancreas"])
    with pytest.raises(ValueError, match="allowed: background, pancreas"):
        check_label_names(task, ["background", "pancreas"])
