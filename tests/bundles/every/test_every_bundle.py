# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle keeps MONAI's bundle contract: files, metadata, properties, and configs that say the same."""

from __future__ import annotations

import configparser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
import torch.distributed as dist
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from packaging.requirements import Requirement
from packaging.version import Version

CONFIGS = ("inference.json", "train.json", "evaluate.json", "multi_gpu_train.json", "multi_gpu_evaluate.json")
WORKFLOW = {"imports", "bundle_root", "network", "handlers", "initialize", "run", "finalize", "displayable_configs"}
NAMES = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}
MEGABYTE = 2**20
SHARED = ("network", "architecture", "init_filters", "patch_size", "device", "execution")


def strings(value: Any) -> Iterator[str]:
    """All texts in a config, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def expressions(content: Any) -> list[str]:
    """What Python evaluates in a config; imports and paths in the bundle aside."""
    path = re.compile(r"\$@\w+ \+ '[^']*'")
    return [
        text for text in strings(content) if text[0:1] == "$" and "import " not in text and not path.fullmatch(text)
    ]


def options(content: dict[str, Any]) -> dict[str, Any]:
    """What a user may choose: neither built from its configuration nor part of the workflow."""
    return {k: v for k, v in content.items() if not isinstance(v, dict) and "#" not in k and k not in WORKFLOW}


def complete(case: Any) -> dict[str, Any]:
    """Configs that stand on their own, without another one below them."""
    return {name: case.config(name) for name in case.files if "bundle_root" in case.config(name)}


def resolved(case: Any, *files: str) -> Any:
    """Configs with each reference replaced by what it refers to; references to expressions stay."""
    parser = ConfigParser()
    parser.read_config([case.file(name) for name in files])

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        target = parser[value[1:]] if isinstance(value, str) and re.fullmatch(r"@\w+((#|::)\w+)*", value) else "$"
        return value if isinstance(target, str) and target.startswith("$") else plain(target)

    return plain(parser.config)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells the only process; afterwards this one is again like any other."""
    told = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield
    idist.finalize()


def test_files(case: Any) -> None:
    """License, documentation, logging and the configs that tools look for by name; nothing above the zoo's 25 MB."""
    assert "Apache License" in (case.folder / "LICENSE").read_text()
    assert (case.folder / "docs" / "README.md").stat().st_size > 1000
    assert (case.folder / "configs" / "logging.conf").exists()
    assert set(case.files) >= {"metadata.json", "architecture.json", *CONFIGS}
    large = [path for path in case.folder.rglob("*") if path.is_file() and path.stat().st_size > 25 * MEGABYTE]
    assert not large


@pytest.mark.usefixtures("launched")
def test_properties_of_training(small: Any, files: tuple[str, ...], tmp_path: Path) -> None:
    """MONAI finds every property of a training where it looks for it, also with the overlays for several GPUs."""
    workflow = small.workflow(*files, output_dir=str(tmp_path))
    assert workflow.check_properties() == []
    assert dist.is_initialized() == ("multi_gpu" in files[-1])


def test_properties_of_inference(small: Any, tmp_path: Path) -> None:
    """MONAI finds every property of an inference where it looks for it."""
    assert small.workflow("inference.json", kind="infer", output_dir=str(tmp_path)).check_properties() == []


@pytest.mark.filterwarnings("ignore:No hash value provided")
def test_metadata_fits_its_schema(case: Any, repository: Path, tmp_path: Path) -> None:
    """verify_metadata passes with a local schema, and refuses metadata without a version."""
    pytest.importorskip("jsonschema")
    schema = shutil.copy(repository / "tests" / "bundles" / "meta_schema.json", tmp_path)
    verify_metadata(case.file("metadata.json"), filepath=schema)
    broken = case.config("metadata.json")
    del broken["version"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="'version' is a required property"):
        verify_metadata(str(tmp_path / "metadata.json"), filepath=schema)


def test_versions(case: Any, repository: Path) -> None:
    """The changelog has the bundle's version; packages are releases that the project allows, by the names of PyPI."""
    metadata, project = case.config("metadata.json"), configparser.ConfigParser()
    assert metadata["version"] in metadata["changelog"]
    project.read(repository / "setup.cfg")
    lines = [project["options"]["install_requires"], *project["options.extras_require"].values()]
    texts = [line for text in lines for line in text.splitlines() if line and line[0] not in "#c"]
    allowed = {requirement.name: requirement.specifier for requirement in map(Requirement, texts)}
    given = metadata["required_packages_version"] | {name: metadata[key] for name, key in NAMES.items()}
    for name, text in given.items():
        version = Version(text)
        assert version in allowed[name], name
        assert not version.is_prerelease
        assert version.local is None


