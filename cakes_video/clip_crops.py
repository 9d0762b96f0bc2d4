# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Cutting and resizing the frames of a clip, all frames alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from torchvision.transforms.v2 import functional as tv

from cakes_video.clip_loading import checked_frames

__all__ = ["RandMultiScaleCropd", "ShortSideResized", "TestCropsd"]


class RandMultiScaleCropd(Randomizable, MapTransform):
    """
    Cut out a box of random scale, proportion and place, and resize it: the multi-scale crop of TSN.

    Wang et al., Temporal Segment Networks (ECCV 2016), section 3.2. The largest box with the proportions of ``size``
    that fits the frame is scaled in height and in width by two of the ``scales`` at most ``max_distort`` places apart,
    and laid on one of the ``places``. The box is the same in all frames.

    Args:
        keys: keys of the frames.
        size: side of the result, or height and width, in pixels.
        scales: from large to small, above 0 to 1.
        max_distort: how many places apart in ``scales`` height and width may be.
        places: 5 for the corners and the centre (``fix_crop``), 13 for these, the middles of the sides and four places
            halfway to the corners (``more_fix_crop``), None for anywhere.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: for arguments out of range.

    Shapes:
        - input: uint8 ``(T, 3, H, W)``, output: uint8 ``(T, 3, *size)``
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int],
        scales: Sequence[float] = (1, 0.875, 0.75, 0.66),
        max_distort: int = 1,
        places: int | None = 13,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.size = _height_width("RandMultiScaleCropd", size)
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"RandMultiScaleCropd: scales are {scales}; allowed: at least one, above 0 to 1.")
        if max_distort < 0:
            raise ValueError(f"RandMultiScaleCropd: max_distort is {max_distort}, allowed are 0 or more.")
        if places not in (5, 13, None):
            raise ValueError(f"RandMultiScaleCropd: places are {places}; allowed: 5, 13 and None.")
        numbers = product(range(len(scales)), repeat=2)
        self.scales = [(scales[i], scales[j]) for i, j in numbers if abs(i - j) <= max_distort]
        self.places = places and _places(places)

    def randomize(self, data: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draw a box (top, left, height, width) for frames of this height and width."""
        scales = self.scales[self.R.randint(len(self.scales))]
        place = self.places[self.R.randint(len(self.places))] if self.places else self.R.uniform(size=2)
        fit = min(side / wanted for side, wanted in zip(data, self.size, strict=True))
        box = [max(1, int(fit * wanted * scale)) for wanted, scale in zip(self.size, scales, strict=True)]
        top, left = (round((side - length) * at) for side, length, at in zip(data, box, place, strict=True))
        return top, left, box[0], box[1]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the cut frames, cut alike in all keys."""
        result, box = dict(data), None
        for key in self.key_iterator(result):
            frames = checked_frames(self, result[key])
            box = box or self.randomize((frames.shape[-2], frames.shape[-1]))
            result[key] = tv.resized_crop(frames, *box, size=list(self.size), antialias=True)
        return result


class ShortSideResized(MapTransform):
    """
    Resize frames so that their short side is ``size``, and their proportions stay.

    Args:
        keys: keys of the frames.
        size: short side in pixels.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: when ``size`` is below 1.

    Shapes:
        - input and output: uint8 ``(T, 3, H, W)``
    """

    def __init__(self, keys: KeysCollection, size: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if size < 1:
            raise ValueError(f"ShortSideResized: size is {size}, allowed are 1 or more.")
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the resized frames."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = tv.resize(checked_frames(self, result[key]), [self.size], antialias=True)
        return result


class TestCropsd(MapTransform):
    """
    Cut out the centre, or that one of three boxes along the longer side that the item's ``"crop"`` (0 to 2) names.

    Several crops of a clip are several items, see :func:`~cakes_video.clip_lists.expand_views`.

    Args:
        keys: keys of the frames.
        size: side of the box, or height and width, in pixels.
        num_crops: 1 for the centre, 3 for start, centre and end of the longer side.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: for arguments out of range, a ``"crop"`` that is no number below ``num_crops``, and frames smaller
            than the box.

    Shapes:
        - input: ``(T, 3, H, W)``, output: ``(T, 3, *size)``
    """

    __test__ = False  # pytest takes classes by their name

    def __init__(
        self, keys: KeysCollection, size: int | Sequence[int], num_crops: int = 1, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = _height_width("TestCropsd", size)
        if num_crops not in (1, 3):
            raise ValueError(f"TestCropsd: num_crops is {num_crops}, allowed are 1 and 3.")
        self.num_crops = num_crops

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the cut frames."""
        crop = data.get("crop", 0)
        if crop not in range(self.num_crops):
            raise ValueError(f"TestCropsd: crop is {crop}, allowed are 0 to {self.num_crops - 1} (num_crops).")
        result = dict(data)
        for key in self.key_iterator(result):
            frames = checked_frames(self, result[key])
            top, left = self._corner((frames.shape[-2], frames.shape[-1]), crop, str(data.get("video", key)))
            result[key] = tv.crop(frames, top, left, *self.size)
        return result

    def _corner(self, frame: tuple[int, int], crop: int, name: str) -> tuple[int, int]:
        spare = [side - wanted for side, wanted in zip(frame, self.size, strict=True)]
        if min(spare) < 0:
            raise ValueError(
                f"{name}: frames of {frame[0]}x{frame[1]} (height x width); TestCropsd allows {self.size[0]}x"
                f"{self.size[1]} or more, as ShortSideResized makes them."
            )
        corner = [side // 2 for side in spare]
        if self.num_crops == 3:
            longer = int(frame[1] >= frame[0])
            corner[longer] = (0, corner[longer], spare[longer])[crop]
        return corner[0], corner[1]


def _height_width(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"{name}: size is {size}; allowed: a side, or height and width, 1 or more.")
    return sides[0], sides[1]


def _places(number: int) -> list[tuple[float, float]]:
    """Shares of the spare height and width above and left of a box: every other point of a grid of 3x3 or 5x5."""
    steps = {5: 2, 13: 4}[number]
    grid = product(range(steps + 1), repeat=2)
    return [(row / steps, column / steps) for row, column in grid if (row + column) % 2 == 0]
