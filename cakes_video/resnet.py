# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""ResNets for clips from CAKES convolutions, and their super-networks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from cakes_monai.architecture import KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.blocks import ConcatenatedPaths, SubKernelOperation, SummedPaths, candidate_paths
from cakes_monai.blocks.transition import Factory
from cakes_monai.cost import Cost
from cakes_video.architectures import check_layers
from cakes_video.class_names import check_class_names, class_order
from cakes_video.cost import video_cost
from cakes_video.residual_block import ReplacedConvolution, ResidualBlock
from cakes_video.residual_plan import block_plans, video_sub_kernels

__all__ = ["VideoBackbone", "VideoResNet", "VideoResNetSupernet", "saved_class_names"]

FINGERPRINT_DIGITS = 12  # of clips_fingerprint


class VideoBackbone(nn.Module):
    """
    ResNet for clips, whatever stands in the place of its 3x3x3 convolutions.

    CAKES (Yu et al., AAAI 2021), "Action Recognition in Videos": stem 1x7x7 and max-pooling 1x3x3, both with stride
    (1, 2, 2), four stages, the mean over each frame, dropout, a linear layer, and the mean of the logits over time.

    Args:
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        make: makes what stands in the place of the 3x3x3 convolutions.
        num_classes: number of classes, or their names, which then travel with the weights: ``load_state_dict`` brings
            weights of the same classes in another order into this one, and refuses those of other classes.
        width: channels of the stem, 64 in the papers.
        norm: norm after every convolution, as MONAI names it.
        dropout: probability of the dropout of each frame's features, 0.3 in the papers.
        in_channels: channels of a frame.

    Raises:
        ValueError: for an unknown backbone, fewer than one class or a width below 1.

    Shapes:
        - input: ``(N, in_channels, T, H, W)``
        - output: ``(N, num_classes)``, logits
    """

    def __init__(
        self,
        backbone: str,
        make: ReplacedConvolution,
        num_classes: int | Sequence[str],
        width: int = 64,
        norm: Factory = "BATCH",
        dropout: float = 0.3,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.class_names = () if isinstance(num_classes, int) else check_class_names(num_classes)
        self.num_classes = num_classes if isinstance(num_classes, int) else len(num_classes)
        if self.num_classes < 1:
            raise ValueError(f"num_classes {num_classes} must be at least 1.")
        plans = block_plans(backbone, width)
        self.backbone, self.width, self.in_channels = backbone, width, in_channels
        self.conv1 = nn.Conv3d(in_channels, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.bn1 = get_norm_layer(norm, 3, width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                *(ResidualBlock(plan, make, norm) for plan in plans if plan.name.startswith(f"layer{stage}."))
            )
            for stage in (1, 2, 3, 4)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(plans[-1].out_channels, self.num_classes)
        nn.init.normal_(self.fc.weight, 0, 0.001)
        nn.init.zeros_(self.fc.bias)
        self.register_load_state_dict_pre_hook(_match_classes)
        self.trained_on = ""  #: fingerprint of the data that the weights were trained on

    def get_extra_state(self) -> Tensor:
        """Names of the classes and :attr:`trained_on`, which become a part of the state dict (as JSON in UTF-8)."""
        content = {"class_names": self.class_names, "trained_on": self.trained_on}
        # as long before a training as after it: what loads weights tensor by tensor compares the shapes
        padding = " " * (FINGERPRINT_DIGITS - len(self.trained_on))
        return torch.tensor(list((json.dumps(content) + padding).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take over what the weights were trained on; their classes were matched before."""
        self.trained_on = str(_extra(state)["trained_on"])

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        frames = self.dropout(x.mean((3, 4)).transpose(1, 2))  # (N, T, features)
        logits: Tensor = self.fc(frames).mean(1)
        return logits


class VideoResNet(VideoBackbone):
    """
    ResNet for clips built from a :class:`~cakes_monai.backbone_architecture.BackboneArchitecture`.

    Args:
        architecture: an architecture or the content of its JSON; it names the backbone.
        num_classes: number of classes, or their names, which then travel with the weights: ``load_state_dict`` brings
            weights of the same classes in another order into this one, and refuses those of other classes.
        width: channels of the stem, 64 in the papers.
        norm: norm after every convolution, as MONAI names it.
        dropout: probability of the dropout of each frame's features, 0.3 in the papers.
        in_channels: channels of a frame.

    Raises:
        ValueError: when the architecture is for another width or network, and in ``load_state_dict`` (strict or not)
            for weights of another architecture.

    Shapes:
        - input: ``(N, in_channels, T, H, W)``
        - output: ``(N, num_classes)``, logits

    Example:
        >>> network = VideoResNet(video_architecture("performance-12d"), num_classes=174)
    """

    def __init__(
        self,
        architecture: BackboneArchitecture | Mapping[str, Any],
        num_classes: int | Sequence[str],
        width: int = 64,
        norm: Factory = "BATCH",
        dropout: float = 0.3,
        in_channels: int = 3,
    ) -> None:
        found = BackboneArchitecture.of(architecture)
        check_layers(found, width)

        def make(
            place: str, in_channels: int, out_channels: int, stride: tuple[int, int, int], act: Factory
        ) -> nn.Module:
            return SubKernelOperation(in_channels, found.layers[place], norm, act, stride)

        super().__init__(found.backbone, make, num_classes, width, norm, dropout, in_channels)
        self.architecture = found


class VideoResNetSupernet(VideoBackbone):
    """
    Super-network of CAKES for clips: every sub-kernel of every channel of a 3x3x3 convolution is a path.

    With cost priority the 1x1x1 convolution of a bottleneck aggregates the paths; the blocks of a ResNet-18 or -34
    have none and get one each behind their convolutions (:class:`cakes_monai.blocks.SummedPaths`).

    Args:
        num_classes: number of classes, or their names, which then travel with the weights: ``load_state_dict`` brings
            weights of the same classes in another order into this one, and refuses those of other classes.
        sub_kernels: candidates: the name of a set for clips ("12d", "23d", "123d" ...) or a list of sub-kernels.
        priority: "performance" computes one random path per channel in every iteration, "cost" all of them.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        width: channels of the stem, 64 in the papers.
        norm: norm after every convolution, as MONAI names it; it must have scales.
        dropout: probability of the dropout of each frame's features.
        in_channels: channels of a frame.

    Raises:
        ValueError: for an unknown priority, set, sub-kernel or backbone, or a norm without scales.

    Shapes:
        - input: ``(N, in_channels, T, H, W)``
        - output: ``(N, num_classes)``, logits
    """

    def __init__(
        self,
        num_classes: int | Sequence[str],
        sub_kernels: str | Iterable[str] = "12d",
        priority: str = "performance",
        backbone: str = "resnet50",
        width: int = 64,
        norm: Factory = "BATCH",
        dropout: float = 0.3,
        in_channels: int = 3,
    ) -> None:
        paths = candidate_paths(priority)
        if paths is ConcatenatedPaths and not block_plans(backbone)[0].bottleneck:
            paths = SummedPaths
        names = video_sub_kernels(sub_kernels)

        def make(
            place: str, in_channels: int, out_channels: int, stride: tuple[int, int, int], act: Factory
        ) -> nn.Module:
            return paths(in_channels, out_channels, names, norm, act, stride)

        super().__init__(backbone, make, num_classes, width, norm, dropout, in_channels)
        self.sub_kernels = names
        self.priority = priority

    def derived(
        self, splits: Mapping[str, KernelSplit], origin: Mapping[str, Any] | None = None
    ) -> BackboneArchitecture:
        """The architecture with these splits in the places of this network's paths."""
        return BackboneArchitecture.of_splits(self.backbone, splits, origin)

    def derived_cost(self, splits: Mapping[str, KernelSplit], size: Sequence[int]) -> Cost:
        """What the :meth:`derived` network costs for a clip of ``size`` frames, rows and columns."""
        return video_cost(self.derived(splits), self.num_classes, self.width, size, self.in_channels)


def saved_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """
    Names of the classes that a file of weights was trained for.

    Raises:
        ValueError: when the file cannot be read, or its weights were saved without names.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        names = tuple(_extra(state["_extra_state"])["class_names"])
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; train first, or give the weights' path.") from error
    except Exception as error:  # unpickling raises all kinds
        raise ValueError(f"{path}: these are no weights with class names.") from error
    if not names:
        raise ValueError(f"{path}: the weights were saved without class names; give the names.")
    return names


def _match_classes(network: VideoBackbone, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Bring the rows of the last layer into the order of the network's classes."""
    names = tuple(_extra(state.setdefault(f"{prefix}_extra_state", network.get_extra_state()))["class_names"])
    if not network.class_names or not names or names == network.class_names:
        return
    order = class_order(names, network.class_names)
    for name in ("fc.weight", "fc.bias"):
        state[f"{prefix}{name}"] = state[f"{prefix}{name}"][order]


def _extra(state: Tensor) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bytes(state.tolist()).decode())
    return content
