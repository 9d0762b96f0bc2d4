# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which blocks a ResNet for clips has and which of their convolutions CAKES replaces, without building it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cakes_monai.architecture import sub_kernel_set

__all__ = ["BACKBONES", "VIDEO_KERNEL_SETS", "BlockPlan", "block_plans", "replaced_convolutions", "video_sub_kernels"]

#: Blocks of the four stages (He et al., 2016, table 1), and whether they are bottlenecks.
_STAGES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}

BACKBONES = tuple(_STAGES)

#: The sub-kernels of CAKES for clips: space (2D), time (1D), both (3D); along D is along time.
VIDEO_KERNEL_SETS: Mapping[str, tuple[str, ...]] = {
    "1d": ("3x1x1",),
    "2d": ("1x3x3",),
    "3d": ("3x3x3",),
    "12d": ("1x3x3", "3x1x1"),
    "23d": ("3x3x3", "1x3x3"),
    "123d": ("3x3x3", "1x3x3", "3x1x1"),
}


def video_sub_kernels(kernels: str | Iterable[str]) -> tuple[str, ...]:
    """
    Sub-kernels in the canonical order, from the name of a set for clips or from any sub-kernels.

    Raises:
        ValueError: for an unknown set, an unknown or repeated sub-kernel, or none at all.

    Example:
        >>> video_sub_kernels("12d")
        ('1x3x3', '3x1x1')
    """
    if isinstance(kernels, str) and kernels not in VIDEO_KERNEL_SETS:
        raise ValueError(
            f"unknown set {kernels!r}, allowed are {', '.join(VIDEO_KERNEL_SETS)} or a list of sub-kernels."
        )
    return sub_kernel_set(VIDEO_KERNEL_SETS[kernels] if isinstance(kernels, str) else kernels)


@dataclass(frozen=True)
class BlockPlan:
    """
    One residual block.

    Args:
        name: where it is in the network, as torchvision names it: "layer1.0".
        in_channels: channels of its input.
        planes: channels of its 3x3x3 convolutions.
        stride: along H and W; time is never strided.
        bottleneck: 1x1x1, 3x3x3, 1x1x1 instead of 3x3x3, 3x3x3.
    """

    name: str
    in_channels: int
    planes: int
    stride: int
    bottleneck: bool

    @property
    def out_channels(self) -> int:
        """Channels of its output."""
        return self.planes * (4 if self.bottleneck else 1)

    @property
    def projected(self) -> bool:
        """Whether the input is brought to the shape of the output by a 1x1x1 convolution."""
        return self.stride > 1 or self.in_channels != self.out_channels

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the convolutions that CAKES replaces; all have :attr:`planes` output channels."""
        return (f"{self.name}.conv2",) if self.bottleneck else (f"{self.name}.conv1", f"{self.name}.conv2")


def block_plans(backbone: str, width: int = 64) -> tuple[BlockPlan, ...]:
    """
    Blocks of a ResNet in their order.

    Args:
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        width: channels of the stem, 64 in the papers.

    Raises:
        ValueError: for any other backbone, or a width below 1.
    """
    if backbone not in _STAGES:
        raise ValueError(f"unknown backbone {backbone!r}, allowed are {', '.join(BACKBONES)}.")
    if width < 1:
        raise ValueError(f"width {width} must be at least 1.")
    depths, bottleneck = _STAGES[backbone]
    plans: list[BlockPlan] = []
    for stage, depth in enumerate(depths):
        for index in range(depth):
            in_channels = plans[-1].out_channels if plans else width
            stride = 2 if stage and not index else 1
            plans.append(BlockPlan(f"layer{stage + 1}.{index}", in_channels, width * 2**stage, stride, bottleneck))
    return tuple(plans)


def replaced_convolutions(backbone: str, width: int = 64) -> dict[str, int]:
    """Output channels of every convolution that CAKES replaces, by name."""
    return {name: plan.planes for plan in block_plans(backbone, width) for name in plan.replaced}
