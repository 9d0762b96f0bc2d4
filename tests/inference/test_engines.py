# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Engines compute what the network computes, and say in one line what they lack."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer, SlidingWindowInferer
from monai.metrics import compute_dice
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from cakes_monai.inference import ENGINES, AutocastInferer, EngineInferer, has_fast_bfloat16
from cakes_monai.inference.engines import build_checked, check_engine
from cakes_monai.nets import ResDSN
from cakes_video.architectures import video_architecture
from cakes_video.resnet import VideoResNet

INSTALLED = [name for name in ("openvino", "onnxruntime") if ENGINES[name].missing("cpu") is None]


@pytest.fixture(scope="module")
def config(bundle: Path) -> ConfigParser:
    """The hippocampus bundle's inference for the NIfTI volume that ships with it."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    parser["device"] = "cpu"
    parser["dataset_dir"] = str(bundle / "sample_data" / "hippocampus_003.nii.gz")
    return parser


@pytest.fixture(scope="module")
def volume(config: ConfigParser) -> Tensor:
    """The volume, preprocessed."""
    return config.get_parsed_content("dataset")[0]["image"][None].as_tensor()


@pytest.fixture(scope="module")
def trained(config: ConfigParser, bundle: Path) -> nn.Module:
    """The network with the weights that ship with it."""
    network = config.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network


@pytest.fixture(scope="module")
def window() -> Inferer:
    """The sliding window, with less overlap than the bundle's: 4 windows, of which batches of 3 leave one."""
    return SlidingWindowInferer((32, 48, 32), 3, overlap=(0.5, 0.0, 0.5), mode="gaussian")


@pytest.fixture(scope="module")
def reference(trained: nn.Module, volume: Tensor, window: Inferer) -> Tensor:
    """Labels of the eager network in float32."""
    with torch.inference_mode():
        return labels(AutocastInferer(window, amp=False)(volume, trained))


def labels(logits: Tensor) -> Tensor:
    """One-hot label map of anterior and posterior hippocampus."""
    return torch.stack([logits.argmax(1) == label for label in (1, 2)], 1)


@pytest.mark.parametrize(
    ("name", "amp"),
    [(name, amp) for name in INSTALLED for amp in (False, True) if (name, amp) != ("onnxruntime", True)],  # the same
)
def test_labels_of_a_real_volume(
    name: str,
    amp: bool,
    trained: nn.Module,
    volume: Tensor,
    window: Inferer,
    reference: Tensor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Trained weights give labels with Dice 0.999 in float32, 0.995 in bfloat16; the last batch is a smaller one."""
    if amp and not has_fast_bfloat16("cpu"):
        pytest.skip("this CPU has no bfloat16")
    with caplog.at_level(logging.INFO):
        found = labels(EngineInferer(window, name, amp)(volume, trained))
    assert f"{name} runs it" in caplog.text, "the engine was rejected"
    assert len(caplog.messages) == 1, "libraries told of the build"
    assert compute_dice(found, reference).min() >= (0.995 if amp else 0.999)


def small_networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Other networks and the size of their input."""
    return {
        "ResDSN": (ResDSN(1, 2, init_filters=4), (1, 1, 16, 16, 16)),
        "DynUNet": (
            DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8], norm_name=("INSTANCE", {"affine": True})),
            (1, 1, 16, 24, 16),
        ),
        "VideoResNet": (
            VideoResNet(video_architecture("manual-12d", "resnet18", 4), num_classes=5, width=4),
            (1, 3, 4, 32, 32),
        ),
    }


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("network", ["ResDSN", "DynUNet", "VideoResNet"])
def test_other_networks(name: str, network: str) -> None:
    """Logits of networks with other layers are within 1e-4 of the largest; the given network stays as it was."""
    torch.manual_seed(0)
    module, size = small_networks()[network]
    module.eval()
    before = [parameter.requires_grad for parameter in module.parameters()]
    run = build_checked(ENGINES[name], module, torch.randn(size), torch.float32)
    x = torch.randn(size)
    with torch.inference_mode():
        logits = module(x)
    assert (run(x) - logits).abs().max() < 1e-4 * logits.abs().max()
    assert [parameter.requires_grad for parameter in module.parameters()] == before


#: Uses an engine, lets go of it in another thread, and handles a signal as DataLoader does when a worker ends.
WAIT_FOR_A_SIGNAL = """
import signal, sys, threading, torch
from cakes_monai.inference import ENGINES

network, x = torch.nn.Conv3d(1, 4, 3, padding=1).eval(), torch.randn(1, 1, 8, 8, 8)
runs = [ENGINES[sys.argv[1]].build(network, x, torch.float32)]
runs[0](x)
thread = threading.Thread(target=runs.clear)
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: sys.exit(3))
signal.raise_signal(signal.SIGCHLD)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("name", INSTALLED)
def test_signals_after_an_engine(name: str) -> None:
    """Signals reach their handlers when an engine was let go of, in whichever thread."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WAIT_FOR_A_SIGNAL, name], capture_output=True)
    assert done.returncode == 3, done.stderr


@pytest.mark.skipif(ENGINES["compile"].missing("cpu") is not None, reason="there is no C++ compiler")
def test_compiled() -> None:
    """torch.compile computes the same."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.ReLU()).eval()
    x = torch.randn(1, 1, 8, 8, 8)
    run = build_checked(ENGINES["compile"], network, x, torch.float32)
    torch.testing.assert_close(run(2 * x), network(2 * x).detach(), atol=1e-5, rtol=1e-4)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the engine, and what to install or why it cannot run on the device."""
    assert ENGINES["torch"].missing("cpu") is None
    if find_spec("torch_tensorrt") is None:
        line = "engine tensorrt: torch_tensorrt is not installed: pip install torch-tensorrt"
        assert ENGINES["tensorrt"].missing() == line
    monkeypatch.setattr(ENGINES["tensorrt"], "modules", ())
    assert ENGINES["tensorrt"].missing("cpu") == "engine tensorrt: runs on NVIDIA GPUs, not on cpu"
    monkeypatch.setattr(ENGINES["openvino"], "modules", ("not_openvino",))
    line = "engine openvino: not_openvino is not installed: pip install cakes-monai[openvino]"
    assert ENGINES["openvino"].missing("cpu") == line
    with pytest.raises(ValueError, match=r"^engine openvino: .*pip install cakes-monai\[openvino\]\.$"):
        EngineInferer(engine="openvino")
    monkeypatch.setattr(ENGINES["openvino"], "modules", ())
    assert ENGINES["openvino"].missing("cuda:1") == "engine openvino: runs on CPUs, not on cuda:1"
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler (g++, clang++, cl or CXX)" in str(ENGINES["compile"].missing("cpu"))


def test_onnxruntime_without_gpu_support() -> None:
    """It says what to install for GPUs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is for GPUs")
    assert "no CUDAExecutionProvider; for GPUs: pip install onnxruntime-gpu" in str(
        ENGINES["onnxruntime"].missing("cuda")
    )


def test_unknown_engine() -> None:
    """The error lists those that exist."""
    with pytest.raises(ValueError, match=r"^unknown engine 'fast', allowed are auto, torch, openvino, .*tensorrt\.$"):
        check_engine("fast")
