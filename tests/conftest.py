# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: the folder of real data and the bundles of this repository."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
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


@pytest.fixture(scope="session")
def bundle(repository: Path) -> Path:
    """The hippocampus bundle."""
    return repository / "bundles" / "hippocampus_mr_c2fnas_cakes"


@pytest.fixture(scope="session")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decathlon task of ten small volumes: two bright boxes, one behind the other, in noise."""
    folder = tmp_path_factory.mktemp("Task04_Hippocampus")
    generator = np.random.default_rng(0)
    cases = []
    for number in range(10):
        label = np.zeros((30, 40, 28), np.uint8)
        depth, height, width = generator.integers(6, 12, 3)
        label[depth : depth + 12, height : height + 10, width : width + 12] = 2
        label[depth : depth + 12, height + 10 : height + 20, width : width + 12] = 1
        image = 50 * generator.standard_normal(label.shape) + np.array([400, 900, 700])[label]
        case = {"image": f"imagesTr/case_{number}.nii.gz", "label": f"labelsTr/case_{number}.nii.gz"}
        for key, voxels in (("image", image.astype(np.float32)), ("label", label)):
            (folder / case[key]).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / case[key])
        cases.append(case)
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "small", "labels": labels, "modality": {"0": "MRI"}, "numTraining": 10, "training": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
