# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The network for clips and its super-networks."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.blocks import ConcatenatedPaths, draw_paths, gate_magnitudes, path_operations
from cakes_monai.losses import GateLasso
from cakes_monai.workflows import derive_kernels, kernel_budget
from cakes_video.architectures import video_architecture
from cakes_video.cost import video_cost
from cakes_video.parameter_groups import parameter_groups
from cakes_video.resnet import VideoResNet, VideoResNetSupernet, saved_class_names


def clip(frames: int = 4, size: int = 32) -> Tensor:
    """A batch of two random clips."""
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def randomised(network: nn.Module) -> nn.Module:
    """The network with random gates and statistics."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dim() and ("norm" in name or "bn" in name or "adn" in name):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network


def test_2d_networks_see_every_frame_alone() -> None:
    """The logits of C2D are the mean of the logits of its frames; those of 1,2D are not."""
    for name, alone in (("c2d", True), ("manual-12d", False)):
        network = randomised(VideoResNet(video_architecture(name, "resnet18", 8), 5, 8)).eval()
        nn.init.normal_(network.fc.weight)
        x = clip()
        frames = torch.stack([network(x[:, :, t : t + 1]) for t in range(x.shape[2])]).mean(0)
        assert torch.allclose(network(x), frames, atol=1e-5) == alone


def test_time_is_never_strided() -> None:
    """As many frames leave the last stage as enter, for any number; space shrinks by 32."""
    network = VideoResNet(video_architecture("c3d", "resnet18", 4), 5, 4).eval()
    seen: list[Tensor] = []
    network.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for frames in (1, 3, 16):
        assert network(clip(frames, 64)).shape == (2, 5)
        assert seen[-1].shape == (2, 32, frames, 2, 2)


@pytest.mark.parametrize("sub_kernels", ["12d", "23d", "123d"])
def test_performance_supernet_evaluates_what_it_derives(sub_kernels: str) -> None:
    """In eval the super-network is the derived network with the channels' weights taken over (bottlenecks)."""
    supernet = randomised(VideoResNetSupernet(5, sub_kernels, "performance", width=8)).eval()
    found = derive_kernels(supernet)
    network = VideoResNet(found.architecture, 5, 8).eval()
    state, source = network.state_dict(), supernet.state_dict()
    next_input: dict[str, list[int]] = {}
    for place, kept in found.ranking.layers.items():
        order = [channel for channels in kept.channels.values() for channel in channels]
        kernels = {
            name: source[f"{place}.conv.sub_kernels.{name}.weight"][list(c)] for name, c in kept.channels.items()
        }
        for name, kernel in kernels.items():
            source[f"{place}.convs.0.sub_kernels.{name}.weight"] = kernel
        paths = [supernet.sub_kernels.index(name) for name, channels in kept.channels.items() for _ in channels]
        for key in ("weight", "bias", "running_mean", "running_var"):
            source[f"{place}.adn.N.{key}"] = source[f"{place}.norm.norm.{key}"][paths, order]
        next_input[place] = order
    for place, order in next_input.items():
        following = place.replace("conv2", "conv3") + ".weight"
        source[following] = source[following][:, order]
    network.load_state_dict({key: source.get(key, value) for key, value in state.items()})
    torch.testing.assert_close(network(clip()), supernet(clip()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_searching_trains_every_gate_and_weight(backbone: str, priority: str) -> None:
    """After one step with the penalty each gate has a gradient, and the found network has the cost it is said to."""
    supernet = VideoResNetSupernet(5, "123d", priority, backbone, 8)
    if priority == "performance":
        draw_paths(supernet, 0, 1)
    loss = GateLasso(nn.CrossEntropyLoss(), supernet, 1e-2)
    loss(supernet.train()(clip()), torch.tensor([0, 3])).backward()
    for operation in path_operations(supernet).values():
        norm = operation.norm.norm if priority == "performance" else operation.adn.N
        assert (norm.weight.grad != 0).all()
    assert all(parameter.grad is not None for parameter in supernet.parameters())

    budget = kernel_budget(supernet, 1e12, "paper_flops", (4, 32, 32))
    found = derive_kernels(randomised(supernet), budget=budget)
    assert found.ranking.cost == video_cost(found.architecture, 5, 8, (4, 32, 32)).paper_flops
    assert VideoResNet(found.architecture, 5, 8)(clip()).shape == (2, 5)


def test_cost_supernet_of_basic_blocks_starts_as_the_mean_of_its_paths() -> None:
    """ResNet-18 has no 1x1x1 convolution behind its paths; the one added gives their mean."""
    supernet = VideoResNetSupernet(5, "12d", "cost", "resnet18", 4).eval()
    block = supernet.layer1[0]
    x = torch.randn(1, 4, 3, 8, 8)
    paths = ConcatenatedPaths.forward(block.conv1, x)
    torch.testing.assert_close(block.conv1(x), paths.view(1, 2, 4, 3, 8, 8).mean(1))


def test_architecture_json(tmp_path: Path) -> None:
    """Written and read back it is the same, also P3D with two convolutions in a place."""
    for name in ("p3d", "performance-123d"):
        architecture = video_architecture(name)
        architecture.save(tmp_path / "architecture.json")
        assert BackboneArchitecture.load(tmp_path / "architecture.json") == architecture
    content = json.loads((tmp_path / "architecture.json").read_text())
    assert content["layers"]["layer1.1.conv2"] == [{"3x3x3": 24, "1x3x3": 40}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "format 2 is unknown, allowed is 1"),
        (lambda c: c.update(backbone="resnet19"), "unknown backbone 'resnet19', allowed are resnet18, resnet34"),
        (
            lambda c: c["layers"].pop("layer1.0.conv2"),
            r"layers\['layer1.0.conv2'\] is missing; resnet50",
        ),
        (lambda c: c["layers"].update(fc=[{"3x3x3": 4}]), r"layers\['fc'\] is no replaced convolution"),
        (lambda c: c["layers"].update({"layer1.0.conv2": []}), r"layers\['layer1.0.conv2'\] has no split"),
        (lambda c: c["layers"].update({"layer1.0.conv2": {"3x3x3": 8}}), "must be a list of splits"),
        (lambda c: c["layers"].update({"layer1.0.conv2": [{"3x3": 8}]}), r"\[0\]: unknown sub-kernel '3x3'"),
        (lambda c: c["layers"].update({"layer1.0.conv2": [{"3x3x3": 9}]}), "give 9 channels, the convolution has 8"),
    ],
)
def test_illegal_architectures_are_refused(change, message: str) -> None:
    """One line says where and what."""
    content = copy.deepcopy(video_architecture("manual-12d", width=8).to_json())
    change(content)
    with pytest.raises(ValueError, match=message):
        VideoResNet(content, 5, 8)


