# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: the folder of real data and the bundles of this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data: ``CAKES_DATA``, by default ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("CAKES_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data: {root} does not exist; set CAKES_DATA")
    return root


@pytest.fixture(scope="session")
def hippocampus(data_root: Path) -> Path:
    """Medical Segmentation Decathlon task 4 in its original layout."""
    return data_root / "Task04_Hippocampus"
