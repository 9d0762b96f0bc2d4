# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-adds and the paper's FLOPs of a ResNet for clips in closed form, without building it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from cakes_monai.architecture import KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.cost import Cost, LayerCost
from cakes_video.architectures import check_layers
from cakes_video.residual_plan import BlockPlan, block_plans

__all__ = ["PUBLISHED_VIDEO_COSTS", "PublishedVideoCost", "video_cost"]


def video_cost(
    architecture: BackboneArchitecture | Mapping[str, Any],
    num_classes: int = 174,
    width: int = 64,
    size: Sequence[int] = (8, 224, 224),
    in_channels: int = 3,
) -> Cost:
    """
    Cost of :class:`cakes_video.resnet.VideoResNet` for one clip.

    With the default arguments ``paper_flops`` is what CAKES (table 3) prints: multiply-adds, 2 per element of a
    BatchNorm, 1 per element of a ReLU and 1 per input element of a pooling; in networks that mix sub-kernels the
    BatchNorm behind the replaced convolutions is not counted.

    Args:
        architecture: the architecture or its JSON content.
        num_classes: number of classes.
        width: channels of the stem.
        size: frames, rows and columns of a clip.
        in_channels: channels of a frame.

    Raises:
        ValueError: when the architecture is for another width or network.
    """
    architecture = BackboneArchitecture.of(architecture)
    check_layers(architecture, width)
    mixed = any(len(split.counts) > 1 for splits in architecture.layers.values() for split in splits)
    frames, rows, columns = size
    area = (frames, _strided(rows, 2), _strided(columns, 2))
    layers = [_convolution("conv1", 49 * in_channels, width, prod(area), 3)]
    layers.append(LayerCost("maxpool", 0, 0, width * prod(area)))
    area = (frames, _strided(area[1], 2), _strided(area[2], 2))
    for plan in block_plans(architecture.backbone, width):
        before = prod(area)
        area = (frames, _strided(area[1], plan.stride), _strided(area[2], plan.stride))
        layers += _block(plan, architecture.layers, before, prod(area), 1 if mixed else 3)
    features = plan.out_channels
    return Cost(
        (
            *layers,
            LayerCost("avgpool", 0, 0, features * prod(area)),
            LayerCost("fc", (features + 1) * num_classes, features * num_classes * frames, 0),
        )
    )


def _strided(length: int, stride: int) -> int:
    return -(-length // stride)


def _block(
    plan: BlockPlan, layers: Mapping[str, tuple[KernelSplit, ...]], before: int, voxels: int, behind: int
) -> list[LayerCost]:
    """Layers of one block; ``behind`` is what an element behind a replaced convolution counts."""
    costs = []
    channels = plan.in_channels
    if plan.bottleneck:
        costs.append(_convolution(f"{plan.name}.conv1", channels, plan.planes, before, 3))
        channels = plan.planes
    for place in plan.replaced:
        last_of_block = not plan.bottleneck and place == plan.replaced[-1]  # its ReLU is the block's
        for index, split in enumerate(layers[place]):
            last = index == len(layers[place]) - 1
            counted = behind - (1 if last_of_block else 0) if last else 0
            costs.append(_split(place, channels, split, voxels, counted, norm=last))
            channels = split.out_channels
    if plan.bottleneck:
        costs.append(_convolution(f"{plan.name}.conv3", plan.planes, plan.out_channels, voxels, 2))
    if plan.projected:
        costs.append(_convolution(f"{plan.name}.downsample", plan.in_channels, plan.out_channels, voxels, 2))
    return [*costs, LayerCost(f"{plan.name}.relu", 0, 0, plan.out_channels * voxels)]


def _split(name: str, in_channels: int, split: KernelSplit, voxels: int, counted: int, norm: bool) -> LayerCost:
    weights, out_channels = in_channels * split.taps, split.out_channels
    params = weights + (2 * out_channels if norm else 0)
    return LayerCost(name, params, weights * voxels, counted * out_channels * voxels)


def _convolution(name: str, inputs: int, out_channels: int, voxels: int, counted: int) -> LayerCost:
    """Bias-free convolution of ``inputs`` numbers for each output, with its norm."""
    weights = inputs * out_channels
    return LayerCost(name, weights + 2 * out_channels, weights * voxels, counted * out_channels * voxels)


@dataclass(frozen=True)
class PublishedVideoCost:
    """
    A row of the paper's tables (ResNet-50, frames of 224x224, 174 classes).

    Args:
        model: name of the architecture, see :func:`cakes_video.architectures.video_architecture`.
        source: paper, table and row.
        params_m: printed parameters in millions.
        flops_g: printed FLOPs in G, as the paper counts them; for 16 frames the paper doubles the rounded figure of 8.
        frames: frames of a clip.
    """

    model: str
    source: str
    params_m: float
    flops_g: float
    frames: int = 8


PUBLISHED_VIDEO_COSTS = (
    PublishedVideoCost("c2d", "CAKES table 3, C2D", 23.9, 33.0),
    PublishedVideoCost("p3d", "CAKES table 3, P3D", 27.6, 37.9),
    PublishedVideoCost("c3d", "CAKES table 3, C3D", 46.5, 62.6),
    PublishedVideoCost("manual-12d", "CAKES table 3, M 1,2D", 20.1, 28.0),
    PublishedVideoCost("manual-23d", "CAKES table 3, M 2,3D", 35.2, 47.7),
    PublishedVideoCost("performance-12d", "CAKES table 3, P 1,2D", 20.9, 29.1),
    PublishedVideoCost("performance-23d", "CAKES table 3, P 2,3D", 37.5, 50.7),
    PublishedVideoCost("performance-123d", "CAKES table 3, P 1,2,3D", 33.5, 43.9),
    PublishedVideoCost("cost-12d", "CAKES table 3, C 1,2D", 20.5, 29.3),
    PublishedVideoCost("cost-23d", "CAKES table 3, C 2,3D", 35.7, 41.4),
    PublishedVideoCost("cost-123d", "CAKES table 3, C 1,2,3D", 35.0, 38.7),
    PublishedVideoCost("cost-12d", "CAKES table 4, C 1,2D", 20.5, 58.6, 16),
    PublishedVideoCost("performance-23d", "CAKES table 4, P 2,3D", 37.5, 101.4, 16),
    PublishedVideoCost("performance-123d", "CAKES table 4, P 1,2,3D", 33.5, 87.8, 16),
)
