# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Small tasks of the decathlon's kinds, and small runs of the bundle for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from cakes_monai.architecture import Architecture, Cell, Topology

SMALL_MSD = {
    "init_filters": 4,
    "patch_size": [16, 16, 16],
    "batch_size": 4,
    "iterations_per_epoch": 8,
    "max_epochs": 3,
    "val_interval": 1,
    "learning_rate": 0.1,
    "warmup_iterations": 0,
    "num_workers": 0,
    "amp": False,
}

#: The brain's task, with its labels in an order of their own.
BRAIN = {
    "name": "BRATS",
    "tensorImageSize": "4D",
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"3": "enhancing tumour", "0": "background", "2": "non-enhancing tumor", "1": "edema"},
}
SHAPE = (30, 26, 22)
AFFINE = np.array([[-1.0, 0, 0, 15], [0, -1, 0, 13], [0, 0, 1, -11], [0, 0, 0, 1]])


def made_brain(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Three shells of a tumour in a head whose outside is 0; each channel shows the classes differently."""
    generator = np.random.default_rng(number)
    places = np.stack(np.meshgrid(*(np.arange(size, dtype=float) for size in SHAPE), indexing="ij"))
    center = (np.array(SHAPE) / 2 + generator.uniform(-2, 2, 3))[:, None, None, None]
    radius = np.sqrt(((places - center) ** 2).sum(0))
    label = np.select([radius < 4, radius < 7, radius < 10], [3, 2, 1]).astype(np.uint8)
    brightness = np.array([[300, 800, 500, 700], [500, 350, 300, 200], [400, 420, 380, 900], [350, 700, 600, 500]])
    image = np.moveaxis(brightness[:, label], 0, -1) + generator.normal(0, 20, (*SHAPE, 4))
    outside = np.abs(places - np.array(SHAPE)[:, None, None, None] / 2).max(0) > 13
    image[outside] = 0
    return image.astype(np.float32), label


@pytest.fixture(scope="session")
def brain_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training and three test volumes of four channels, channels last, and what macOS leaves in such archives."""
    folder = tmp_path_factory.mktemp("decathlon") / "Task01_BrainTumour"
    for sub in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / sub).mkdir(parents=True)
        (folder / sub / "._BRATS_000.nii.gz").write_text("Mac OS X")
    training, test = [], []
    for number in range(8):
        image, label = made_brain(number)
        name, kind = f"BRATS_{number:03}.nii.gz", "Tr" if number < 5 else "Ts"
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"images{kind}" / name)
        if kind == "Ts":
            test.append(f"./imagesTs/{name}")
            continue
        nib.save(nib.Nifti1Image(label, AFFINE), folder / "labelsTr" / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {**BRAIN, "numTraining": 5, "numTest": 3, "training": training, "test": test}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def msd_bundle(repository: Path) -> Path:
    """The bundle for all tasks."""
    return repository / "bundles" / "msd_c2fnas_cakes"


@pytest.fixture(scope="session")
def parsed(msd_bundle: Path) -> Callable[..., ConfigParser]:
    """Parses configs that are given together, with options."""

    def parse(*files: str, **options: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(msd_bundle / "configs" / file) for file in files])
        parser.update({"bundle_root": str(msd_bundle), "output_dir": "none", "cache_dir": "", **options})
        return parser

    return parse


@pytest.fixture(scope="session")
def msd_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where small runs keep their preprocessed volumes."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three cells at two levels."""
    path = tmp_path_factory.mktemp("small") / "architecture.json"
    Architecture(Topology((0, 1, 0)), (Cell("3d"), Cell("2d"), Cell("p3d"))).save(path)
    return str(path)


@pytest.fixture(scope="session")
def msd_training(msd_bundle: Path, msd_cache: Path, architecture: str, make_run: Any) -> Callable[..., Any]:
    """Makes a small training on a task."""

    def make(folder: Path, task: Path, file: str = "train.json", **options: Any) -> Any:
        given = {"dataset_dir": str(task), "cache_dir": str(msd_cache), "architecture": architecture, **options}
        return make_run(msd_bundle, folder, file, SMALL_MSD | given)

    return make


@pytest.fixture(scope="session")
def trained_brain(msd_training: Any, brain_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small training on the brain's task that ran from beginning to end."""
    run = msd_training(tmp_path_factory.mktemp("trained_brain"), brain_task)
    run.here()
    return run


@pytest.fixture(scope="session")
def segment(msd_bundle: Path, architecture: str) -> Callable[..., None]:
    """Runs inference.json, with overlays, with the weights of a run."""

    def run(trained: Any, images: Path, output: Path, *overlays: str, **options: Any) -> None:
        small = {"architecture": architecture, "init_filters": 4, "patch_size": [16, 16, 16], "stride": [8, 8, 8]}
        given = small | {"weights": str(trained.folder / "models" / "model.pt")} | options
        workflow = ConfigWorkflow(
            config_file=[str(msd_bundle / "configs" / name) for name in ("inference.json", *overlays)],
            meta_file=str(msd_bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            bundle_root=str(msd_bundle),
            dataset_dir=str(images),
            output_dir=str(output),
            **given,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    return run
