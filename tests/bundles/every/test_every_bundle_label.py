# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle that segments can be used as MONAI Label does it: parts of single configs, its own data, dropout."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import SaveImaged


def parsed(bundle: Any, **options: Any) -> ConfigParser:
    """inference.json as the server reads it: the device is a word."""
    parser = ConfigParser()
    parser.read_config(bundle.file("inference.json"))
    parser.update({"bundle_root": str(bundle.folder), "device": "cpu", **options})
    return parser


def loaded(parser: ConfigParser, bundle: Any) -> torch.nn.Module:
    """The network as the server makes it."""
    network = copy.deepcopy(parser.get_parsed_content("network_def", instantiate=True))
    network.load_state_dict(torch.load(bundle.weights, weights_only=True), strict=False)
    return network


def test_inference(segmenting: Any, small: Any, entry: dict[str, Any], tmp_path: Path) -> None:
    """Transforms one by one, with the path of the image beside it, give the label map of the bundle's own inference."""
    small.run("inference.json", kind="infer", output_dir=str(tmp_path))
    (path,) = tmp_path.glob("*.nii.gz")
    parser = parsed(small)
    data: dict[str, Any] = {"image": entry["images"], "image_path": entry["images"]}
    for transform in parser.get_parsed_content("preprocessing").transforms:
        data = transform(data)
    with torch.no_grad():
        network = loaded(parser, small).eval()
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    for transform in parser.get_parsed_content("postprocessing").transforms:
        data = data if isinstance(transform, SaveImaged) else transform(data)
    expected: Any = nib.load(path)
    assert np.array_equal(np.asarray(data["pred"][0]), np.asarray(expected.dataobj))
    np.testing.assert_allclose(data["pred"].affine, expected.affine, atol=1e-5)
    assert data["image_path"] == entry["images"]


def test_dropout_for_scoring(segmenting: Any, small: Any) -> None:
    """With dropout in network_def the network in training mode differs from run to run, else it is the same one."""
    plain, parser = loaded(parsed(small), small).eval(), parsed(small)
    parser["network_def"]["dropout"] = 0.2
    network = loaded(parser, small).eval()
    channels = small.config("metadata.json")["network_data_format"]["inputs"]["image"]["num_channels"]
    image = torch.randn(1, channels, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image), plain(image))
        network.train()
        assert not torch.equal(network(image), network(image))


def test_settings_of_a_request(segmenting: Any, small: Any) -> None:
    """displayable_configs are options, and what a client puts into them is used."""
    content = small.config("inference.json")
    shown = content["displayable_configs"]
    assert {name: f"@{name}" for name in shown} == shown
    assert shown.keys() <= content.keys()
    parser = parsed(small)
    parser["displayable_configs"]["sw_batch_size"] = 7
    assert parser.get_parsed_content("inferer").inferer.sw_batch_size == 7


@pytest.mark.filterwarnings("ignore:the prediction of class")  # MONAI's remark on a structure that was missed
def test_training_on_the_servers_data(segmenting: Any, small: Any, entry: dict[str, Any], tmp_path: Path) -> None:
    """With its lists in the place of ours, weights loaded first and no data set anywhere, two epochs give a model."""
    bundle, task = small.copy(tmp_path), Path(entry["options"]["dataset_dir"])
    cases = json.loads((task / "dataset.json").read_text())["training"]
    data = [{key: str(task / case[key]) for key in ("image", "label")} for case in cases]
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(bundle.weights),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    before, content = bundle.weights.stat().st_mtime_ns, bundle.config("train.json")
    bundle.run(
        "train.json",
        dataset_dir="/nowhere",
        device="cpu",
        **{
            "train#dataset#data": data[:6],
            "validate#dataset#data": data[6:8],
            "train#handlers": [loader, *content["train"]["handlers"]],
            "train#trainer#max_epochs": 2,
        },
    )
    checkpoint = torch.load(bundle.folder / "eval" / "checkpoint.pt", weights_only=True)
    assert checkpoint["epoch"] == 2
    assert bundle.weights.stat().st_mtime_ns > before
