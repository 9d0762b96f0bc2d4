# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks for clips start from weights for images and compute the same where they must."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cakes_video.architectures import video_architecture
from cakes_video.inflation import inflate, inflated_kernel, load_image_weights
from cakes_video.residual_block import ResidualBlock
from cakes_video.residual_plan import BlockPlan
from cakes_video.resnet import VideoResNet, VideoResNetSupernet

BLOCKS = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet50": (Bottleneck, [3, 4, 6, 3])}


def image_network(backbone: str) -> ResNet:
    """Torchvision's ResNet with random weights and statistics, kept near the scale that training gives."""
    block, depths = BLOCKS[backbone]
    torch.manual_seed(0)
    network = ResNet(block, depths, num_classes=5).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 0.6)
                module.bias.uniform_(-0.1, 0.1)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network


def still(frames: int) -> tuple[Tensor, Tensor]:
    """A random picture, and the clip that repeats it."""
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return picture, picture[:, :, None].expand(-1, -1, frames, -1, -1)


def features(network: nn.Module, x: Tensor) -> Tensor:
    """Output of the last stage."""
    seen: list[Tensor] = []
    hook = network.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(x)
    hook.remove()
    return seen[0]


def test_2d_is_the_image_network() -> None:
    """C2D gives a still clip the logits of the picture, the last layer included."""
    source = image_network("resnet50")
    network = VideoResNet(video_architecture("c2d"), 5).eval()
    assert inflate(network, source.state_dict()) == []
    picture, clip = still(2)
    with torch.no_grad():
        torch.testing.assert_close(network(clip), source(picture), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "name", "time_rule"),
    [
        ("resnet50", "c3d", "mean"),
        ("resnet18", "c3d", "mean"),
        ("resnet50", "p3d", "mean"),
        ("resnet50", "manual-23d", "mean"),
        ("resnet50", "performance-23d", "sum"),
    ],
)
def test_a_still_clip_is_the_picture_away_from_its_ends(backbone: str, name: str, time_rule: str) -> None:
    """Each replaced convolution lets the zeros beyond the ends reach one frame further; the middle is untouched."""
    source = image_network(backbone)
    architecture = video_architecture(name, backbone)
    network = VideoResNet(architecture, 5).eval()
    inflate(network, source.state_dict(), time_rule)
    frames = 2 * len(architecture.layers) + 1
    picture, clip = still(frames)
    with torch.no_grad():
        expected, found = features(source, picture), features(network, clip)
    torch.testing.assert_close(found[:, :, frames // 2], expected, atol=1e-4, rtol=1e-3)
    if name != "p3d":  # whose second convolution starts as the identity and looks at one frame only
        assert not torch.allclose(found[:, :, 0], expected, atol=1e-2)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_super_networks_start_as_the_image_network(backbone: str, priority: str) -> None:
    """With candidates 3D and 2D every path of every channel computes the picture's, so does the mean of all."""
    source = image_network(backbone)
    network = VideoResNetSupernet(5, "23d", priority, backbone).eval()
    inflate(network, source.state_dict())
    frames = 2 * (8 if backbone == "resnet18" else 16) * (1 if priority == "cost" or backbone == "resnet50" else 2) + 1
    picture, clip = still(min(frames, 33))
    with torch.no_grad():
        found = features(network, clip)[:, :, min(frames, 33) // 2]
        torch.testing.assert_close(found, features(source, picture), atol=1e-4, rtol=1e-3)


def test_kernels_by_hand() -> None:
    """A kernel of nine ones: 3D a third everywhere, 1D its mean 1 (paper) or its sum 9 over 3 (authors' code)."""
    ones = torch.ones(1, 1, 3, 3)
    assert inflated_kernel(ones, "3x3x3").flatten().tolist() == pytest.approx([1 / 3] * 27)
    assert inflated_kernel(ones, "1x3x3").flatten().tolist() == [1] * 9
    assert inflated_kernel(ones, "3x1x1", "mean").flatten().tolist() == [1, 1, 1]
    assert inflated_kernel(ones, "3x1x1", "sum").flatten().tolist() == [3, 3, 3]


def test_channels_are_cut_by_position() -> None:
    """Of 512 rows the first 257 are those of 3D, then 91 of 2D, then 164 of 1D, each kernel its own row's."""
    source = image_network("resnet50")
    network = VideoResNet(video_architecture("performance-123d"), 174)
    assert inflate(network, source.state_dict()) == ["fc"]
    rows = source.state_dict()["layer4.0.conv2.weight"]
    parts = network.layer4[0].conv2.convs[0].sub_kernels
    torch.testing.assert_close(parts["3x3x3"].weight.sum(2), rows[:257])
    torch.testing.assert_close(parts["1x3x3"].weight[:, :, 0], rows[257:348])
    torch.testing.assert_close(parts["3x1x1"].weight[:, :, 1, 0, 0], rows[348:].mean((2, 3)))
    bias = network.layer4[0].conv2.adn.N.running_mean
    torch.testing.assert_close(bias, source.state_dict()["layer4.0.bn2.running_mean"])


@pytest.mark.parametrize("depth", [20, 56])
def test_real_weights_of_cifar(data_root: Path, depth: int) -> None:
    """The residual blocks of the real ResNet-20 and -56: a still clip through inflated C3D blocks is the picture."""
    path = next((data_root / "weights_2d").glob(f"resnet{depth}-*.th"))
    weights = load_image_weights(path)
    torch.manual_seed(0)
    for stage, channels in enumerate((16, 32, 64), 1):
        blocks = [name for name in (f"layer{stage}.{i}" for i in range(1, 3)) if f"{name}.conv1.weight" in weights]
        picture = torch.rand(1, channels, 8, 8)
        for name in blocks:  # the others change the shape in CIFAR's own way
            network = nn.ModuleDict({f"layer{stage}": nn.ModuleDict({name[-1]: c3d_block(name, channels)})}).eval()
            inflate(network, weights)
            clip = picture[:, :, None].expand(-1, -1, 5, -1, -1)
            expected = picture_block(weights, name, picture)
            found = network[f"layer{stage}"][name[-1]](clip)
            torch.testing.assert_close(found[:, :, 2], expected, atol=1e-4, rtol=1e-4)
            picture = expected


def c3d_block(name: str, channels: int) -> nn.Module:
    """A basic block of 3x3x3 convolutions."""
    from cakes_monai.architecture import KernelSplit
    from cakes_monai.blocks import SubKernelOperation

    def make(place, in_channels, out_channels, stride, act):
        return SubKernelOperation(in_channels, [KernelSplit.of({"3x3x3": out_channels})], "BATCH", act, stride)

    return ResidualBlock(BlockPlan(name, channels, channels, 1, False), make, "BATCH")


def picture_block(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The same block for a picture, written out."""
    y = x
    for number in (1, 2):
        y = F.conv2d(y, weights[f"{name}.conv{number}.weight"], padding=1)
        norm = [weights[f"{name}.bn{number}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        y = F.batch_norm(y, *norm)
        y = y.relu() if number == 1 else (y + x).relu()
    return y


def test_unfit_weights_are_refused(tmp_path: Path) -> None:
    """Missing or of another shape: the name is said; an unknown rule, a file without weights, weights by name too."""
    source = image_network("resnet18").state_dict()
    network = VideoResNet(video_architecture("c3d", "resnet18", 32), 5, 32)
    with pytest.raises(ValueError, match=r"conv1\.weight: the weights give 64x3x1x7x7, the network has 32x3x1x7x7"):
        inflate(network, source)
    network = VideoResNet(video_architecture("c3d", "resnet18"), 5)
    with pytest.raises(ValueError, match=r"the weights have no 'layer1\.0\.conv2\.weight'"):
        inflate(network, {name: value for name, value in source.items() if name != "layer1.0.conv2.weight"})
    with pytest.raises(ValueError, match="unknown rule 'median', allowed are mean, sum"):
        inflate(network, source, "median")
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights\.pt: cannot be read as weights"):
        load_image_weights(tmp_path / "weights.pt")
    torch.save({"epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="has no state dict"):
        load_image_weights(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"torchvision has no weights 'ResNet51_Weights\.DEFAULT'"):
        load_image_weights("ResNet51_Weights.DEFAULT")
    assert resnet.ResNet50_Weights.IMAGENET1K_V1.name == "IMAGENET1K_V1"  # the name that the docs give
