# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One frame of each segment: any of them in training, the middle one in testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from cakes_video import clip_sampling


class Fixed(np.random.RandomState):
    """Gives one number between 0 and 1 again and again."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self.value = value

    def random_sample(self, size: int) -> np.ndarray:  # type: ignore[override]
        """The number, ``size`` times."""
        return np.full(size, self.value)


@pytest.mark.parametrize("num_frames", range(1, 41))
def test_every_frame_can_be_drawn(num_frames: int) -> None:
    """With 8 segments each frame of a clip of 1 to 40 frames is drawn, in order, and no other number."""
    rng, drawn = np.random.RandomState(0), set[int]()
    for _ in range(200):
        frames = clip_sampling.training_frames(num_frames, 8, rng)
        assert len(frames) == 8
        assert frames == sorted(frames)
        drawn.update(frames)
    assert drawn == set(range(num_frames))


def test_every_frame_is_drawn_equally_often() -> None:
    """Of 15 frames in 8 segments each has the same expectation, 8/15 a clip."""
    rng = np.random.RandomState(0)
    counts = Counter(frame for _ in range(6000) for frame in clip_sampling.training_frames(15, 8, rng))
    assert [counts[frame] / 6000 for frame in range(15)] == pytest.approx([8 / 15] * 15, abs=0.03)


@pytest.mark.parametrize("num_frames", [1, 3, 7, 8, 15, 16, 100, 10**6 + 1])
def test_draws_stay_in_their_segments(num_frames: int) -> None:
    """The smallest and the largest draw are the ends of the real-valued segments, rounded down."""
    first = clip_sampling.training_frames(num_frames, 8, Fixed(0))
    last = clip_sampling.training_frames(num_frames, 8, Fixed(1 - 2**-30))
    assert first == [num_frames * segment // 8 for segment in range(8)]
    assert last == [min(-(-num_frames * (segment + 1) // 8), num_frames) - 1 for segment in range(8)]


def test_same_generator_same_frames() -> None:
    """The frames are a function of the generator."""
    draws = [clip_sampling.training_frames(50, 8, np.random.RandomState(seed)) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "frames"),
    [
        (16, 4, [2, 6, 10, 14]),  # segments of 4 frames: 2, 6, 10, 14 are their middles
        (12, 4, [1, 4, 7, 10]),  # of 3: exactly the middle ones
        (15, 8, [0, 2, 4, 6, 8, 10, 12, 14]),  # 15/8 (t + 1/2) = 0.94, 2.81, 4.69, 6.56, 8.44, 10.3, 12.2, 14.1
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),  # 3/8 (t + 1/2) = 0.19, 0.56, 0.94, 1.3, 1.7, 2.1, 2.4, 2.8
        (1, 4, [0, 0, 0, 0]),
        (75, 1, [37]),
    ],
)
def test_middle_frames(num_frames: int, num_segments: int, frames: list[int]) -> None:
    """Testing takes the frame in which the middle of each segment lies; in short clips frames repeat in order."""
    assert clip_sampling.testing_frames(num_frames, num_segments) == frames


def test_clips_are_spread_evenly() -> None:
    """Of 10 frames in 2 segments, 5 clips take each frame once; 1 clip is the middle; 2 lie at the quarters."""
    clips = [clip_sampling.testing_frames(10, 2, clip, 5) for clip in range(5)]
    assert clips == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    assert clip_sampling.testing_frames(16, 2, 0, 1) == clip_sampling.testing_frames(16, 2) == [4, 12]
    assert [clip_sampling.testing_frames(16, 2, clip, 2) for clip in range(2)] == [[2, 10], [6, 14]]


@pytest.mark.parametrize("num_frames", range(1, 41))
def test_clips_are_clips(num_frames: int) -> None:
    """Frames of any number of clips are in the video and in order, and middles stay middles in three clips."""
    for num_clips in (1, 2, 3, 10):
        for clip in range(num_clips):
            frames = clip_sampling.testing_frames(num_frames, 8, clip, num_clips)
            assert frames == sorted(frames)
            assert 0 <= frames[0] <= frames[-1] < num_frames
    assert clip_sampling.testing_frames(num_frames, 8, 1, 3) == clip_sampling.testing_frames(num_frames, 8)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: clip_sampling.testing_frames(0, 8), "num_frames is 0; allowed are 1 or more"),
        (lambda: clip_sampling.training_frames(-1, 8, np.random.RandomState(0)), "num_frames is -1; allowed are 1"),
        (lambda: clip_sampling.testing_frames(8, 0), "num_segments is 0; allowed are 1 or more"),
        (lambda: clip_sampling.training_frames(8, 0, np.random.RandomState(0)), "num_segments is 0; allowed are 1"),
        (lambda: clip_sampling.testing_frames(8, 8, 0, 0), "num_clips is 0; allowed are 1 or more"),
        (lambda: clip_sampling.testing_frames(8, 8, 3, 3), "clip is 3; allowed are 0 to 2, there are 3"),
        (lambda: clip_sampling.testing_frames(8, 8, -1), "clip is -1; allowed are 0 to 0, there are 1"),
    ],
)
def test_impossible_numbers_are_refused(call: Callable[[], list[int]], text: str) -> None:
    """The error names the argument, its value and what is allowed."""
    with pytest.raises(ValueError, match=text):
        call()