def test_network_takes_and_gives_what_metadata_says(case: Any) -> None:
    """verify_net_in_out passes for the network as it is by default."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=case.file("metadata.json"),
        config_file=case.file("inference.json"),
        device="cpu",
        bundle_root=str(case.folder),
    )


def test_metadata_names_the_classes(segmenting: Any) -> None:
    """The channels of the output are the background and the classes of the configs."""
    pred = segmenting.config("metadata.json")["network_data_format"]["outputs"]["pred"]
    assert len(pred["channel_def"]) == pred["num_channels"]
    for name in ("train.json", "inference.json"):
        parser = ConfigParser()
        parser.read_config(segmenting.file(name))
        parser["bundle_root"] = str(segmenting.folder)
        assert ["background", *parser.get_parsed_content("class_names")] == list(pred["channel_def"].values())


def test_weights(case: Any) -> None:
    """models/ holds only model.pt, if anything (MONAI Label takes the shortest name): float32, of the network."""
    if not (case.folder / "models").exists():
        assert "No weights" in (case.folder / "docs" / "README.md").read_text(), "the documentation must say so"
        return
    assert [path.name for path in (case.folder / "models").iterdir()] == ["model.pt"]
    weights = torch.load(case.weights, weights_only=True)
    learned = [value for name, value in weights.items() if name.endswith(("weight", "bias"))]
    assert {value.dtype for value in learned} == {torch.float32}
    parser = ConfigParser()
    parser.read_config(case.file("inference.json"))
    parser["bundle_root"] = str(case.folder)
    parser.get_parsed_content("network_def").load_state_dict(weights, strict=True)


def test_train_handlers_are_plain_dicts_and_data_lists_can_be_replaced(case: Any) -> None:
    """MONAI subscripts each train handler, and other tools put their own list at dataset#data."""
    for name, content in complete(case).items():
        for section in (content[key] for key in ("train", "validate") if key in content):
            assert all(isinstance(h, dict) and "_target_" in h for h in section["handlers"]), name
            assert "data" in section["dataset"], name


def test_expressions_are_few(case: Any) -> None:
    """Configs name things, they do not compute: at most 40 expressions in a file, none longer than a line."""
    for name in case.files:
        found = expressions(case.config(name))
        assert len(found) <= 40, name
        assert max(map(len, found), default=0) <= 120, name


def test_no_personal_path_in_any_config(case: Any) -> None:
    """Absolute paths are only the model zoo's usual /workspace, and parts that follow a folder of the bundle."""
    assert case.config("train.json")["dataset_dir"].startswith("/workspace/data/")
    for name in case.files:
        content = json.dumps(case.config(name))
        assert case.config(name).get("bundle_root", ".") == ".", name
        for path in re.findall(r"(?<![\w.@)])/\w[^\"']*", re.sub(r"@\w+ \+ '[^']*'|https?://[^\"' ]*", "", content)):
            assert path.startswith("/workspace/data/"), f"{name}: {path}"


def test_configs_need_nothing_beside_the_package(case: Any) -> None:
    """No macros, no scripts of the bundle's own; every class is there and every reference leads somewhere."""
    for name, content in complete(case).items():
        parser = ConfigParser(content)
        for text in strings(content):
            assert not text.startswith("%"), f"{name}: {text}"
            for reference in re.findall(r"@(\w+(?:(?:#|::)\w+)*)", text):
                assert reference in parser, f"{name}: {reference}"
        assert "scripts." not in json.dumps(content), name
        assert not (case.folder / "scripts").exists()


def test_no_option_is_without_effect(case: Any) -> None:
    """Every option is referred to by something else in its config."""
    for name, content in complete(case).items():
        for option in options(content):
            rest = json.dumps({key: value for key, value in content.items() if key != option})
            assert re.search(rf"@{option}\b", rest), f"{name}: {option}"


def test_commands_of_the_readme_name_files_and_options_that_exist(case: Any) -> None:
    """MONAI adds unknown options silently, so each must be in one of the files of its command."""
    text = (case.folder / "docs" / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^.*-m monai\.bundle run (.*)$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        known = {key for name in re.findall(r"configs/(\w+\.json)", command) for key in case.config(name)}
        assert set(re.findall(r" --(\w+)", f" {command}")) - {"config_file"} <= known, command


def of_images(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What transforms of image and label do to the image."""
    found = []
    for transform in transforms:
        keys = transform.get("keys", "image")
        if isinstance(keys, list) and "image" in keys:
            place, count = keys.index("image"), len(keys)
            alone = {k: v[place] if isinstance(v, list) and k == "mode" else v for k, v in transform.items()}
            assert count == len(transform.get("mode", keys))
            found.append(alone | {"keys": "image"})
        elif keys == "image":
            found.append(transform)
    return found


def assert_says(training: dict[str, Any], inference: dict[str, Any]) -> None:
    """The same arguments, of which inference may leave some out."""
    assert {key: training[key] for key in inference} == inference


def assert_parts(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    """The same transforms in the same order."""
    assert [transform["_target_"] for transform in theirs] == [transform["_target_"] for transform in ours]
    for training, inference in zip(theirs, ours, strict=True):
        assert_says(training, inference)


def test_training_evaluation_and_inference_share_network_preprocessing_and_windows(case: Any) -> None:
    """Tools read single files, so all say the same: network, what is done to an image, how windows are put together."""
    train, inference = resolved(case, "train.json"), resolved(case, "inference.json")
    evaluation = resolved(case, "train.json", "evaluate.json")
    for content in (train, evaluation):
        assert_says(content["network_def"], inference["network_def"])
        for key in SHARED:
            assert content.get(key) == inference.get(key), key
        assert_parts(
            of_images(content["validate"]["preprocessing"]["transforms"]), inference["preprocessing"]["transforms"]
        )
    if "deterministic_transforms" in train["train"]:
        assert_parts(of_images(train["train"]["deterministic_transforms"]), inference["preprocessing"]["transforms"])
    assert_says(evaluation["validate"]["inferer"], inference["inferer"] | {"amp": evaluation["amp"]})
