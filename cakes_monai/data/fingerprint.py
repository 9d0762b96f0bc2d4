# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A short text that tells data lists apart."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["data_fingerprint"]


def data_fingerprint(cases: Iterable[Mapping[str, str | os.PathLike[str]]]) -> str:
    """
    Fingerprint of the names and sizes of all files of a data list, the same wherever the data lie.

    The folder of a DICOM series counts with the size of all its files.

    Args:
        cases: the data list; its order does not count.

    Returns:
        12 hexadecimal digits.
    """
    files = [[key, Path(path).name, _size(Path(path))] for case in cases for key, path in case.items()]
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()[:12]


def _size(path: Path) -> int:
    if path.is_dir():  # whose own size is the file system's affair
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size
