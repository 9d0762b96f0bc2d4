# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which images there are under a path: files by their suffix, and folders of DICOM slices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cakes_monai.data.dicom_series import is_dicom_folder

__all__ = ["IMAGE_SUFFIXES", "find_images"]

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
ALLOWED = f"allowed: {', '.join(IMAGE_SUFFIXES)} or the folder of a DICOM series"


def find_images(path: Path) -> list[Path]:
    """
    Find the images a path stands for, without opening them.

    Args:
        path: an image file, the folder of a DICOM series, or a folder that is searched for both. Hidden files and
            folders in it are skipped, links are followed, each folder with DICOM files is one image, and so is a
            folder that may not be read, for what it may hold.

    Returns:
        the image files and DICOM folders, sorted.

    Raises:
        ValueError: when there is no such path, a file has another suffix, or nothing is found.
    """
    if path.is_dir():
        if found := sorted(_search(path)):
            return found
        raise ValueError(f"{path}: no images in this folder; {ALLOWED}.")
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; {ALLOWED}.")
    if not _is_image(path.name):
        raise ValueError(f"{path}: unknown suffix; {ALLOWED}.")
    return [path]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _search(top: Path) -> Iterator[Path]:
    visited: set[str] = set()
    closed: list[OSError] = []
    for folder, subfolders, files in os.walk(top, followlinks=True, onerror=closed.append):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in visited else sorted(name for name in subfolders if not name.startswith("."))
        if real in visited:  # by a link, perhaps one to a folder above
            continue
        visited.add(real)
        if is_dicom_folder(folder):
            yield Path(folder)
        yield from (Path(folder, name) for name in files if _is_image(name) and not name.startswith("."))
    yield from (Path(error.filename) for error in closed)  # listed, so that they are missed when they are opened
