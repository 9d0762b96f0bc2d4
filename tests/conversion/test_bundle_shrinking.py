# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle becomes one of its shrunken network that is run, trained on and exported like the first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export
from torch import nn
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.conversion import network_cost, shrink, shrink_bundle

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:monai.bundle")  # MONAI's remark on every configuration

UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": "@classes",
    "channels": [4, 8, 8],
    "strides": [2, 2],
    "num_res_units": 2,
    "norm": "BATCH",
}


def written(folder: Path, configs: dict[str, Any]) -> Path:
    """A bundle with these configurations and weights, and one image."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    for name, content in configs.items():
        (folder / "configs" / name).write_text(json.dumps(content))
    torch.manual_seed(0)
    network = ConfigParser({"classes": 2, "net": UNET}).get_parsed_content("net")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    voxels = np.random.default_rng(0).random((18, 20, 16), np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder.parent / "image.nii.gz")
    return folder


@pytest.fixture
def unet_bundle(tmp_path: Path) -> Path:
    """A bundle as MONAI's are, with a search whose network is another one."""
    preprocessing = {
        "_target_": "Compose",
        "transforms": [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}],
    }
    inference = {"imports": ["$import math"], "bundle_root": ".", "classes": "$math.floor(2.5)", "network_def": UNET}
    train = {
        "bundle_root": ".",
        "classes": 2,
        "max_epochs": 45,
        "lr": 0.5,
        "network_def": UNET,
        "network_def#dropout": 0.0,
    }
    metadata = {"version": "1.0.9", "changelog": {"1.0.9": "first"}, "name": "unet"}
    return written(
        tmp_path / "unet",
        {
            "inference.json": inference | {"preprocessing": preprocessing},
            "train.json": train,
            "search.json": {"network_def": {"_target_": "VNet"}},
            "metadata.json": metadata,
        },
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of all files of a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def network_of(bundle: Path, *configs: str) -> nn.Module:
    """The network that configurations build."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in configs])
    parser["bundle_root"] = str(bundle)
    if "imports" in parser.config:
        parser.get_parsed_content("imports")
    return parser.get_parsed_content("network_def").eval()


def test_the_copy_has_the_shrunken_network(unet_bundle: Path, tmp_path: Path) -> None:
    """Built by inference.json and given its weights, it is what shrink makes; the bundle is unchanged."""
    before = files_of(unet_bundle)
    image = tmp_path / "image.nii.gz"
    report = shrink_bundle(unet_bundle, tmp_path / "small", "12d", [image], (16, 16, 16), samples=100)
    assert files_of(unet_bundle) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.nii.gz", "small", "unet"]
    original = network_of(unet_bundle, "inference.json")
    original.load_state_dict(torch.load(unet_bundle / "models" / "model.pt", weights_only=True))
    volume = torch.from_numpy(np.asarray(nib.load(image).dataobj))[None, None, 1:17, 2:18]
    expected, _ = shrink(original, "12d", [volume], samples=100)
    network = network_of(tmp_path / "small", "inference.json")
    network.load_state_dict(torch.load(tmp_path / "small" / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(network(volume), expected.eval()(volume))
    assert network_cost(network, report.input_shape).params == report.after.params


def test_fine_tuning_starts_from_the_shrunken_weights(unet_bundle: Path, tmp_path: Path) -> None:
    """finetune.json after train.json gives a tenth of the epochs and of the rate, and the network with its weights."""
    shrink_bundle(unet_bundle, tmp_path / "small", "12d", init="slice", input_shape=(1, 1, 16, 16, 16))
    finetune = json.loads((tmp_path / "small" / "configs" / "finetune.json").read_text())
    assert finetune["max_epochs"] == 5
    assert finetune["lr"] == 0.05
    weights = torch.load(tmp_path / "small" / "models" / "model.pt", weights_only=True)
    loaded = network_of(tmp_path / "small", "train.json", "finetune.json")
    torch.testing.assert_close(loaded.state_dict(), weights, rtol=0, atol=0)
    assert network_of(tmp_path / "small", "train.json").state_dict().keys() == weights.keys()
    assert network_of(tmp_path / "small", "search.json").__class__.__name__ == "VNet"


def test_metadata_tells_what_was_done(unet_bundle: Path, tmp_path: Path) -> None:
    """A new version with its change, and where the network came from."""
    options = {"init": "sum", "granularity": 2, "input_shape": (1, 1, 16, 16, 16)}
    report = shrink_bundle(unet_bundle, tmp_path / "small", "2d", **options)
    metadata = json.loads((tmp_path / "small" / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "1.0.10"
    assert list(metadata["changelog"]) == ["1.0.9", "1.0.10"]
    assert f"to {report.after.params:,}" in metadata["changelog"]["1.0.10"]
    origin = metadata["shrunken"]["origin"]
    assert (origin["bundle"], origin["version"], origin["init"], origin["granularity"]) == ("unet", "1.0.9", "sum", 2)
    assert metadata["shrunken"]["after"]["params"] == report.after.params


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_copy_is_exported(unet_bundle: Path, tmp_path: Path) -> None:
    """MONAI's ckpt_export scripts it, and the script gives its results."""
    shrink_bundle(unet_bundle, tmp_path / "small", "12d", init="slice", input_shape=(1, 1, 16, 16, 16))
    small = tmp_path / "small"
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(small / "models" / "model.pt"),
        meta_file=str(small / "configs" / "metadata.json"),
        config_file=[str(small / "configs" / "train.json")],
        bundle_root=str(small),
    )
    network, image = network_of(small, "train.json", "finetune.json"), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image), rtol=1e-4, atol=1e-4)


