# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which packets of a video have to be decoded for a frame, from what its container says of the packets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

__all__ = ["PacketTable"]


@dataclass(frozen=True)
class PacketTable:
    """
    The packets of a video in the order of decoding.

    A group of pictures begins with a keyframe. Frames that are shown before the keyframe and decoded behind it ("open"
    groups) need the group before; hence the group of a frame begins with the last keyframe that is both decoded and
    shown no later than the frame.

    Args:
        times: presentation time of each packet, in any unit; None where the container gives none.
        keys: whether decoding can begin with the packet.
        shown: whether the packet gives a frame to be shown.

    Example:
        >>> table = PacketTable((0, 2, 1, 3), (True, False, False, True), (True, True, True, True))
        >>> table.frames, table.spans([1])
        ((0, 2, 1, 3), [(0, 3)])
    """

    times: tuple[int | None, ...]
    keys: tuple[bool, ...]
    shown: tuple[bool, ...]

    @cached_property
    def is_ordered(self) -> bool:
        """Whether the times give the order of the frames: they differ, and begin with a keyframe."""
        times = [time for time in self.times if time is not None]
        complete = bool(times) and len(set(times)) == len(self.times)
        return complete and self.keys[0] and self.times[0] == min(times)

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """Packet of each frame, in the order of presentation."""
        shown = (packet for packet, is_shown in enumerate(self.shown) if is_shown)
        return tuple(sorted(shown, key=self._time))

    def start(self, frame: int) -> int:
        """Packet that decoding begins with for a frame."""
        packet = self.frames[frame]
        time = self._time(packet)
        return next(p for p in range(packet, -1, -1) if self.keys[p] and self._time(p) <= time)

    def spans(self, frames: Iterable[int]) -> list[tuple[int, int]]:
        """First packet and the one behind the last, of each run of packets to decode for some frames."""
        spans: list[tuple[int, int]] = []
        for start, stop in sorted((self.start(frame), self.frames[frame] + 1) for frame in frames):
            if spans and start <= spans[-1][1]:
                start, stop = spans[-1][0], max(stop, spans.pop()[1])
            spans.append((start, stop))
        return spans

    def is_sound(self, frame: int, damaged: Iterable[int]) -> bool:
        """Whether no damaged packet lies between the start of a frame's group and the frame."""
        start, packet = self.start(frame), self.frames[frame]
        return not any(start <= other <= packet for other in damaged)

    def _time(self, packet: int) -> int:
        time = self.times[packet]
        assert time is not None
        return time
