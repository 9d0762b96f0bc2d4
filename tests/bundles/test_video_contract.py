# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the bundle for videos says of itself beyond the contract of every bundle: clips, classes, options."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.class_names import read_class_names
from cakes_video.clip_lists import clips_fingerprint, read_clips
from cakes_video.cost import video_cost
from cakes_video.resnet import VideoResNet, saved_class_names

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


def test_weights(video_bundle: Path, network: VideoResNet, data_root: Path) -> None:
    """They have the parameters of the closed form, the digits' names and the fingerprint of their clips."""
    weights = torch.load(video_bundle / "models" / "model.pt", weights_only=True)
    learned = [value for name, value in weights.items() if name.endswith(("weight", "bias"))]
    assert sum(value.numel() for value in learned) == video_cost(network.architecture, 10, network.width).params
    assert saved_class_names(video_bundle / "models" / "model.pt") == network.class_names
    lists = video_bundle / "lists"
    clips = read_clips(lists / "digits_training.csv", data_root / "video" / "grid" / "clips", lists / "digits.txt")
    assert network.trained_on == clips_fingerprint(clips)


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


@pytest.mark.parametrize("name", ["something_something.json", "fight.json"])
def test_overlays_set_options_of_training_and_search(video_bundle: Path, name: str) -> None:
    """MONAI adds unknown options silently, so each must be theirs, or be used by the overlay itself."""
    content = config(video_bundle, name)
    own = set(re.findall(r"@(\w+)", json.dumps(content)))
    for base in ("train.json", "search.json"):
        assert content.keys() - own <= options(config(video_bundle, base)).keys()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train.json", "train#preprocessing"),
        ("train.json", "validate#preprocessing"),
        ("search.json", "train#preprocessing"),
        ("search.json", "validate#preprocessing"),
        ("inference.json", "preprocessing"),
    ],
)
def test_differences_of_frames(video_bundle: Path, name: str, key: str) -> None:
    """``differences`` gives as many differences as there were frames: those of a sample with one frame more."""

    def clip(**options: Any) -> torch.Tensor:
        parser = ConfigParser(
            {**config(video_bundle, name), "bundle_root": str(video_bundle), "flip_prob": 0, **options}
        )
        transform = parser.get_parsed_content(key).set_random_state(0)
        data = transform({"video": str(video_bundle / "sample_data" / "bbbs6p.mpg"), "label": 6, "name": "six"})
        image = (data[0] if isinstance(data, list) else data)["image"]
        assert isinstance(image, torch.Tensor)
        return image

    differences = clip(differences=True)
    assert differences.shape == (3, 8, 64, 64)
    assert torch.equal(differences, clip(num_frames=9).diff(dim=1))


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