def test_the_bundle_of_this_repository_is_shrunk(bundle: Path, tmp_path: Path) -> None:
    """Left to shrink are the transitions between levels; all configurations with this network are changed."""
    report = shrink_bundle(bundle, tmp_path / "small", "12d", init="slice", input_shape=(1, 1, 32, 48, 32))
    assert {layer.name.split(".")[0] for layer in report.layers} == {"stem", "cells", "end"}
    assert all("operations" not in layer.name for layer in report.layers)
    for names in (("inference.json",), ("train.json", "finetune.json"), ("train.json", "evaluate.json")):
        network = network_of(tmp_path / "small", *names)
        assert sum(p.numel() for p in network.parameters()) == report.after.params
    assert (tmp_path / "small" / "configs" / "search.json").read_bytes() == (
        bundle / "configs" / "search.json"
    ).read_bytes()


def test_what_a_bundle_lacks_is_said(unet_bundle: Path, tmp_path: Path) -> None:
    """One line with the file or folder, and nothing is left behind."""
    small = tmp_path / "small"
    with pytest.raises(ValueError, match=r"unet: exists already; give a folder that does not\.$"):
        shrink_bundle(unet_bundle, unet_bundle, "12d", init="slice")
    with pytest.raises(ValueError, match=r"none: none of its configurations \(0 in configs/\) has a network_def\.$"):
        shrink_bundle(tmp_path / "none", small, "12d", init="slice")
    with pytest.raises(ValueError, match="init 'project' needs volumes"):
        shrink_bundle(unet_bundle, small, "12d")
    weights = unet_bundle / "models" / "model.pt"
    torch.save({"model": nn.Linear(1, 1).state_dict()}, weights)
    with pytest.raises(
        ValueError, match=r"model\.pt: does not fit the network_def \(Error.* loading state_dict"
    ) as error:
        shrink_bundle(unet_bundle, small, "12d", init="slice")
    assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.pt: no such file; the bundle has no weights to start from"):
        shrink_bundle(unet_bundle, small, "12d", init="slice")
    config = unet_bundle / "configs" / "inference.json"
    config.write_text("{")
    with pytest.raises(ValueError, match=r"inference\.json: is no configuration \("):
        shrink_bundle(unet_bundle, small, "12d", init="slice")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.nii.gz", "unet"]


def test_images_need_the_preprocessing_of_the_bundle(unet_bundle: Path, tmp_path: Path) -> None:
    """Without it the file is named; an image that cannot be read, or has a size the network does not take, likewise."""
    config = unet_bundle / "configs" / "inference.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "preprocessing": content["preprocessing"], "classes": 2}))
    with pytest.raises(ValueError, match=r"UNet does not take an input of 1x1x18x20x16"):
        shrink_bundle(unet_bundle, tmp_path / "small", "12d", [tmp_path / "image.nii.gz"])
    del content["preprocessing"]
    config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"inference\.json: has no preprocessing for images; without them use init"):
        shrink_bundle(unet_bundle, tmp_path / "small", "12d", [tmp_path / "image.nii.gz"])


def test_the_command(unet_bundle: Path, tmp_path: Path) -> None:
    """It prints the report, writes the bundle and refuses with an error of the command line."""
    words = ["shrink", "--bundle", str(unet_bundle), "--output", str(tmp_path / "small"), "--set", "123d"]
    options = [
        "--image",
        str(tmp_path / "image.nii.gz"),
        "--size",
        "16",
        "16",
        "16",
        "--share",
        "0.7",
        "--granularity",
        "2",
    ]
    result = CliRunner().invoke(app, [*words, *options, "--exclude", "*.residual"])
    assert result.exit_code == 0, result.output
    assert "whole network" in result.output
    assert "(excluded)" in result.output
    splits = json.loads((tmp_path / "small" / "configs" / "shrunken.json").read_text())
    assert splits["origin"]["budget"] == {"share": 0.7, "unit": "multiply_adds"}
    assert splits["origin"]["init"] == "project"
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "exists already" in re.sub(r"[│\s]+", " ", again.output)  # as a terminal shows it, in a box
