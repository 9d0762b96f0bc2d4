# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips that are video files, of which single frames are read exactly and without decoding what is not needed."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cakes_video.clip_error import ClipError, check_frames
from cakes_video.video_packets import VideoPackets

__all__ = ["VideoFile"]

SKIPPABLE = ("h264", "mpeg1video", "mpeg2video", "mpeg4")  # whose streams mark the frames that no other refers to

Wanted = Mapping[int, NDArray[np.uint8]]  # numbers of frames, and where to put them


class VideoFile:
    """
    A video file: its frames in the order of presentation, exactly those that decoding the whole file gives.

    The packets are listed without decoding them. Reading decodes, in one pass with one thread, the groups of pictures
    of the wanted frames without what no wanted frame needs, and converts the wanted frames only. Where the times of the
    packets do not tell the order of the frames (AVI, streams without times), frames are counted from the start. Frames
    are turned as the file says. A frame that is damaged, or computed from a damaged one, is an error as far as the
    decoder notices (that of VP9 does not).

    Args:
        path: the file, with any number of streams; the first video stream is read.

    Raises:
        ClipError: for a file that does not exist, is no video, is truncated as far as its container tells, or has no
            frames.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._packets = VideoPackets(path)
        self._table = self._packets.table
        self._all = [(0, len(self._table.times))]
        self._is_counted = self._packets.is_counted
        self._reformatter = VideoReformatter()  # one for all frames: making one takes longer than using it
        self.fps = self._packets.fps
        try:
            self.num_frames = self._count() if self._packets.num_frames is None else self._packets.num_frames
            if not self.num_frames:
                raise ClipError(f"{self.path}: has no frame that can be decoded; allowed are videos with frames.")
        except BaseException:
            self.close()
            raise

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels, turned as the file says."""
        spans = self._all if self._is_counted else self._table.spans([0])
        decoded = self._decoded(spans) if self._packets.may_be_turned() else ()
        frame = next((frame for _, frame in decoded if frame is not None), None)
        if frame is None:
            return self._packets.size
        return (frame.width, frame.height) if _quarter_turns(frame) % 2 else (frame.height, frame.width)

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """
        Return RGB frames ``(len(indices), H, W, 3)`` in the order of ``indices``.

        Raises:
            ClipError: for an index without frame, and a frame that cannot be decoded or is not of the clip's size.
        """
        indices = [operator.index(index) for index in indices]
        check_frames(self.path, indices, self.num_frames)
        frames = np.empty((len(indices), *self.size, 3), np.uint8)
        places = {index: place for place, index in enumerate(indices)}
        self._read({index: frames[place] for index, place in places.items()})
        for place, index in enumerate(indices):
            if places[index] != place:
                frames[place] = frames[places[index]]
        return frames

    def close(self) -> None:
        """Close the file and drop its packets."""
        self._packets.close()

    def __enter__(self) -> VideoFile:
        """Return the clip."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the clip."""
        self.close()

    def _read(self, wanted: Wanted) -> None:
        """Read with little decoding; where a frame does not come that way, decode all."""
        sound: set[int] = set()
        for whole in (False, True):
            sound = (self._by_count if self._is_counted else self._by_time)(wanted, whole)
            if wanted.keys() <= sound:
                return
        raise ClipError(
            f"{self.path}: frame {min(wanted.keys() - sound)} cannot be decoded, {len(sound)} of {self.num_frames} "
            "frames can, it is damaged; allowed are whole files."
        )

    def _by_time(self, wanted: Wanted, whole: bool) -> set[int]:
        """Find frames by their times; return which came undamaged."""
        table = self._table
        frame_at = {table.times[packet]: index for index, packet in enumerate(table.frames)}
        is_skipping = self._packets.codec in SKIPPABLE and not whole
        needed = {table.times[table.frames[index]] for index in wanted} if is_skipping else None
        given: list[int] = []
        damaged: set[int] = set()  # packets
        for packet, frame in self._decoded(self._all if whole else table.spans(wanted), needed):
            index = None if frame is None else frame_at.get(frame.pts)
            if frame is None or frame.is_corrupt:
                damaged.add(packet if index is None else table.frames[index])
            if index is not None:
                given.append(index)
                self._store(frame, index, wanted)
        if given != sorted(given):
            return self._by_count_instead(wanted, whole)
        return {index for index in given if table.is_sound(index, damaged)}

    def _by_count_instead(self, wanted: Wanted, whole: bool) -> set[int]:
        """The decoder gave the frames in another order than that of the times."""
        count = self._count()
        if count != self.num_frames:
            raise ClipError(f"{self.path}: {count} of {self.num_frames} frames can be decoded; allowed are all.")
        self._is_counted = True
        return self._by_count(wanted, whole)

    def _by_count(self, wanted: Wanted, whole: bool) -> set[int]:
        """Find frames by their place among the decoded ones; return which came undamaged."""
        last = self.num_frames if whole else max(wanted, default=-1)
        sound: set[int] = set()
        run: list[int] = []  # of B-frames, which may be computed from the next other frame
        is_damaged = False
        for index, frame in enumerate(frame for _, frame in self._decoded(self._all)):
            if frame is None:
                break  # nobody knows how many frames are lost
            self._store(frame, index, wanted)
            is_damaged = frame.is_corrupt or (is_damaged and not frame.key_frame)
            if frame.is_corrupt:
                sound.difference_update(run)
            if not is_damaged:
                sound.add(index)
            run = [*run, index] if frame.pict_type == PictureType.B else []
            if index >= last and not run:
                break
        return sound

    def _store(self, frame: Any, index: int, wanted: Wanted) -> None:
        """Convert a frame to where it is wanted, directly: memory for whole frames costs more than the conversion."""
        if index not in wanted:
            return
        image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        image = np.rot90(image, _quarter_turns(frame))
        if image.shape != wanted[index].shape:
            found, size = ("x".join(map(str, array.shape[:2])) for array in (image, wanted[index]))
            raise ClipError(f"{self.path}: frame {index} has {found} pixels, the clip {size}; allowed is one size.")
        wanted[index][...] = image

    def _count(self) -> int:
        return sum(frame is not None for _, frame in self._decoded(self._all))

    def _decoded(
        self, spans: Iterable[tuple[int, int]], needed: Collection[int | None] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """
        Frames of runs of packets as the decoder gives them, None for an error, each with the last packet it was given.

        Of the frames that no other refers to, only those of the ``needed`` times come when these are given.
        """
        packets = enumerate(self._packets)
        for start, stop in spans:
            for number, packet in packets:
                if number < start:
                    continue
                decoder = packet.stream.codec_context
                if number == start:
                    decoder.flush_buffers()
                decoder.skip_frame = "DEFAULT" if needed is None or packet.pts in needed else "NONREF"
                yield from ((number, frame) for frame in _given(decoder, packet))
                if number == stop - 1:
                    yield from ((number, frame) for frame in _given(decoder, None))
                    break


def _given(decoder: Any, packet: Any) -> Sequence[Any]:
    """What the decoder gives for a packet, or at the end for None: frames, or one None for an error."""
    try:
        frames: Sequence[Any] = decoder.decode(packet)
    except FFmpegError:
        return [None]
    return frames


def _quarter_turns(frame: Any) -> int:
    """Quarter turns to the left that the file asks for."""
    return round(frame.rotation / 90)
