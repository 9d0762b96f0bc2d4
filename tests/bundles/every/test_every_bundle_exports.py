# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle's exported networks answer as PyTorch does, through the bundle's own preparation and windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export
from monai.data import decollate_batch, load_net_with_metadata
from monai.transforms import SaveImaged
from torch import Tensor

Network = Callable[[Tensor], Tensor]


class Deployed:
    """A bundle with weights: the shipped ones of those that segment, else the small network's."""

    def __init__(self, bundle: Any, images: str) -> None:
        self.bundle, self.images = bundle, images

    @property
    def files(self) -> dict[str, Any]:
        """Arguments of MONAI's exporters."""
        return {
            "net_id": "network_def",
            "ckpt_file": str(self.bundle.weights),
            "meta_file": self.bundle.file("metadata.json"),
            "config_file": self.bundle.file("inference.json"),
            "bundle_root": str(self.bundle.folder),
        }

    def parser(self) -> ConfigParser:
        """The configuration of inference."""
        parser = ConfigParser()
        parser.read_config(self.bundle.file("inference.json"))
        options = {"bundle_root": str(self.bundle.folder), "device": "cpu", "dataset_dir": self.images}
        parser.update(options | ({"engine": "torch"} if "engine" in parser else {}))
        return parser

    def network(self) -> torch.nn.Module:
        """The network as inference runs it."""
        network: torch.nn.Module = self.parser().get_parsed_content("network")
        network.load_state_dict(torch.load(self.bundle.weights, weights_only=True))
        return network.eval()

    def answer(self, network: Network) -> Tensor:
        """Label map of the image, or logits of the views of the clip."""
        parser = self.parser()
        batch = next(iter(parser.get_parsed_content("dataloader")))
        with torch.no_grad():
            batch["pred"] = parser.get_parsed_content("inferer")(batch["image"], network)
        if not self.bundle.segments:
            return torch.as_tensor(batch["pred"])
        (item,) = decollate_batch({key: batch[key] for key in ("image", "pred")})
        for transform in parser.get_parsed_content("postprocessing").transforms:
            item = item if isinstance(transform, SaveImaged) else transform(item)
        return torch.as_tensor(item["pred"])

    def windows(self) -> torch.Size:
        """Shape of what the network gets."""
        shapes, network = [], self.network()
        network.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
        self.answer(network)
        return shapes[0]


@pytest.fixture(scope="session")
def deployed(case: Any, entry: dict[str, Any], request: pytest.FixtureRequest, tmp_path_factory: Any) -> Deployed:
    """The bundle, and a real volume (its middle, of at most 64 voxels along an axis) or what inference gets."""
    shipped = case.segments and case.weights.exists()
    bundle = case if shipped else request.getfixturevalue("small")
    images = entry["images"]
    if case.segments:
        image = nib.load(entry["volume"])
        middle = tuple(slice(max(0, size // 2 - 32), size // 2 + 32) for size in image.shape)
        images = str(tmp_path_factory.mktemp("real") / "volume.nii.gz")
        nib.save(image.slicer[middle], images)
    return Deployed(bundle, images)


def assert_same_answers(ours: Tensor, theirs: Tensor) -> None:
    """Label maps without one voxel that differs; logits up to rounding."""
    if ours.is_floating_point() and not torch.equal(ours, ours.round()):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    else:
        assert len(torch.unique(theirs)) > 1, "nothing was segmented, so nothing was compared"
        assert torch.equal(ours, theirs)


def test_torchscript(deployed: Deployed, tmp_path: Path) -> None:
    """ckpt_export by scripting; the file has the metadata, and takes images of another size too."""
    ckpt_export(filepath=str(tmp_path / "model.ts"), **deployed.files)
    scripted, metadata, _ = load_net_with_metadata(str(tmp_path / "model.ts"))
    network = deployed.network()
    assert metadata["version"] == deployed.bundle.config("metadata.json")["version"]
    assert_same_answers(deployed.answer(scripted), deployed.answer(network))
    batch, channels, depth, *plane = deployed.windows()
    larger = torch.randn(batch, channels, 2 * depth, *plane)
    torch.testing.assert_close(scripted(larger), network(larger), atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx(deployed: Deployed, tmp_path: Path) -> None:
    """onnx_export; ONNX Runtime gives what PyTorch gives."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shape = [1, *deployed.windows()[1:]]
    onnx_export(filepath=str(tmp_path / "model.onnx"), input_shape=shape, **deployed.files)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (taken,) = session.get_inputs()

    def exported(images: Tensor) -> Tensor:
        """The exported network, one image at a time."""
        given = [torch.as_tensor(image)[None].numpy() for image in images]
        return torch.cat([torch.from_numpy(session.run(None, {taken.name: image})[0]) for image in given])

    assert_same_answers(deployed.answer(exported), deployed.answer(deployed.network()))