def test_weights_of_another_split_are_refused() -> None:
    """Also when loading is not strict, which would leave random weights."""
    network = VideoResNet(video_architecture("manual-12d", "resnet18", 8), 5, 8)
    other = VideoResNet(video_architecture("manual-123d", "resnet18", 8), 5, 8)
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.convs\.0: the weights are for sub-kernels"):
        network.load_state_dict(other.state_dict(), strict=False)


def test_illegal_settings_are_refused() -> None:
    """Sets, priorities, backbones, classes and widths."""
    with pytest.raises(ValueError, match="unknown set '4d', allowed are 1d, 2d, 3d, 12d, 23d, 123d or a list"):
        VideoResNetSupernet(5, "4d")
    with pytest.raises(ValueError, match="unknown priority 'speed', allowed are performance, cost"):
        VideoResNetSupernet(5, priority="speed")
    with pytest.raises(ValueError, match="unknown backbone 'vgg'"):
        VideoResNetSupernet(5, backbone="vgg")
    with pytest.raises(ValueError, match="num_classes 0 must be at least 1"):
        VideoResNetSupernet(0)
    with pytest.raises(ValueError, match="width 0 must be at least 1"):
        VideoResNetSupernet(5, width=0)


def test_gates_are_named_by_their_places() -> None:
    """The names of a bottleneck's paths are those of the architecture."""
    assert list(gate_magnitudes(VideoResNetSupernet(5, width=4))) == list(video_architecture("c2d", width=4).layers)


