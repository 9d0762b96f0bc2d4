# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle of the repository as it is, and a small copy of each, trained for a moment on small data."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from cakes_monai.architecture import KERNEL_SETS, Architecture, Topology, even_cells
from cakes_video.architectures import video_architecture

BUNDLES = Path(__file__).resolve().parents[3] / "bundles"
SMALL_BUNDLES = Path(__file__).with_name("small_bundles.json")
#: Files that are run together as a training, with each kernel search in the place of the training.
TRAININGS = (
    ("train.json",),
    ("train.json", "evaluate.json"),
    ("train.json", "multi_gpu_train.json"),
    ("train.json", "evaluate.json", "multi_gpu_evaluate.json"),
)
ADVICE = (
    'an object with "data" (name of a fixture that gives the path of small data), "architecture" (c2fnas or video), '
    '"options" (defaults of its configs that make it small), "longer" (options of a longer training), "images" (what '
    'inference gets) and, when it segments, "volume" (a real image); {data}, {bundle} and {data_root} stand for paths.'
)


def small_c2fnas() -> Architecture:
    """Three cells at two levels whose channels are divided among all sub-kernels."""
    topology = Topology((0, 1, 0))
    return Architecture(topology, even_cells(topology, KERNEL_SETS["123d"], 4))


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "c2fnas": small_c2fnas,
    "video": lambda: video_architecture("manual-12d", "resnet18", 4),
}


class Bundle:
    """A bundle's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def __repr__(self) -> str:
        return self.name

    def file(self, name: str) -> str:
        """Path of a config file."""
        return str(self.folder / "configs" / name)

    def config(self, name: str) -> Any:
        """The raw content of a config file."""
        return json.loads(Path(self.file(name)).read_text(encoding="utf-8"))

    @property
    def files(self) -> list[str]:
        """Names of all config files."""
        return sorted(path.name for path in (self.folder / "configs").glob("*.json"))

    @property
    def segments(self) -> bool:
        """Whether the bundle labels voxels."""
        return bool(self.config("metadata.json")["network_data_format"]["outputs"]["pred"]["format"] == "segmentation")

    @property
    def weights(self) -> Path:
        """Where the weights are, when there are some."""
        return self.folder / "models" / "model.pt"

    def copy(self, folder: Path) -> Bundle:
        """The same bundle in another folder, to write to."""
        return Bundle(Path(shutil.copytree(self.folder, folder / self.name)))

    def workflow(self, *files: str, kind: str = "train", **options: Any) -> ConfigWorkflow:
        """The workflow of some config files, initialized."""
        workflow = ConfigWorkflow(
            config_file=[self.file(name) for name in files],
            meta_file=self.file("metadata.json"),
            logging_file=False,
            workflow_type=kind,
            **{"bundle_root": str(self.folder), **options},
        )
        workflow.initialize()
        return workflow

    def run(self, *files: str, kind: str = "train", **options: Any) -> None:
        """Run config files in this process."""
        workflow = self.workflow(*files, kind=kind, **options)
        workflow.run()
        workflow.finalize()

    def python(self, folder: Path, files: list[str], *launcher: str, **options: Any) -> None:
        """Run config files by their absolute paths in a process of its own, started in ``folder``."""
        given = {"config_file": [self.file(name) for name in files], "bundle_root": self.folder, **options}
        command = [*launcher, "-m", "monai.bundle", "run", *(f"--{name}={value}" for name, value in given.items())]
        result = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-3000:]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test is for every bundle; with ``segmenting`` for those that label voxels, with ``files`` for trainings."""
    if "case" not in metafunc.fixturenames:
        return
    bundles = [Bundle(path.parent) for path in sorted(BUNDLES.glob("*/configs"))]
    if "segmenting" in metafunc.fixturenames:
        bundles = [bundle for bundle in bundles if bundle.segments]
    if "files" in metafunc.fixturenames:
        pairs = [(bundle.name, files) for bundle in bundles for files in trainings(bundle)]
        ids = [f"{name}-{'+'.join(files)}" for name, files in pairs]
        metafunc.parametrize(("case", "files"), pairs, indirect=["case"], ids=ids, scope="session")
    else:
        metafunc.parametrize("case", [bundle.name for bundle in bundles], indirect=True, scope="session")


def trainings(bundle: Bundle) -> list[tuple[str, ...]]:
    """Files that make trainings of a bundle, searches that train included."""
    searches = [name for name in bundle.files if name.startswith("search") and "train" in bundle.config(name)]
    return [*TRAININGS, *((name,) for name in searches), *((name, "multi_gpu_train.json") for name in searches)]


@functools.cache
def small_entries() -> dict[str, dict[str, Any]]:
    """What makes the bundles small."""
    return dict(json.loads(SMALL_BUNDLES.read_text(encoding="utf-8")))


def filled(value: Any, places: dict[str, str]) -> Any:
    """``value`` with the paths that stand in it in braces."""
    if isinstance(value, str):
        return functools.reduce(lambda text, place: text.replace(f"{{{place}}}", places[place]), places, value)
    return [filled(item, places) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def case(request: pytest.FixtureRequest) -> Bundle:
    """One bundle of the repository, as it is."""
    return Bundle(BUNDLES / request.param)


@pytest.fixture(scope="session")
def segmenting(case: Bundle) -> Bundle:
    """One bundle that labels voxels."""
    return case


@pytest.fixture(scope="session")
def entry(request: pytest.FixtureRequest, case: Bundle) -> dict[str, Any]:
    """What makes the bundle small."""
    found = small_entries().get(case.name)
    if found is None:
        pytest.fail(f"{case.name}: there is no entry in {SMALL_BUNDLES}; add {ADVICE}")
    places = {"bundle": str(case.folder), "data": str(request.getfixturevalue(found["data"]))}
    if "{data_root}" in json.dumps(found):
        places["data_root"] = str(request.getfixturevalue("data_root"))
    options = {name: filled(value, places) for name, value in found["options"].items()}
    return {name: filled(value, places) for name, value in found.items()} | {"options": options}


@pytest.fixture(scope="session")
def small_bundles() -> dict[str, Bundle]:
    """The small bundles that are made already; tests for different bundles take turns."""
    return {}


@pytest.fixture(scope="session")
def small(
    case: Bundle,
    entry: dict[str, Any],
    small_bundles: dict[str, Bundle],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A copy with small defaults, trained by the documented command, started elsewhere."""
    if case.name not in small_bundles:
        small_bundles[case.name] = trained_copy(case, entry, tmp_path_factory.mktemp("small"))
    return small_bundles[case.name]


def trained_copy(case: Bundle, entry: dict[str, Any], folder: Path) -> Bundle:
    """Copy a bundle, make it small and train it."""
    ignored = shutil.ignore_patterns("models", "eval", "sample_data", "docs")
    bundle = Bundle(Path(shutil.copytree(case.folder, folder / case.name, ignore=ignored)))
    for name in bundle.files:
        content = bundle.config(name)
        content.update({option: value for option, value in entry["options"].items() if option in content})
        if content.get("engine") == "auto":
            content["engine"] = "torch"  # nothing is timed
        if name == "inference.json":
            content["dataset_dir"] = entry["images"]
        Path(bundle.file(name)).write_text(json.dumps(content, indent=4))
    ARCHITECTURES[entry["architecture"]]().save(bundle.file("architecture.json"))
    (folder / "elsewhere").mkdir()
    bundle.python(folder / "elsewhere", ["train.json"])
    return bundle
