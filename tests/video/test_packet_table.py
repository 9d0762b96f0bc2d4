# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The packets to decode for a frame, on tables small enough to follow by hand."""

from __future__ import annotations

import pytest

from cakes_video.packet_table import PacketTable

# Shown: I0 B1 P2 P3 | I4 B5 P6; decoded: I0 P2 B1 P3 | I4 P6 B5.
CLOSED = PacketTable((0, 20, 10, 30, 40, 60, 50), (True, *[False] * 3, True, False, False), (True,) * 7)
# Shown: I0 P1 B2 I3 P4; decoded: I0 P1 I3 B2 P4. B2 is decoded behind the keyframe I3 and needs P1.
OPEN = PacketTable((0, 1, 3, 2, 4), (True, False, True, False, False), (True,) * 5)


def test_frames_follow_the_times() -> None:
    """Frame k is the packet with the k-th smallest time."""
    assert CLOSED.frames == (0, 2, 1, 3, 4, 6, 5)
    assert OPEN.frames == (0, 1, 3, 2, 4)


@pytest.mark.parametrize(
    ("frames", "spans"),
    [
        ([0], [(0, 1)]),
        ([1], [(0, 3)]),  # P2 is decoded before B1
        ([5], [(4, 7)]),  # a later keyframe: nothing before it
        ([1, 6], [(0, 3), (4, 6)]),
        ([3, 4], [(0, 5)]),  # runs that touch are one
        ([], []),
    ],
)
def test_decoding_begins_with_the_keyframe(frames: list[int], spans: list[tuple[int, int]]) -> None:
    """A frame needs what is decoded from the last keyframe before it to itself, and no packet is decoded twice."""
    assert CLOSED.spans(frames) == spans


def test_open_groups_need_the_group_before() -> None:
    """A frame shown before a keyframe but decoded behind it begins at the keyframe before; the others do not."""
    assert OPEN.spans([2]) == [(0, 4)]
    assert OPEN.spans([3]) == [(2, 3)]
    assert OPEN.spans([4]) == [(2, 5)]


def test_damage_reaches_to_the_end_of_the_group() -> None:
    """Behind a damaged packet all frames of its group are lost, those of the next group are not."""
    assert [CLOSED.is_sound(frame, {1}) for frame in range(7)] == [True, False, False, False, True, True, True]
    assert [OPEN.is_sound(frame, {1}) for frame in range(5)] == [True, False, False, True, True]


def test_hidden_packets_are_no_frames() -> None:
    """A packet that is not to be shown is no frame, but is decoded for those behind it."""
    table = PacketTable((0, 1, 2), (True, False, False), (False, True, True))
    assert table.frames == (1, 2)
    assert table.spans([1]) == [(0, 3)]


@pytest.mark.parametrize(
    ("times", "keys"),
    [
        ((None, None), (True, False)),
        ((0, None), (True, False)),
        ((0, 1, 1), (True, False, False)),
        ((0, 1), (False, True)),  # begins in the middle of a group
        ((2, 1), (True, False)),  # begins with frames that need what is not there
        ((), ()),
    ],
)
def test_times_that_do_not_give_the_order(times: tuple[int | None, ...], keys: tuple[bool, ...]) -> None:
    """Times that are missing, equal, or do not begin with a keyframe do not tell which packet is which frame."""
    assert not PacketTable(times, keys, (True,) * len(times)).is_ordered
    assert CLOSED.is_ordered
    assert OPEN.is_ordered