def test_classes_travel_with_the_weights(tmp_path: Path) -> None:
    """Another order is matched by name, some of the classes are picked; others are refused; names can be read."""
    architecture = video_architecture("c2d", "resnet18", 4)
    trained = randomised(VideoResNet(architecture, ["jump", "run", "sit"], 4)).eval()
    nn.init.normal_(trained.fc.weight)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert saved_class_names(tmp_path / "model.pt") == ("jump", "run", "sit")

    x = clip(2)
    for names, order in ((["sit", "jump", "run"], [2, 0, 1]), (["run", "sit"], [1, 2])):
        network = VideoResNet(architecture, names, 4).eval()
        network.load_state_dict(weights)
        torch.testing.assert_close(network(x), trained(x)[:, order])
    unnamed = VideoResNet(architecture, 3, 4).eval()
    unnamed.load_state_dict(weights)
    torch.testing.assert_close(unnamed(x), trained(x))

    with pytest.raises(ValueError, match="1 of the 3 classes of the data are unknown to the checkpoint: 'walk'"):
        VideoResNet(architecture, ["jump", "walk", "sit"], 4).load_state_dict(weights)
    with pytest.raises(ValueError, match=r"nothing\.pt: no such file"):
        saved_class_names(tmp_path / "nothing.pt")
    torch.save(unnamed.state_dict(), tmp_path / "unnamed.pt")
    with pytest.raises(ValueError, match="saved without class names"):
        saved_class_names(tmp_path / "unnamed.pt")


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_both_kinds_of_blocks_can_be_scripted(backbone: str) -> None:
    """TorchScript gives the same logits for networks of two and of three convolutions in a block."""
    network = randomised(VideoResNet(video_architecture("manual-12d", backbone, 4), 3, 4)).eval()
    nn.init.normal_(network.fc.weight)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(clip(2)), network(clip(2)))


def test_states_have_one_shape_before_and_after_a_training() -> None:
    """Federations compare states tensor by tensor, so a fingerprint of the data changes no shape."""
    network = VideoResNet(video_architecture("c2d", "resnet18", 4), ["left", "right"], 4)
    before = network.state_dict()["_extra_state"]
    network.trained_on = "0123456789ab"
    after = network.state_dict()["_extra_state"]
    assert before.shape == after.shape
    network.load_state_dict(network.state_dict() | {"_extra_state": before})
    assert network.trained_on == ""


def test_the_optimizer_treats_biases_and_norms_apart() -> None:
    """All parameters once: weights decay, biases learn twice as fast, neither they nor norms decay."""
    network = VideoResNetSupernet(5, "12d", "cost", "resnet50", 4)
    weights, biases, norms = parameter_groups(network, 1e-3)
    assert (weights["weight_decay"], biases["weight_decay"], norms["weight_decay"]) == (1e-3, 0, 0)
    assert (weights.get("lr_scale"), biases["lr_scale"], norms.get("lr_scale")) == (None, 2, None)
    assert [tuple(bias.shape) for bias in biases["params"]] == [(5,)]
    assert all(parameter.dim() > 1 for parameter in weights["params"])
    assert all(parameter.dim() == 1 for parameter in norms["params"])
    everything = [id(p) for group in (weights, biases, norms) for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in network.parameters())
    paths = VideoResNetSupernet(5, "12d", "performance", "resnet50", 4)
    assert any(p.shape == (2, 4) for p in parameter_groups(paths)[-1]["params"])  # gates are scales of norms
