# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The bundle for videos keeps MONAI's bundle contract."""

from __future__ import annotations

import ast
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
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.architectures import video_architecture
from cakes_video.class_names import read_class_names
from cakes_video.clip_lists import clips_fingerprint, read_clips
from cakes_video.cost import video_cost
from cakes_video.resnet import VideoResNet, saved_class_names

TRAINING = (
    ["train.json"],
    ["train.json", "evaluate.json"],
    ["search.json"],
    ["train.json", "multi_gpu_train.json"],
    ["search.json", "multi_gpu_train.json"],
    ["train.json", "evaluate.json", "multi_gpu_evaluate.json"],
)
CONFIGS = ("train.json", "search.json", "inference.json")
WORKFLOW = {"imports", "bundle_root", "network", "handlers", "initialize", "run", "finalize"}


def config(bundle: Path, name: str) -> Any:
    """The raw content of one config file."""
    return json.loads((bundle / "configs" / name).read_text())


def options(content: dict[str, Any]) -> dict[str, Any]:
    """What a user may choose: neither built from its configuration nor part of the workflow."""
    return {k: v for k, v in content.items() if not isinstance(v, dict) and "#" not in k and k not in WORKFLOW}


@pytest.fixture(scope="module")
def network(video_bundle: Path) -> VideoResNet:
    """The network of the bundle with the shipped weights."""
    architecture = BackboneArchitecture.load(video_bundle / "configs" / "architecture.json")
    classes = read_class_names(video_bundle / "lists" / "digits.txt")
    network = VideoResNet(architecture, classes, config(video_bundle, "train.json")["width"])
    network.load_state_dict(torch.load(video_bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells the only process; afterwards this one is again like any other."""
    told = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield
    idist.finalize()


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("files", TRAINING, ids="+".join)
def test_properties_of_training(video_training: Any, tmp_path: Path, files: list[str]) -> None:
    """MONAI finds every property of a training where it looks for it, also with the overlays for several GPUs."""
    run = video_training(tmp_path)
    workflow = ConfigWorkflow(
        config_file=[str(run.bundle / "configs" / name) for name in files],
        meta_file=str(run.bundle / "configs" / "metadata.json"),
        logging_file=False,
        **run.options | {"weights": str(tmp_path / "model.pt")},
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert dist.is_initialized() == ("multi_gpu" in files[-1])


def test_properties_of_inference(video_bundle: Path, tmp_path: Path) -> None:
    """MONAI finds every property of an inference where it looks for it, on the sample clips."""
    workflow = ConfigWorkflow(
        config_file=str(video_bundle / "configs" / "inference.json"),
        meta_file=str(video_bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(video_bundle),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.filterwarnings("ignore:No hash value provided")
def test_metadata_fits_its_schema(video_bundle: Path, tmp_path: Path) -> None:
    """verify_metadata passes with a local schema, and the changelog has the version."""
    pytest.importorskip("jsonschema")
    schema = shutil.copy(Path(__file__).with_name("meta_schema.json"), tmp_path)
    verify_metadata(str(video_bundle / "configs" / "metadata.json"), filepath=schema)
    metadata = config(video_bundle, "metadata.json")
    assert metadata["version"] in metadata["changelog"]


def test_metadata_describes_the_default_clips_and_classes(video_bundle: Path) -> None:
    """Frames, rows and columns are those of the configs, the channels of the output are the digits in their order."""
    metadata = config(video_bundle, "metadata.json")["network_data_format"]
    names = read_class_names(video_bundle / "lists" / "digits.txt")
    pred = metadata["outputs"]["pred"]
    assert tuple(pred["channel_def"].values()) == names
    assert pred["num_channels"] == len(names)
    for name in CONFIGS:
        content = config(video_bundle, name)
        assert metadata["inputs"]["image"]["spatial_shape"] == [content["num_frames"], content["size"], content["size"]]


def test_network_takes_and_gives_what_metadata_says(video_bundle: Path) -> None:
    """verify_net_in_out passes."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(video_bundle / "configs" / "metadata.json"),
        config_file=str(video_bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(video_bundle),
    )


def test_weights(video_bundle: Path, network: VideoResNet, data_root: Path) -> None:
    """models/ holds only model.pt, under 10 MB, float32, with the digits' names and the fingerprint of their clips."""
    assert [path.name for path in (video_bundle / "models").iterdir()] == ["model.pt"]
    assert (video_bundle / "models" / "model.pt").stat().st_size < 10_000_000
    weights = torch.load(video_bundle / "models" / "model.pt", weights_only=True)
    learned = [value for name, value in weights.items() if name.endswith(("weight", "bias"))]
    assert {value.dtype for value in learned} == {torch.float32}
    assert sum(value.numel() for value in learned) == video_cost(network.architecture, 10, network.width).params
    assert saved_class_names(video_bundle / "models" / "model.pt") == network.class_names
    lists = video_bundle / "lists"
    clips = read_clips(lists / "digits_training.csv", data_root / "video" / "grid" / "clips", lists / "digits.txt")
    assert network.trained_on == clips_fingerprint(clips)


def exported(video_bundle: Path, weights: Path, **options: Any) -> dict[str, Any]:
    """Arguments of MONAI's exporters."""
    return {
        "net_id": "network_def",
        "ckpt_file": str(weights),
        "meta_file": str(video_bundle / "configs" / "metadata.json"),
        "config_file": str(video_bundle / "configs" / "inference.json"),
        "bundle_root": str(video_bundle),
        "weights": str(weights),
        **options,
    }


def test_torchscript_export(video_bundle: Path, network: VideoResNet, tmp_path: Path) -> None:
    """ckpt_export by scripting gives the network's results, for any number of frames."""
    ckpt_export(filepath=str(tmp_path / "model.ts"), **exported(video_bundle, video_bundle / "models" / "model.pt"))
    scripted = torch.jit.load(tmp_path / "model.ts")
    for frames in (8, 5):
        clips = torch.randn(2, 3, frames, 64, 64)
        torch.testing.assert_close(scripted(clips), network(clips), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_export(video_bundle: Path, tmp_path: Path) -> None:
    """onnx_export passes and ONNX Runtime gives the network's logits; a small network, for the exporter is slow."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    architecture = video_architecture("manual-12d", "resnet18", 4)
    architecture.save(tmp_path / "architecture.json")
    network = VideoResNet(architecture, ["left", "right"], 4).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    options = {"architecture": str(tmp_path / "architecture.json"), "width": 4}
    onnx_export(filepath=str(tmp_path / "model.onnx"), **exported(video_bundle, str(tmp_path / "model.pt"), **options))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    clip = torch.randn(1, 3, 8, 64, 64)
    (logits,) = session.run(None, {session.get_inputs()[0].name: clip.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(clip), atol=1e-5, rtol=1e-3)


def test_the_same_option_has_the_same_default_everywhere(video_bundle: Path) -> None:
    """Training, search and inference agree in network, clips and preprocessing wherever they say the same."""
    train, search, inference = (config(video_bundle, name) for name in CONFIGS)
    shared = {"dataset_dir", "batch_size", "num_workers", "amp", "class_names", "max_epochs"}
    for one, other in ((train, search), (train, inference), (search, inference)):
        names = (options(one).keys() & options(other).keys()) - shared
        assert {name: one[name] for name in names} == {name: other[name] for name in names}
    assert train["validate"] == search["validate"]
    validation = [dict(transform) for transform in train["validate"]["preprocessing"]["transforms"]]
    assert validation[0].pop("cache") == "@cache"  # inference reads every clip once
    assert validation == inference["preprocessing"]["transforms"]
    for key in ("preprocessing", "dataset", "dataloader", "inferer", "trainer", "key_metric"):
        assert train["train"][key] == search["train"][key], key
    assert train["network_def"].items() >= inference["network_def"].items()
    for key in ("optimizer", "clips", "initialize", "data", "network"):
        assert train[key] == search[key], key
    assert search["loss"]["loss"] == train["loss"]


@pytest.mark.parametrize("name", CONFIGS)
def test_no_option_is_without_effect(video_bundle: Path, name: str) -> None:
    """Every option is referred to by something else in its config."""
    content = config(video_bundle, name)
    for option in options(content):
        rest = json.dumps({key: value for key, value in content.items() if key != option})
        assert re.search(rf"@{option}\b", rest), option


@pytest.mark.parametrize("name", ["something_something.json", "fight.json"])
def test_overlays_set_options_of_training_and_search(video_bundle: Path, name: str) -> None:
    """MONAI adds unknown options silently, so each must be one of train.json and of search.json."""
    for base in ("train.json", "search.json"):
        assert config(video_bundle, name).keys() <= options(config(video_bundle, base)).keys()


def test_documented_options_exist_with_their_defaults(video_bundle: Path, repository: Path) -> None:
    """Every option in the table of docs/video.md is one of train.json, and numbers, None and False are its default."""
    content = config(video_bundle, "train.json")
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", (repository / "docs" / "video.md").read_text(), re.MULTILINE)
    assert len(rows) > 5
    for names, defaults in rows:
        found = [content[name] for name in re.findall(r"`(\w+)`", names)]
        for value, default in zip(found, defaults.replace("`", "").split(", "), strict=False):
            if re.fullmatch(r"[\d.e-]+|None|False|True", default):
                assert value == ast.literal_eval(default), names


def test_commands_of_the_readme_name_files_and_options_that_exist(video_bundle: Path) -> None:
    """MONAI adds unknown options silently, so each must be in one of the files of its command."""
    text = (video_bundle / "docs" / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^.*-m monai\.bundle run (.*)$", text, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        known = {key for name in re.findall(r"configs/(\w+\.json)", command) for key in config(video_bundle, name)}
        assert set(re.findall(r" --(\w+)", f" {command}")) - {"config_file"} <= known, command


def test_train_handlers_are_plain_dicts_and_data_lists_can_be_replaced(video_bundle: Path) -> None:
    """MONAI subscripts each train handler, and other tools put their own list at dataset#data."""
    for name in ("train.json", "search.json"):
        content = config(video_bundle, name)
        for section in ("train", "validate"):
            assert all(isinstance(handler, dict) for handler in content[section]["handlers"])
            assert "data" in content[section]["dataset"]


def test_no_personal_path_in_any_config(video_bundle: Path) -> None:
    """Absolute paths are only the model zoo's usual /workspace."""
    for path in (video_bundle / "configs").glob("*.json"):
        for word in path.read_text().split('"'):
            assert not word.startswith("/") or word.startswith(("/workspace/", "/model.pt")), f"{path.name}: {word}"
