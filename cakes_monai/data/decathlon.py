# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds and label names of a dataset in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.data import check_missing_files, load_decathlon_datalist, load_decathlon_properties

__all__ = ["check_label_names", "decathlon_fold", "decathlon_label_names"]

KEYS = ("image", "label")
SECTIONS = ("training", "validation")
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
    if section not in SECTIONS:
        raise ValueError(f"decathlon_fold: section is {section!r}, allowed are {' and '.join(SECTIONS)}.")
    if num_folds < 2:
        raise ValueError(f"decathlon_fold: num_folds is {num_folds}, allowed are 2 or more.")
    if fold not in range(num_folds):
        raise ValueError(f"decathlon_fold: fold is {fold!r}, allowed are 0 to {num_folds - 1}.")
    if label_names is not None:
        check_label_names(dataset_dir, label_names)
    cases = _cases(dataset_dir)
    if len(cases) < num_folds:
        raise ValueError(f"{dataset_dir}: {len(cases)} training cases, allowed are {num_folds} (num_folds) or more.")
    validation = np.array_split(np.arange(len(cases)), num_folds)[fold]
    chosen = [case for index, case in enumerate(cases) if (index in validation) == (section == "validation")]
    _check_files(dataset_dir, chosen)
    return chosen


def decathlon_label_names(dataset_dir: str | os.PathLike[str]) -> list[str]:
    """
    List the names of the label values 0, 1, ... in dataset.json.

    Args:
        dataset_dir: folder with dataset.json.

    Raises:
        ValueError: when dataset.json is absent or broken, or its labels are not ``{"0": name, "1": name, ...}``.
    """
    path = _dataset_json(dataset_dir, "labels")
    labels = load_decathlon_properties(path, "labels")["labels"]
    values = [str(value) for value in range(len(labels))]
    if not isinstance(labels, dict) or set(labels) != set(values):
        raise ValueError(f'{path}: labels are {labels!r}; allowed: {{"0": name, "1": name, ...}} without gaps.')
    return [str(labels[value]) for value in values]


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


def _dataset_json(dataset_dir: str | os.PathLike[str], entry: str) -> Path:
    """Return the path of dataset.json after seeing that it is JSON with this entry."""
    path = Path(dataset_dir).expanduser().absolute() / "dataset.json"
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
    path = _dataset_json(dataset_dir, "training")
    cases = load_decathlon_datalist(path, data_list_key="training")
    for number, case in enumerate(cases):
        if not all(isinstance(case.get(key), str) for key in KEYS):
            raise ValueError(f"{path}: training case {number} is {case}; allowed: a path as image and one as label.")
    return [{key: case[key] for key in KEYS} for case in cases]


def _check_files(dataset_dir: str | os.PathLike[str], cases: list[dict[str, str]]) -> None:
    if missing := [str(path) for path in check_missing_files(cases, keys=KEYS)]:
        more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise ValueError(f"{dataset_dir}: {len(missing)} missing files: {', '.join(missing[:MAX_LISTED])}{more}.")
