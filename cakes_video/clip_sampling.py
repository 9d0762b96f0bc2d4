# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which frames of a clip a network sees: one of each of equally long segments."""

from __future__ import annotations

import numpy as np

__all__ = ["testing_frames", "training_frames"]


def training_frames(num_frames: int, num_segments: int, rng: np.random.RandomState) -> list[int]:
    """
    Draw one frame of each segment.

    Sparse sampling of temporal segment networks (Wang et al., ECCV 2016). Segment t of T is the interval
    ``[t * n / T, (t + 1) * n / T)`` of real numbers for every number n of frames, so each frame can be drawn, with the
    same expectation. In a clip shorter than T, frames repeat in their order.

    Args:
        num_frames: number n of frames of the clip.
        num_segments: number T of segments.
        rng: where the places in the segments come from.

    Returns:
        T frame indices, from 0, that never decrease.

    Raises:
        ValueError: when a number is below 1.
    """
    _check(num_frames, num_segments)
    places = (np.arange(num_segments) + rng.random_sample(num_segments)) * num_frames / num_segments
    return [min(int(place), num_frames - 1) for place in places]  # rounding may give n itself


def testing_frames(num_frames: int, num_segments: int, clip: int = 0, num_clips: int = 1) -> list[int]:  # noqa: PT028
    """
    Return the frame at one place of each segment: the middle, or one of several places that are spread evenly.

    Args:
        num_frames: number of frames of the clip.
        num_segments: number of segments.
        clip: number of the place, from 0.
        num_clips: number k of places; place c lies at the share ``(c + 1/2) / k`` of each segment.

    Returns:
        Frame indices, from 0, that never decrease.

    Raises:
        ValueError: when a number is below 1, or ``clip`` is none of the places.

    Example:
        >>> testing_frames(16, 4)
        [2, 6, 10, 14]
    """
    _check(num_frames, num_segments)
    if num_clips < 1:
        raise ValueError(f"num_clips is {num_clips}; allowed are 1 or more.")
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip is {clip}; allowed are 0 to {num_clips - 1}, there are {num_clips}.")
    parts = 2 * num_clips * num_segments  # half places: whole numbers keep the middle exact
    return [(2 * (segment * num_clips + clip) + 1) * num_frames // parts for segment in range(num_segments)]


testing_frames.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test where it is imported


def _check(num_frames: int, num_segments: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; allowed are 1 or more, a clip has frames.")
    if num_segments < 1:
        raise ValueError(f"num_segments is {num_segments}; allowed are 1 or more.")
