# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds of NIH Pancreas-CT: DICOM series with NIfTI labels, as The Cancer Imaging Archive gives them out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel

from cakes_monai.data.dicom_series import dicom_files
from cakes_monai.data.folds import check_fold, cut_fold
from cakes_monai.data.image_search import find_images

__all__ = ["nih_pancreas_fold"]

SERIES = re.compile(r"PANCREAS_(\d+)", re.IGNORECASE)
LABEL = re.compile(r"label(\d+)\.nii(\.gz)?", re.IGNORECASE)
# Cases 25 and 70 turned out to be case 2 and were withdrawn in 2020; the labels still come as 82 files.
WITHDRAWN = (25, 70)
MAX_LISTED = 3  # numbers in a message
LAYOUT = "a folder with PANCREAS_0001/<study>/<series>/*.dcm ... and label0001.nii.gz ... anywhere below it"


def nih_pancreas_fold(
    dataset_dir: str | os.PathLike[str],
    section: str,
    fold: int = 0,
    num_folds: int = 4,
    labels_dir: str | os.PathLike[str] = "",
) -> list[dict[str, str]]:
    """
    List the training or validation cases of one fold of NIH Pancreas-CT.

    The cases, in the order of their numbers, are cut into parts of consecutive ones; sizes differ by one at most,
    larger parts come first. Fold 0 is validated on the first part. CAKES (Yu et al., AAAI 2021), table 2, has four
    parts. The published data are 80 cases since numbers 25 and 70 were withdrawn, the papers' are 82: what there is is
    taken. Labels of withdrawn cases and folders ``PANCREAS_...`` without slices are passed over.

    Series lie in ``PANCREAS_0001/<study>/<series>/*.dcm`` and labels are named ``label0001.nii.gz`` or ``.nii``, both
    anywhere below ``dataset_dir``, e.g. ``manifest-.../Pancreas-CT/PANCREAS_0001/...`` and
    ``TCIA_pancreas_labels-02-05-2017/label0001.nii.gz``. Label and image do not lie on each other by their headers:
    :class:`cakes_monai.data.NIHLabeld` after ``LoadImaged`` mends that.

    Args:
        dataset_dir: folder below which the series lie.
        section: "training" or "validation".
        fold: the part that is validated on, 0 to ``num_folds - 1``.
        num_folds: number of parts.
        labels_dir: folder below which the labels lie; "" for ``dataset_dir``.

    Returns:
        ``{"image": folder of the series, "label": file}`` of each case, absolute paths.

    Raises:
        ValueError: for an unknown section or a fold out of range, a folder without series, a series without a label, a
            label without a series, two of either for one number, fewer cases than folds, or a label of this section
            that cannot be read or has another number of slices than its series.

    Example:
        >>> nih_pancreas_fold("Pancreas-CT", "validation")[0]["label"]
        '/data/Pancreas-CT/TCIA_pancreas_labels-02-05-2017/label0001.nii.gz'
    """
    check_fold("nih_pancreas_fold", section, fold, num_folds)
    series = _numbered(_found(dataset_dir, folders=True), "series")
    labels = _numbered(_found(labels_dir or dataset_dir, folders=False), "labels")
    if not series:
        raise ValueError(f"{dataset_dir}: no DICOM series in a folder PANCREAS_...; allowed: {LAYOUT}.")
    if lone := sorted(series.keys() - labels.keys()):
        raise ValueError(f"{labels_dir or dataset_dir}: no label for series {_listed(lone)}; allowed: {LAYOUT}.")
    if lone := sorted(labels.keys() - series.keys() - set(WITHDRAWN)):
        raise ValueError(f"{dataset_dir}: no DICOM series for label {_listed(lone)}; allowed: {LAYOUT}.")
    cases = [(series[number], labels[number]) for number in sorted(series)]
    chosen = cut_fold(dataset_dir, cases, section, fold, num_folds)
    for folder, label in chosen:
        _check_slices(folder, label)
    return [{"image": str(folder), "label": str(label)} for folder, label in chosen]


def _found(top: str | os.PathLike[str], folders: bool) -> Iterator[tuple[int, Path]]:
    """Number and path of every series, or of every label."""
    top = Path(top).expanduser().absolute()
    if not top.is_dir():
        raise ValueError(f"{top}: no such folder; allowed: {LAYOUT}.")
    for path in find_images(top):
        if folders and path.is_dir():
            names = [match for part in path.parts if (match := SERIES.fullmatch(part))]
            yield from ((int(match[1]), path) for match in names[-1:])
        elif not folders and (match := LABEL.fullmatch(path.name)):
            yield int(match[1]), path


def _numbered(found: Iterator[tuple[int, Path]], what: str) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for number, path in found:
        if (other := numbered.setdefault(number, path)) != path:
            raise ValueError(f"{path}: one of two {what} of number {number:04}, the other is {other}; allowed: one.")
    return numbered


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
    return ", ".join(f"{number:04}" for number in numbers[:MAX_LISTED]) + more


def _check_slices(folder: Path, label: Path) -> None:
    try:
        image: Any = nibabel.load(label)
    except Exception as error:  # nibabel's own kinds, and those of the decompression
        raise ValueError(f"{label}: cannot be read ({error}); allowed: a NIfTI file.") from error
    count = len(dicom_files(folder))
    if len(image.shape) != 3 or image.shape[2] != count:
        listed = "x".join(map(str, image.shape))
        raise ValueError(
            f"{label}: label of {listed} voxels, its series {folder} has {count} slices; allowed: as many."
        )
