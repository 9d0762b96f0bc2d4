# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The hippocampus bundle keeps MONAI's bundle contract."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from cakes_monai.architecture import Architecture
from cakes_monai.cost import c2fnas_cost
from cakes_monai.data import check_label_names


def config(bundle: Path, name: str) -> Any:
    """The raw content of one config file."""
    return json.loads((bundle / "configs" / name).read_text())


@pytest.mark.parametrize(
    ("files", "kind"),
    [(["train.json"], "train"), (["train.json", "evaluate.json"], "train"), (["inference.json"], "infer")],
)
def test_properties(bundle: Path, small_task: Path, tmp_path: Path, files: list[str], kind: str) -> None:
    """MONAI finds every property it knows where it looks for it."""
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in files],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        output_dir=str(tmp_path),
        dataset_dir=str(small_task),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.filterwarnings("ignore:No hash value provided")
def test_metadata_fits_its_schema(bundle: Path, tmp_path: Path) -> None:
    """verify_metadata passes with a local schema, and refuses metadata without a version."""
    pytest.importorskip("jsonschema")
    schema = shutil.copy(Path(__file__).with_name("meta_schema.json"), tmp_path)
    verify_metadata(str(bundle / "configs" / "metadata.json"), filepath=schema)
    broken = config(bundle, "metadata.json")
    del broken["version"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="'version' is a required property"):
        verify_metadata(str(tmp_path / "metadata.json"), filepath=schema)


def test_metadata_names_its_version_and_the_label_order(bundle: Path, hippocampus: Path) -> None:
    """The changelog has the version, and the classes are those of the data set, in its order."""
    metadata = config(bundle, "metadata.json")
    assert metadata["version"] in metadata["changelog"]
    classes = list(metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values())
    check_label_names(hippocampus, classes)
    for name in ("train.json", "inference.json"):
        assert ["background", *config(bundle, name)["class_names"]] == classes


def test_network_takes_and_gives_what_metadata_says(bundle: Path) -> None:
    """verify_net_in_out passes."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_exports(bundle: Path, tmp_path: Path) -> None:
    """ckpt_export by scripting gives the network's results; the file needs no project code."""
    files = {
        "net_id": "network_def",
        "ckpt_file": str(bundle / "models" / "model.pt"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": [str(bundle / "configs" / "inference.json")],
        "bundle_root": str(bundle),
    }
    ckpt_export(filepath=str(tmp_path / "model.ts"), **files)
    image = torch.randn(1, 1, 32, 48, 32)
    scripted = torch.jit.load(tmp_path / "model.ts")
    torch.testing.assert_close(scripted(image), trained(bundle)(image), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_export(bundle: Path, tmp_path: Path) -> None:
    """onnx_export passes and ONNX Runtime labels the voxels as torch does."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    onnx_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image = torch.randn(1, 1, 32, 48, 32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    labels = trained(bundle)(image).argmax(1)
    assert (torch.from_numpy(logits).argmax(1) == labels).float().mean() > 0.999


def trained(bundle: Path) -> torch.nn.Module:
    """The network with the shipped weights."""
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
    )
    workflow.initialize()
    network = workflow.network_def
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


def test_weights(bundle: Path) -> None:
    """models/ holds only model.pt (MONAI Label takes the shortest name), under 10 MB, float32, of the architecture."""
    assert [path.name for path in (bundle / "models").iterdir()] == ["model.pt"]
    assert (bundle / "models" / "model.pt").stat().st_size < 10_000_000
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    architecture = Architecture.load(bundle / "configs" / "architecture.json")
    parameters = c2fnas_cost(architecture, 1, 3, config(bundle, "train.json")["init_filters"]).params
    assert sum(weight.numel() for weight in weights.values()) == parameters


def test_training_and_inference_share_network_and_preprocessing(bundle: Path) -> None:
    """MONAI Label reads single files, so both say the same: network, device, patch and what is done to an image."""
    train, inference = config(bundle, "train.json"), config(bundle, "inference.json")
    for key in ("network_def", "network", "architecture", "init_filters", "patch_size", "class_names", "device"):
        assert train[key] == inference[key], key
    of_images = [
        transform | {"keys": "image"} | ({"mode": transform["mode"][0]} if "mode" in transform else {})
        for transform in train["train"]["deterministic_transforms"]
        if transform["_target_"] != "cakes_monai.transforms.CheckLabeld"
    ]
    assert of_images == inference["preprocessing"]["transforms"]


def test_train_handlers_are_plain_dicts_and_data_lists_can_be_replaced(bundle: Path) -> None:
    """MONAI Label subscripts each train handler, and puts its own list at dataset#data."""
    train = config(bundle, "train.json")
    for section in ("train", "validate"):
        assert all(isinstance(handler, dict) for handler in train[section]["handlers"])
        assert "data" in train[section]["dataset"]


def test_no_personal_path_in_any_config(bundle: Path) -> None:
    """Absolute paths are only the model zoo's usual /workspace."""
    for path in (bundle / "configs").glob("*.json"):
        for word in path.read_text().split('"'):
            assert not word.startswith("/") or word.startswith("/workspace/"), f"{path.name}: {word}"
