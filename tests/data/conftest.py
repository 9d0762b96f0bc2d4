# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Images made for the tests of data: NIfTI files, and copies of a real DICOM series that a test may spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pydicom
import pytest

Spoil = Callable[..., None]


@pytest.fixture
def volume() -> np.ndarray:
    """Noise of 12x13x14 voxels."""
    return np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32)


@pytest.fixture
def nifti(tmp_path: Path, volume: np.ndarray) -> Callable[..., Path]:
    """Write an array (by default noise) as NIfTI under the test's folder and give its path."""

    def write(name: str, array: np.ndarray = volume, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def itk_file(tmp_path: Path, volume: np.ndarray) -> Callable[..., Path]:
    """Write noise with spacing 1, 2, 3 mm by ITK under the test's folder and give its path."""

    def write(name: str, **options: bool) -> Path:
        image = itk.image_from_array(volume)
        image.SetSpacing([1.0, 2.0, 3.0])
        itk.imwrite(image, str(tmp_path / name), **options)
        return tmp_path / name

    return write


@pytest.fixture
def series(data_root: Path, tmp_path: Path) -> Path:
    """Copy of a real MR series of 32 slices: 1.dcm at 1 mm ... 32.dcm at 32 mm."""
    return shutil.copytree(data_root / "hippocampus_dicom" / "Study1" / "13_HCropVolume", tmp_path / "series")


@pytest.fixture
def edit() -> Spoil:
    """Change tags in some slices, by value or by a function of the old value; None deletes the tag."""

    def change(files: Iterable[Path], **tags: Any) -> None:
        for file in files:
            header = pydicom.dcmread(file)
            for tag, value in tags.items():
                if value is None:
                    delattr(header, tag)
                else:
                    setattr(header, tag, value(getattr(header, tag)) if callable(value) else value)
            header.save_as(file)

    return change
