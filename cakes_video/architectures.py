# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The architectures of CAKES for clips, by name (tables 3 and 4)."""

from __future__ import annotations

from cakes_monai.architecture import KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.residual_plan import VIDEO_KERNEL_SETS, replaced_convolutions, video_sub_kernels

__all__ = ["PUBLISHED_NAMES", "check_layers", "manual_video_architecture", "video_architecture"]

#: Convolutions in the place of a replaced one, one after the other.
_FIXED = {"c2d": ("1x3x3",), "c3d": ("3x3x3",), "p3d": ("1x3x3", "3x1x1")}

#: Channels of the sub-kernels of the set, in its order, from layer1.0 to layer4.2 of a ResNet-50 (published weights).
_SEARCHED = {
    "performance-12d": "32/32 42/22 34/30 90/38 67/61 76/52 79/49 173/83 167/89 153/103 172/84 171/85 145/111 293/219 "
    "394/118 217/295",
    "cost-12d": "34/30 44/20 59/5 109/19 69/59 87/41 105/23 190/66 153/103 167/89 160/96 150/106 95/161 324/188 "
    "299/213 170/342",
    "performance-23d": "41/23 45/19 53/11 68/60 56/72 61/67 74/54 154/102 148/108 161/95 134/122 145/111 172/84 "
    "328/184 307/205 303/209",
    "cost-23d": "14/50 10/54 4/60 16/112 27/101 15/113 15/113 57/199 48/208 73/183 48/208 59/197 97/159 290/222 "
    "340/172 441/71",
    "performance-123d": "28/35/1 24/40/0 38/25/1 35/54/39 37/84/7 20/98/10 43/75/10 133/76/47 125/82/49 63/174/19 "
    "120/74/62 102/86/68 114/112/30 257/91/164 236/215/61 337/83/92",
    "cost-123d": "2/38/24 2/47/15 1/56/7 15/106/7 8/82/38 11/99/18 7/106/15 58/179/19 32/188/36 58/179/19 47/194/15 "
    "53/190/13 80/132/44 279/233/0 352/158/2 442/61/9",
}

_MANUAL = ("12d", "23d", "123d")

PUBLISHED_NAMES = (*_FIXED, *(f"manual-{kernels}" for kernels in _MANUAL), *_SEARCHED)


def video_architecture(name: str, backbone: str = "resnet50", width: int = 64) -> BackboneArchitecture:
    """
    An architecture by name.

    Args:
        name: "c2d", "c3d" or "p3d"; "manual-12d", "manual-23d" or "manual-123d"; or one of the published splits
            "performance-12d", "cost-12d" and so on, which are for a ResNet-50 of width 64 only.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        width: channels of the stem, 64 in the papers.

    Raises:
        ValueError: for any other name, or a published split with another backbone or width.

    Example:
        >>> video_architecture("performance-123d").splits["layer1.0.conv2"].as_dict()
        {'3x3x3': 28, '1x3x3': 35, '3x1x1': 1}
    """
    origin = {"published": name}
    if name in _FIXED:
        layers = {
            place: tuple(KernelSplit(((kernel, channels),)) for kernel in _FIXED[name])
            for place, channels in replaced_convolutions(backbone, width).items()
        }
        return BackboneArchitecture(backbone, layers, origin)
    if name in _SEARCHED:
        return BackboneArchitecture.of_splits(backbone, _published_splits(name, backbone, width), origin)
    kind, _, kernels = name.partition("-")
    if kind != "manual" or kernels not in _MANUAL:
        raise ValueError(f"no architecture {name!r} for clips, there are {', '.join(PUBLISHED_NAMES)}.")
    return manual_video_architecture(kernels, backbone, width)


def manual_video_architecture(
    kernels: str, backbone: str = "resnet50", width: int = 64, granularity: int = 1
) -> BackboneArchitecture:
    """
    The paper's manual setting: the channels of every convolution divided evenly.

    Args:
        kernels: name of a set for clips, or a list of sub-kernels.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        width: channels of the stem.
        granularity: every sub-kernel gets a multiple of this many channels.

    Raises:
        ValueError: for an unknown set or backbone, or a granularity that does not divide a layer.
    """
    names = video_sub_kernels(kernels)
    splits = {}
    for place, channels in replaced_convolutions(backbone, width).items():
        try:
            splits[place] = KernelSplit.even(names, channels, granularity)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return BackboneArchitecture.of_splits(backbone, splits, {"manual": list(names), "granularity": granularity})


def check_layers(architecture: BackboneArchitecture, width: int) -> None:
    """
    Raise a ValueError unless the architecture is one of a ResNet for clips of this width.

    Raises:
        ValueError: naming the first layer that is missing, unknown or of another width.
    """
    places = replaced_convolutions(architecture.backbone, width)
    for place in places.keys() ^ architecture.layers.keys():
        what = "is missing" if place in places else "is no replaced convolution"
        raise ValueError(f"layers[{place!r}] {what}; {architecture.backbone} has {', '.join(places)}.")
    for place, channels in places.items():
        for index, split in enumerate(architecture.layers[place]):
            if split.out_channels != channels:
                raise ValueError(
                    f"layers[{place!r}][{index}]: sub-kernels give {split.out_channels} channels, the convolution has "
                    f"{channels} (width {width})."
                )


def _published_splits(name: str, backbone: str, width: int) -> dict[str, KernelSplit]:
    if (backbone, width) != ("resnet50", 64):
        raise ValueError(f"{name!r} is published for resnet50 of width 64, not for {backbone} of width {width}.")
    kernels = VIDEO_KERNEL_SETS[name.partition("-")[2]]
    places = replaced_convolutions(backbone, width)
    return {
        place: KernelSplit(tuple(zip(kernels, map(int, counts.split("/")), strict=True)))
        for place, counts in zip(places, _SEARCHED[name].split(), strict=True)
    }
