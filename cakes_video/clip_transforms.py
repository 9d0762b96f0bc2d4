# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Transforms of clips for ``monai.transforms.Compose``: loading, cutting, resizing, flipping, values of the network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torchvision.transforms.v2 import functional as tv

from cakes_video.class_names import check_class_names, mirrored_labels, unflippable_labels
from cakes_video.clip_crops import RandMultiScaleCropd, ShortSideResized, TestCropsd
from cakes_video.clip_loading import LoadClipd, RandLoadClipd, checked_frames

__all__ = [
    "FrameDifferenced",
    "LoadClipd",
    "NormalizeClipd",
    "RandClipFlipd",
    "RandLoadClipd",
    "RandMultiScaleCropd",
    "ShortSideResized",
    "TestCropsd",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RandClipFlipd(RandomizableTransform, MapTransform):
    """
    Flip the width of a clip, and give it the label of the class that is the mirror image of its own.

    A clip "from left to right" becomes one "from right to left". A clip whose class speaks of a side and has no
    mirror image among the classes is never flipped.

    Args:
        keys: keys of the frames.
        prob: probability.
        class_names: names of the labels, from which :func:`~cakes_video.class_names.mirrored_labels` are derived. Mere
            numbers tell no sides: then every clip is flipped, and keeps its label.
        label_key: key of the label.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: when ``prob`` is not in 0 to 1, or a label is no class.

    Shapes:
        - input and output: ``(T, 3, H, W)``
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float,
        class_names: Sequence[str],
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not 0 <= prob <= 1:
            raise ValueError(f"RandClipFlipd: prob is {prob}, allowed are 0 to 1.")
        RandomizableTransform.__init__(self, prob)
        self.num_classes, self.label_key = len(check_class_names(class_names)), label_key
        self.mirrored, self.unflippable = mirrored_labels(class_names), unflippable_labels(class_names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, flipped or not."""
        result, label = dict(data), int(data[self.label_key])
        if label not in range(self.num_classes):
            raise ValueError(f"RandClipFlipd: label is {label}, allowed are 0 to {self.num_classes - 1}.")
        self.randomize(None)  # also for clips that are not flipped, so that those after them do not depend on it
        if not self._do_transform or label in self.unflippable:
            return result
        for key in self.key_iterator(result):
            result[key] = tv.horizontal_flip(checked_frames(self, result[key]))
        if label in self.mirrored:
            result[self.label_key] = self.mirrored[label]
        return result


class NormalizeClipd(MapTransform):
    """
    Turn frames into what the network takes: values from 0 to 1, minus ``mean``, divided by ``std``, channels first.

    Args:
        keys: keys of the frames.
        mean: of red, green and blue, by default of ImageNet.
        std: of red, green and blue, above 0.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: when these are not three numbers, or a ``std`` is not above 0.

    Shapes:
        - input: uint8 ``(T, 3, H, W)``, output: float32 ``(3, T, H, W)``
    """

    def __init__(
        self,
        keys: KeysCollection,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise ValueError(f"NormalizeClipd: mean {mean}, std {std}; allowed: three numbers each, std above 0.")
        self.mean, self.std = (255 * torch.tensor(values).view(3, 1, 1, 1) for values in (mean, std))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the normalised frames."""
        result = dict(data)
        for key in self.key_iterator(result):
            frames = checked_frames(self, result[key]).transpose(0, 1)  # channels first
            result[key] = frames.contiguous().float().sub_(self.mean).div_(self.std)
        return result


class FrameDifferenced(MapTransform):
    """
    Turn a clip into the differences of its neighbouring frames, so that a fixed camera's scene is gone.

    As "RGB difference" of Wang et al., Temporal Segment Networks, ECCV 2016, section 3.2, but neighbours are those of
    the sample, not of the video.

    Args:
        keys: keys of the clips.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: for a clip of fewer than two frames.

    Shapes:
        - input: float ``(3, T + 1, H, W)``, output: ``(3, T, H, W)``
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the differences."""
        result = dict(data)
        for key in self.key_iterator(result):
            clip = result[key]
            if clip.shape[1] < 2:
                raise ValueError(f"FrameDifferenced: {key} has {clip.shape[1]} frame, allowed are two or more.")
            result[key] = clip.diff(dim=1)
        return result
