# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From the path of a clip to its frames, at the places in time that training and testing want."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from monai.utils import str2bool

from cakes_video.clip_error import ClipError
from cakes_video.clip_reader import Clip, open_clip
from cakes_video.clip_sampling import testing_frames, training_frames

__all__ = ["LoadClipd", "RandLoadClipd", "checked_frames"]

READING_KEYS = ("start", "stop", "num_frames", "template")  # say how to read; batches are the same whatever the list


class _LoadClip(Transform):
    """What both ways of loading share: opening, the frame range, the fixed region, the layout."""

    def __init__(
        self,
        num_frames: int,
        crop: Sequence[int] | None = None,
        video_key: str = "video",
        image_key: str = "image",
        cache: bool | str = False,
    ) -> None:
        name = type(self).__name__
        if num_frames < 1:
            raise ValueError(f"{name}: num_frames is {num_frames}, allowed are 1 or more.")
        if crop and (len(crop) != 4 or min(crop) < 0 or min(crop[2:]) < 1):
            raise ValueError(f"{name}: crop is {crop}; allowed: top and left from 0, height and width from 1.")
        self.num_frames, self.video_key, self.image_key = num_frames, video_key, image_key
        self.crop = tuple(crop) if crop else None
        self._cached: dict[tuple[Any, ...], np.ndarray] | None = {} if str2bool(cache) else None

    def _load(self, data: Mapping[Hashable, Any], choose: Callable[[int], list[int]]) -> dict[Hashable, Any]:
        """Return ``data`` with the frames that ``choose`` takes from a number of frames."""
        if self._cached is None:
            region = self._read(data, choose)
        else:
            place = tuple(data.get(key) for key in (self.video_key, *READING_KEYS))
            if place not in self._cached:
                self._cached[place] = self._read(data, range)
            region = self._cached[place][choose(len(self._cached[place]))]
        kept = {key: value for key, value in data.items() if key not in READING_KEYS}
        return {**kept, self.image_key: torch.from_numpy(region).permute(0, 3, 1, 2)}

    def _read(self, data: Mapping[Hashable, Any], choose: Callable[[int], Iterable[int]]) -> np.ndarray:
        """Return the region of the frames that ``choose`` takes."""
        with open_clip(data[self.video_key], data.get("template")) as clip:
            start, stop = _frame_range(data[self.video_key], data, clip)
            top, left, height, width = self._region(data[self.video_key], clip.size)
            frames = clip.frames([start + index for index in choose(stop - start)])
        return np.ascontiguousarray(frames[:, top : top + height, left : left + width])

    def _region(self, path: str, size: tuple[int, int]) -> tuple[int, ...]:
        if self.crop is None:
            return (0, 0, *size)
        top, left, height, width = self.crop
        if top + height > size[0] or left + width > size[1]:
            raise ClipError(
                f"{path}: frames of {size[0]}x{size[1]} (height x width); allowed: frames that hold the crop of "
                f"{height}x{width} at top {top}, left {left}."
            )
        return self.crop


class LoadClipd(_LoadClip):
    """
    Load the frames of a clip for testing: the middle frame of each of ``num_frames`` equal parts.

    Of ``num_clips`` clips in time that of the item's ``"clip"`` (0 when absent) is loaded, see
    :func:`~cakes_video.clip_lists.expand_views`. The item's ``"start"`` and ``"stop"`` bound the frames, ``"template"``
    names the files of a frame folder; these keys are not in the result.

    Args:
        num_frames: number T of frames.
        num_clips: number of clips in time.
        crop: top, left, height and width of a fixed region in pixels, cut out before anything else. None or an empty
            list, because MONAI's command line cannot say None: whole frames.
        video_key: key of the path.
        image_key: key for the frames.
        cache: keep the region of all frames of every clip in memory, for small data sets; a worker process lives for
            one epoch only, so it takes a loader without workers. Also "true" and "false".

    Raises:
        ValueError: for arguments out of range.
        ClipError: for a clip that cannot be read, does not have the frames of its range, or not the region.

    Shapes:
        - result: uint8 ``(T, 3, H, W)``, the layout of torchvision's transforms; :class:`NormalizeClipd` turns it
    """

    def __init__(
        self,
        num_frames: int,
        num_clips: int = 1,
        crop: Sequence[int] | None = None,
        video_key: str = "video",
        image_key: str = "image",
        cache: bool | str = False,
    ) -> None:
        super().__init__(num_frames, crop, video_key, image_key, cache)
        if num_clips < 1:
            raise ValueError(f"LoadClipd: num_clips is {num_clips}, allowed are 1 or more.")
        self.num_clips = num_clips

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the frames."""
        clip = data.get("clip", 0)
        if clip not in range(self.num_clips):
            raise ValueError(f"LoadClipd: clip is {clip}, allowed are 0 to {self.num_clips - 1} (num_clips).")
        return self._load(data, lambda frames: testing_frames(frames, self.num_frames, clip, self.num_clips))


class RandLoadClipd(Randomizable, _LoadClip):
    """
    Load the frames of a clip for training: a random frame of each of ``num_frames`` equal parts.

    Args:
        num_frames: number T of frames.
        crop: as for :class:`LoadClipd`, as are the following arguments, errors, and the keys of an item.
        video_key: key of the path.
        image_key: key for the frames.
        cache: keep the frames in memory.

    Shapes:
        - result: uint8 ``(T, 3, H, W)``
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the frames."""
        return self._load(data, lambda frames: training_frames(frames, self.num_frames, self.R))


def checked_frames(transform: object, frames: Any) -> torch.Tensor:
    """
    Return the frames of a clip as they are.

    Raises:
        ValueError: naming the transform, when they are not uint8 of shape ``(T, 3, H, W)``.
    """
    if not isinstance(frames, torch.Tensor) or frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
        found = f"{getattr(frames, 'dtype', type(frames))} of shape {tuple(getattr(frames, 'shape', ()))}"
        raise ValueError(f"{type(transform).__name__}: frames are {found}; allowed: torch.uint8 of shape (T, 3, H, W).")
    return frames


def _frame_range(path: str, data: Mapping[Hashable, Any], clip: Clip) -> tuple[int, int]:
    start, stop = data.get("start", 0), data.get("stop", clip.num_frames)
    if not 0 <= start < stop <= clip.num_frames:
        raise ClipError(f"{path}: frames {start} to {stop} are wanted; allowed are 0 to {clip.num_frames}.")
    return start, stop
