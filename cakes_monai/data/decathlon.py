# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds and label names of a dataset in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from monai.data import check_missing_files, load_decathlon_datalist, load_decathlon_properties

from cakes_monai.data.folds import check_fold, cut_fold
from cakes_monai.data.image_search import find_images

__all__ = [
    "check_label_names",
    "dataset_json",
    "decathlon_fold",
    "decathlon_label_names",
    "decathlon_test_images",
    "numbered_names",
]

KEYS = ("image", "label")
MAX_LISTED = 3  # missing files in a message


def decathlon_fold(
    dataset_dir: str | os.PathLike[str],
    section: str,
    fold: int = 0,
    num_folds: int = 5,
    label_names: Sequence[str] | None = None,
) -> list[dict[str, str]]:
    """
    List the training or validation cases of one fold.

    As in C2FNAS (Yu et al., CVPR 2020), section 4.1, the training list of dataset.json is cut into parts of consecutive
    cases, in its order; sizes differ by one at most, larger parts come first. Fold 0 is validated on the first part.

    Args:
        dataset_dir: folder with dataset.json.
        section: "training" or "validation".
        fold: the part that is validated on, 0 to ``num_folds - 1``.
        num_folds: number of parts.
        label_names: what the label values 0, 1, ... must mean, as in :func:`check_label_names`; None for no check.

    Returns:
        ``{"image": path, "label": path}`` of each case, absolute paths.

    Raises:
        ValueError: when dataset.json is absent or broken, for an unknown section or a fold out of range, when there are
            fewer cases than folds, or files of this section are missing.

    Example:
        >>> [Path(case["image"]).name for case in decathlon_fold("Task04_Hippocampus", "validation")][:2]
        ['hippocampus_001.nii.gz', 'hippocampus_003.nii.gz']
    """
    check_fold("decathlon_fold", section, fold, num_folds)
    if label_names is not None:
        check_label_names(dataset_dir, label_names)
    chosen = cut_fold(dataset_dir, _cases(dataset_dir), section, fold, num_folds)
    _check_files(dataset_dir, chosen)
    return chosen


def decathlon_test_images(dataset_dir: str | os.PathLike[str]) -> list[Path]:
    """
    List the test images: those of dataset.json, or those in ``imagesTs`` when dataset.json lists none.

    Args:
        dataset_dir: folder with dataset.json.

    Raises:
        ValueError: when dataset.json is absent or broken, there are no test images, or listed ones are missing.
    """
    path = dataset_json(dataset_dir, "labels")
    if not json.loads(path.read_text(encoding="utf-8")).get("test"):
        return find_images(path.parent / "imagesTs")
    cases = load_decathlon_datalist(path, data_list_key="test")
    _check_files(dataset_dir, cases, keys=("image",))
    return [Path(case["image"]) for case in cases]


def decathlon_label_names(dataset_dir: str | os.PathLike[str]) -> list[str]:
    """
    List the names of the label values 0, 1, ... in dataset.json.

    Args:
        dataset_dir: folder with dataset.json.

    Raises:
        ValueError: when dataset.json is absent or broken, or its labels are not ``{"0": name, "1": name, ...}``.
    """
    return numbered_names(dataset_dir, "labels")


def numbered_names(path: str | os.PathLike[str], entry: str) -> list[str]:
    """
    List the names in an entry ``{"0": name, "1": name, ...}`` of dataset.json in the order of their numbers.

    Args:
        path: folder with dataset.json, or a JSON file with these entries.
        entry: "labels" or "modality".

    Raises:
        ValueError: when the file is absent or broken, or numbers are missing.
    """
    path = dataset_json(path, entry)
    names = load_decathlon_properties(path, entry)[entry]
    numbers = [str(number) for number in range(len(names))]
    if not isinstance(names, dict) or set(names) != set(numbers):
        raise ValueError(f'{path}: {entry} are {names!r}; allowed: {{"0": name, "1": name, ...}} without gaps.')
    return [str(names[number]) for number in numbers]


def check_label_names(dataset_dir: str | os.PathLike[str], names: Sequence[str]) -> None:
    """
    Refuse a dataset whose label values mean something else than a bundle expects; case does not count.

    Args:
        dataset_dir: folder with dataset.json.
        names: the bundle's names of the label values 0, 1, ...

    Raises:
        ValueError: when the names or their order differ, and as in :func:`decathlon_label_names`.
    """
    found = decathlon_label_names(dataset_dir)
    if [name.lower() for name in found] != [name.lower() for name in names]:
        raise ValueError(
            f"{dataset_dir}: labels in order of value are {', '.join(found)}; allowed: {', '.join(names)}."
        )


def dataset_json(path: str | os.PathLike[str], entry: str) -> Path:
    """
    Return the path of dataset.json after seeing that it is JSON with this entry.

    Args:
        path: folder with dataset.json, or a JSON file with its entries.
        entry: name of the entry.

    Raises:
        ValueError: when the file is absent, no JSON, or has no such entry.
    """
    path = Path(path).expanduser().absolute()
    path = path if path.suffix == ".json" else path / "dataset.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; allowed: a folder in the layout of the Medical Segmentation Decathlon."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}).") from error
    if not isinstance(content, dict) or not content.get(entry):
        raise ValueError(f"{path}: has no {entry!r}; allowed: dataset.json of the Medical Segmentation Decathlon.")
    return path


def _cases(dataset_dir: str | os.PathLike[str]) -> list[dict[str, str]]:
    path = dataset_json(dataset_dir, "training")
    cases = load_decathlon_datalist(path, data_list_key="training")
    for number, case in enumerate(cases):
        if not all(isinstance(case.get(key), str) for key in KEYS):
            raise ValueError(f"{path}: training case {number} is {case}; allowed: a path as image and one as label.")
    return [{key: case[key] for key in KEYS} for case in cases]


def _check_files(
    dataset_dir: str | os.PathLike[str], cases: list[dict[str, str]], keys: tuple[str, ...] = KEYS
) -> None:
    if missing := [str(path) for path in check_missing_files(cases, keys=keys)]:
        more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise ValueError(f"{dataset_dir}: {len(missing)} missing files: {', '.join(missing[:MAX_LISTED])}{more}.")
