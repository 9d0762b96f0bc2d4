# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with the layout of the authors' code give the same logits here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cakes_video.architectures import video_architecture
from cakes_video.authors_checkpoint import convert_authors_checkpoint, load_authors_checkpoint
from cakes_video.resnet import VideoResNet

PADDING = {3: 1, 1: 0}


class Parallel(nn.Module):
    """The replaced convolution of the authors' final networks: parallel convolutions by position, then one norm."""

    def __init__(self, channels: int, kernels: Sequence[tuple[str, int]], stride: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(convolution(channels, count, name, stride)) for name, count in kernels if count
        )
        self.out = nn.Sequential(nn.BatchNorm3d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([conv(x) for conv in self.convs], 1))


class InARow(nn.Module):
    """The same of C2D, C3D and P3D."""

    def __init__(self, channels: int, kernels: Sequence[tuple[str, int]], stride: int) -> None:
        super().__init__()
        convs = [convolution(channels, channels, name, 1 if i else stride) for i, (name, _) in enumerate(kernels)]
        self.op = nn.Sequential(*convs, nn.BatchNorm3d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def convolution(in_channels: int, out_channels: int, name: str, stride: int) -> nn.Conv3d:
    """A convolution of a sub-kernel."""
    size = tuple(int(taps) for taps in name.split("x"))
    padding = tuple(PADDING[taps] for taps in size)
    return nn.Conv3d(in_channels, out_channels, size, (1, stride, stride), padding, bias=False)


class Block(nn.Module):
    """Their bottleneck."""

    def __init__(self, inputs: int, planes: int, stride: int, replaced: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(inputs, planes, 1, bias=False), nn.BatchNorm3d(planes)
        self.convT = replaced
        self.conv3, self.bn3 = nn.Conv3d(planes, 4 * planes, 1, bias=False), nn.BatchNorm3d(4 * planes)
        self.downsample = None
        if stride > 1 or inputs != 4 * planes:
            projection = nn.Conv3d(inputs, 4 * planes, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv3(self.convT(self.bn1(self.conv1(x)).relu())))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class BaseModel(nn.Module):
    """Their ResNet-50, whose last layer is a dropout."""

    def __init__(self, name: str) -> None:
        super().__init__()
        layers = video_architecture(name).layers
        self.conv1, self.bn1 = nn.Conv3d(3, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), nn.BatchNorm3d(64)
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            planes, blocks = 64 * 2**stage, []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                splits = layers[f"layer{stage + 1}.{index}.conv2"]
                kernels = [pair for split in splits for pair in split.counts]
                kind = InARow if name in ("c2d", "c3d", "p3d") else Parallel
                blocks.append(Block(inputs, planes, stride, kind(planes, kernels, stride)))
                inputs = 4 * planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool3d(self.bn1(self.conv1(x)).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((3, 4)).transpose(1, 2)


class TemporalModel(nn.Module):
    """Their network around it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.base_model, self.new_fc = BaseModel(name), nn.Linear(2048, 174)

    def forward(self, x: Tensor) -> Tensor:
        return self.new_fc(self.base_model(x)).mean(1)


def checkpoint(name: str, folder: Path) -> tuple[Path, nn.Module]:
    """A file as their main.py writes it, and the network it is of."""
    torch.manual_seed(0)
    network = TemporalModel(name).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.2, 0.6)
    path = folder / f"8frame_{name}.tar"
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 70, "arch": "resnet50", "state_dict": state, "best_prec1": torch.tensor(47.2)}, path)
    return path, network


@pytest.mark.parametrize("name", ["performance-123d", "cost-123d", "p3d", "c3d"])
def test_logits_are_identical(name: str, tmp_path: Path) -> None:
    """A performance-123d checkpoint has sub-kernels without channels, p3d two convolutions in a row."""
    path, theirs = checkpoint(name, tmp_path)
    architecture, state = load_authors_checkpoint(path)
    assert architecture.layers == video_architecture(name).layers
    ours = VideoResNet(architecture, 174).eval()
    ours.load_state_dict(state)
    clip = torch.rand(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip), rtol=1e-5, atol=1e-6)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """No checkpoint, another network's, a super-network's."""
    (tmp_path / "a.tar").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.tar: cannot be read as a checkpoint"):
        load_authors_checkpoint(tmp_path / "a.tar")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "b.tar")
    with pytest.raises(ValueError, match=r"b\.tar: has no 'new_fc\.weight'; it is no checkpoint of the CAKES authors"):
        load_authors_checkpoint(tmp_path / "b.tar")
    state = {"module.new_fc.weight": torch.zeros(1), "module.new_fc.bias": torch.zeros(1)}
    state["module.base_model.layer1.0.convT.norm.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"layer1\.0\.convT\.norm\.weight' is not understood"):
        convert_authors_checkpoint(state)
