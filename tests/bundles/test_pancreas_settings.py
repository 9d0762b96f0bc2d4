# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The pancreas bundle's defaults and named configs are the settings of the papers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.inferers.utils import _get_scan_interval

from cakes_monai.architecture import Architecture
from cakes_monai.data import decathlon_fold
from cakes_monai.handlers import PolynomialLearningRate, StepLearningRate

Parts = Callable[..., ConfigParser]

#: Options of c2fnas.json that are no defaults of train.json: C2FNAS, sections 4.1 and 4.2.
C2FNAS = {
    "learning_rate": 0.02,
    "lr_steps": [16000, 32000],
    "warmup_iterations": 1000,
    "warmup_lr": 0.0025,
    "stride": 16,
}


def config(bundle: Path, name: str) -> Any:
    """The raw content of one config file."""
    return json.loads((bundle / "configs" / name).read_text())


@pytest.fixture
def parts(pancreas_bundle: Path, ct_task: Path, tmp_path: Path) -> Parts:
    """Makes the parts of a workflow without running it; a small network, all else as it is."""

    def make(*files: str, **options: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(pancreas_bundle / "configs" / name) for name in files])
        folders = {"bundle_root": str(pancreas_bundle), "output_dir": str(tmp_path), "cache_dir": ""}
        small = {"architecture": "c2fnas-2d", "init_filters": 2, "dataset_dir": str(ct_task), "num_workers": 0}
        parser.update({k: v for k, v in (folders | small | options).items() if k in parser})
        return parser

    return make


def rates(parser: ConfigParser, iterations: list[int]) -> list[float]:
    """Learning rates of some iterations of 40000, as the only handler for it sets them."""
    kinds = (PolynomialLearningRate, StepLearningRate)
    (handler,) = (made for made in parser.get_parsed_content("train#handlers") if isinstance(made, kinds))
    engine, found = Engine(lambda *_: None), []
    engine.state.max_epochs, engine.state.epoch_length = 40, 1000
    for engine.state.iteration in iterations:
        handler(engine)
        found.append(parser.get_parsed_content("optimizer").param_groups[0]["lr"])
    return found


def interval(parser: ConfigParser, place: str = "overlap") -> tuple[int, ...]:
    """By how many voxels MONAI moves the window over a large image."""
    size = parser.get_parsed_content("patch_size")
    return _get_scan_interval((300, 300, 300), size, 3, parser.get_parsed_content(place))


def test_training_of_cakes(parts: Parts) -> None:
    """Polynomial learning rate from 0.01, SGD, patches and windows of 96 voxels with stride 32 ("Training stage")."""
    parser = parts("train.json")
    expected = [0.01, 0.01 * 0.5**0.9, 0.01 * (1 / 40000) ** 0.9]
    assert rates(parser, [1, 20001, 40000]) == pytest.approx(expected)
    group = parser.get_parsed_content("optimizer").param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 4e-5, False)
    assert [tuple(patch["image"].shape) for patch in parser.get_parsed_content("train#dataset")[0]] == [
        (1, 96, 96, 96)
    ] * 2
    assert interval(parser) == (32, 32, 32)


def test_training_of_c2fnas(parts: Parts, pancreas_bundle: Path) -> None:
    """c2fnas.json: 0.0025 to 0.02 in 1000 iterations, halved after 16000 and 32000, stride 16, C2FNAS-Panc."""
    parser = parts("train.json", "c2fnas.json")
    iterations = [1, 501, 1001, 16000, 16001, 32000, 32001, 40000]
    expected = [0.0025, 0.01125, 0.02, 0.02, 0.01, 0.01, 0.005, 0.005]
    assert rates(parser, iterations) == pytest.approx(expected)
    assert interval(parser) == (16, 16, 16)
    assert interval(parts("inference.json", "c2fnas.json")) == (16, 16, 16)
    named = config(pancreas_bundle, "c2fnas.json")
    assert named == {**C2FNAS, "architecture": "c2fnas-panc"}


def test_nih(parts: Parts, pancreas_bundle: Path) -> None:
    """nih.json: patches of 96x96x64, stride 20, four folds, one class (CAKES, table 2); all else as for task 7."""
    for file in ("train.json", "search.json", "inference.json"):
        parser = parts(file, "nih.json")
        assert parser.get_parsed_content("patch_size") == [96, 96, 64]
        assert interval(parser) == (20, 20, 20)
        assert parser.get_parsed_content("network_def#out_channels") == 2
    train, named = config(pancreas_bundle, "train.json"), config(pancreas_bundle, "nih.json")
    assert (named["num_folds"], named["class_names"]) == (4, ["pancreas"])
    assert set(named) <= set(train), "it names nothing that a training does not know"
    assert named["check_label"]["transforms"][-1] == train["check_label"]


