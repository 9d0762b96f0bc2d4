# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Intensities of CT and MR, each channel as its modality wants it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import MapTransform, NormalizeIntensity, ScaleIntensityRange, Transform
from monai.utils import convert_to_tensor

__all__ = ["NormalizeModality", "NormalizeModalityd"]


class NormalizeModality(Transform):
    """
    Normalise each channel of an image by its modality.

    CT: a window of Hounsfield units becomes 0 to 1, what lies outside is cut off. Everything else counts as MR: the
    voxels that are not 0 get mean 0 and standard deviation 1 in each image; voxels of 0, in MR the outside of a mask
    around the brain or of the field of view, stay 0.

    Args:
        modalities: modality of each channel, "CT" in any case or another.
        hu_window: Hounsfield units that become 0 and 1.

    Raises:
        ValueError: for a window that is none, and for an image of another number of channels.

    Shapes:
        - input and output: ``(C, H, W, D)``
    """

    def __init__(self, modalities: Sequence[str], hu_window: Sequence[float] = (-175.0, 250.0)) -> None:
        if len(hu_window) != 2 or not hu_window[0] < hu_window[1]:
            raise ValueError(f"hu_window: {list(hu_window)}; allowed: a lower and a higher number.")
        low, high = hu_window
        self.channels = [
            ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)
            if modality.upper() == "CT"
            else NormalizeIntensity(nonzero=True)
            for modality in modalities
        ]

    def __call__(self, image: NdarrayOrTensor) -> torch.Tensor:
        """Return the normalised image; the given one is not changed."""
        if len(image) != len(self.channels):
            raise ValueError(f"image has {len(image)} channels; allowed: {len(self.channels)}, one for each modality.")
        result: torch.Tensor = convert_to_tensor(image, dtype=torch.float32, track_meta=get_track_meta()).clone()
        for number, normalise in enumerate(self.channels):
            channel = convert_to_tensor(image[number : number + 1], dtype=torch.float32)
            result[number] = convert_to_tensor(normalise(channel)[0])
        return result


class NormalizeModalityd(MapTransform):
    """
    Dictionary form of :class:`NormalizeModality`.

    Args:
        keys: keys of the images.
        modalities: modality of each channel.
        hu_window: Hounsfield units that become 0 and 1.
        allow_missing_keys: whether a missing key is passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modalities: Sequence[str],
        hu_window: Sequence[float] = (-175.0, 250.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalise = NormalizeModality(modalities, hu_window)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with normalised images."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.normalise(result[key])
        return result