def test_split_of_c2fnas(pancreas_bundle: Path, tmp_path: Path) -> None:
    """Of the 281 cases of task 7 the first four of five folds train, the last one (56) validates (section 4.1)."""
    cases = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in range(281)]
    for case in cases:
        for path in case.values():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"training": cases}))
    train = config(pancreas_bundle, "train.json")
    sizes = [len(decathlon_fold(tmp_path, s, train["fold"], train["num_folds"])) for s in ("training", "validation")]
    assert sizes == [225, 56]
    last = decathlon_fold(tmp_path, "validation", train["fold"], train["num_folds"])[-1]
    assert last["image"].endswith("/280.nii.gz")


@pytest.mark.parametrize(
    ("options", "epochs"), [({}, 20000), ({"max_iterations": 5}, 3), ({"max_epochs": 7}, 7)], ids=str
)
def test_iterations_become_epochs(parts: Parts, options: dict[str, Any], epochs: int) -> None:
    """8 volumes, four in a step, are two iterations an epoch; 40000 iterations unless something else is asked for."""
    parser = parts("train.json", **options)
    assert parser.get_parsed_content("train#trainer#max_epochs") == epochs
    assert parser.get_parsed_content("val_interval") == epochs, "validated once, at the end"


def test_a_server_may_set_the_epochs_of_the_trainer(parts: Parts) -> None:
    """train#trainer#max_epochs, as MONAI Label sets it, also moves the validation."""
    parser = parts("train.json", **{"train#trainer#max_epochs": 2})
    assert parser.get_parsed_content("train#trainer").state.max_epochs == 2
    assert parser.get_parsed_content("val_interval") == 2


def test_default_architecture(pancreas_bundle: Path) -> None:
    """architecture.json is CAKES' manual setting at 32 filters."""
    architecture = Architecture.load(pancreas_bundle / "configs" / "architecture.json")
    assert architecture == Architecture.published("cakes-manual-123d", 32)


@pytest.mark.parametrize("name", Architecture.published_names())
@pytest.mark.parametrize("file", ["train.json", "inference.json"])
def test_published_architectures_by_name(parts: Parts, file: str, name: str) -> None:
    """--architecture takes the names of the papers' networks, here at two filters."""
    network = parts(file, architecture=name).get_parsed_content("network_def")
    assert network.architecture.origin == {"published": name}


def test_searches_are_trained_as_the_papers_say(pancreas_bundle: Path) -> None:
    """CAKES as its network, the operations as C2FNAS with twice the iterations, topologies for 20000 iterations."""
    names = ("train", "search", "search_operations", "search_topology", "search_width")
    train, kernels, operations, topology, width = (config(pancreas_bundle, f"{name}.json") for name in names)
    own = {"imports", "output_dir", "architecture", "network_def", "train", "run"}
    for key, value in train.items():
        if key in kernels and key not in own | {"loss", "execution"}:
            assert kernels[key] == value, key
        if key in operations and key not in own:
            assert operations[key] == C2FNAS.get(key, value), key
    for search in (kernels, operations):
        for key, value in train["train"].items():
            assert key == "handlers" or search["train"][key] == value, key
    assert kernels["loss"]["loss"] == train["loss"]
    assert (kernels["lasso"], kernels["beta"], kernels["sub_kernels"]) == (1e-4, "params", "123d")
    assert (operations["candidates"], operations["ranking_stride"]) == (2000, 48)
    assert operations["operations"] == ["2d", "3d", "p3d"]
    assert (operations["max_iterations"], topology["max_iterations"], width["max_iterations"]) == (40000, 20000, 40000)
    for trials, steps in ((topology, [8000, 16000]), (width, [16000, 32000])):
        assert trials["lr_steps"] == steps
        assert {key: trials[key] for key in C2FNAS} == C2FNAS | {"lr_steps": steps}
        assert set(trials["search"]["options"]) <= set(train)
    assert topology["max_networks"] == 50


def test_ranking_moves_its_window_by_48_voxels(parts: Parts) -> None:
    """Candidates are ranked with stride 48, validations of the super-network use 16."""
    parser = parts("search_operations.json")
    assert interval(parser, "ranking#inferer#overlap") == (48, 48, 48)
    assert interval(parser) == (16, 16, 16)
