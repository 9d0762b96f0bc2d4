# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The packets of a video file, listed without decoding them, and what they tell of its frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition

from cakes_video.clip_error import ClipError
from cakes_video.packet_table import PacketTable

__all__ = ["VideoPackets"]

HELD_BYTES = 64 * 2**20  # of packets kept in memory; those of longer videos are read from the file again
PICTURE_START = b"\x00\x00\x01\xb6"  # of MPEG-4 part 2; an AVI may pack two pictures into one packet
TINY = 20  # bytes, more than the packet has that follows such a pair and stands for its second picture
TURNING = (b"mvhd", b"tkhd")  # parts of an MP4 with a matrix that can turn the video (ISO/IEC 14496-12, 8.2.2, 8.3.2)
MATRIX_END = 88  # bytes behind the name, at most
UPRIGHT = b"\x00\x01\x00\x00" + bytes(12) + b"\x00\x01\x00\x00"  # first five of the nine numbers: no turn
LOST = Fraction(1, 10)  # seconds that may be missing at the end of a Matroska file, besides two frames
# PyAV before 19 refuses files with titles that are not UTF-8, unless told not to.
TEXT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


class VideoPackets:
    """
    The packets of the first video stream of a file; iterating gives them in the order of decoding, every time anew.

    Args:
        path: the file.

    Attributes:
        table: which packet gives which frame, from the times of the packets.
        is_counted: whether these times are not to be trusted, so that frames have to be counted from the start.
        num_frames: number of frames; None where only decoding tells.

    Raises:
        ClipError: for a file that does not exist, is no video, is truncated as far as its container tells, or has no
            frames.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._container = _opened(self.path)
        self._held: list[Any] | None = []
        self._is_closed = False
        try:
            stream = _video_stream(self.path, self._container)
            self.codec: str = stream.codec_context.codec.canonical_name
            self.size: tuple[int, int] = (stream.codec_context.height, stream.codec_context.width)
            self.fps = float(stream.average_rate) if stream.average_rate else None
            self._list(stream)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Any]:
        """Yield the packets, whose streams decode with one thread."""
        if self._is_closed:
            raise ClipError(f"{self.path}: was closed; allowed is reading before that.")
        if self._held is not None:
            yield from self._held
            return
        with closing(_opened(self.path)) as container:
            packets = _demuxed(self.path, container, _video_stream(self.path, container))
            yield from (packet for packet in packets if packet.size)

    def may_be_turned(self) -> bool:
        """Whether the file may say that its frames are to be turned; decoded frames tell for certain."""
        if not self._is_a("mov"):
            return self._is_a("matroska")
        header = _movie_header(self.path)
        return not header or any(UPRIGHT not in box[:MATRIX_END] for name in TURNING for box in header.split(name)[1:])

    def close(self) -> None:
        """Close the file and drop the packets."""
        self._is_closed, self._held = True, None
        self._container.close()

    def _list(self, stream: Any) -> None:
        listed = [_Listed.of(packet, self.codec) for packet in self._holding(stream)]
        there = [packet for packet in listed if packet.size]  # without those by which an AVI shows a frame longer
        if not there:
            raise ClipError(f"{self.path}: has no frames; allowed are videos with frames.")
        self._check_whole(stream, len(listed), max(packet.end for packet in there))
        self.table = PacketTable(
            tuple(packet.time for packet in there),
            tuple(packet.is_key for packet in there),
            tuple(packet.is_shown for packet in there),
        )
        is_mpeg4, intra_only = self.codec == "mpeg4", stream.codec_context.codec.intra_only
        is_packed = is_mpeg4 and any(packet.pictures != 1 for packet in there)
        self.is_counted = is_packed or not self._has_times(intra_only) or not self.table.is_ordered
        one_each = intra_only or (is_mpeg4 and _gives_one_each(there)) or not self.is_counted
        self.num_frames = len(self.table.frames) if one_each else None

    def _has_times(self, intra_only: bool) -> bool:
        """Whether the times are those of presentation; an AVI's are those of decoding."""
        timeless = self._container.format.flags & Flags.no_timestamps.value
        return not timeless and (intra_only or not self._is_a("avi"))

    def _holding(self, stream: Any) -> Iterator[Any]:
        """The packets, of which as many are kept as may be."""
        size = 0
        for packet in _demuxed(self.path, self._container, stream):
            size += packet.size
            if size > HELD_BYTES:
                self._held = None
            elif packet.size and self._held is not None:
                self._held.append(packet)
            yield packet

    def _check_whole(self, stream: Any, num_packets: int, end: int) -> None:
        """Compare with what the header or the index promise, where there is one."""
        there = ""
        if self._is_a("mov") and num_packets < len(stream.index_entries):
            if any(entry.pos + entry.size > self._container.size for entry in stream.index_entries):
                there = f"{num_packets} of {len(stream.index_entries)} frames are there"
        elif self._is_a("avi") and end < stream.frames:  # also where nothing is shown at the end
            with Path(self.path).open("rb") as file:
                if int.from_bytes(file.read(8)[4:], "little") + 8 > self._container.size:
                    there = f"{num_packets} of {stream.frames} frames are there"
        elif self._is_a("matroska") and self._ends_early(stream, end * stream.time_base):
            there = f"{num_packets} frames of {self._container.duration / av.time_base:g} s are there"
        if there:
            raise ClipError(f"{self.path}: is truncated, {there}; allowed are whole files.")

    def _ends_early(self, stream: Any, end: Fraction) -> bool:
        promised = Fraction(self._container.duration or 0, av.time_base)
        promised -= LOST + (2 / stream.average_rate if stream.average_rate else 0)
        if end >= promised:
            return False
        with closing(_opened(self.path)) as container:  # other streams may be longer
            ends = (_end(packet) for packet in _demuxed(self.path, container))
            return max(ends, default=Fraction(0)) < promised

    def _is_a(self, *formats: str) -> bool:
        return not set(formats).isdisjoint(self._container.format.name.split(","))


class _Listed(NamedTuple):
    """What is kept of a packet."""

    time: int | None
    end: int
    size: int
    is_key: bool
    is_shown: bool
    pictures: int  # of MPEG-4 part 2

    @classmethod
    def of(cls, packet: Any, codec: str) -> _Listed:
        # Bit 4 of VP8's first byte is "show_frame" (RFC 6386, section 9.1).
        hidden = packet.is_discard or (codec == "vp8" and packet.size and not memoryview(packet)[0] & 16)
        pictures = bytes(packet).count(PICTURE_START) if codec == "mpeg4" else 0
        end = (packet.pts or 0) + (packet.duration or 0)
        return cls(packet.pts, end, packet.size, packet.is_keyframe, not hidden, pictures)


def _gives_one_each(packets: Sequence[_Listed]) -> bool:
    """Whether every packet of MPEG-4 part 2 gives one frame: one that is over is taken by a tiny packet behind it."""
    over = 0
    for packet in packets:
        pictures = 0 if packet.size < TINY else packet.pictures
        over += pictures - 1
        if over not in (0, 1):
            return False
    return True


def _opened(path: str) -> Any:
    file = Path(path)
    if not file.exists():
        raise ClipError(f"{path}: does not exist; allowed is a video file or a folder of frames.")
    if file.is_file() and not file.stat().st_size:
        raise ClipError(f"{path}: is empty; allowed is a video file.")
    try:
        return av.open(str(file.absolute()), **TEXT)  # what precedes a colon in a relative path would be a protocol
    except (FFmpegError, OSError) as error:
        reason = f"cannot be opened as a video ({error.strerror}), it is damaged, truncated or something else"
        raise ClipError(f"{path}: {reason}; allowed are whole files.") from error


def _video_stream(path: str, container: Any) -> Any:
    """The first video that is no cover picture, set to decode with one thread: data loaders have many processes."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise ClipError(f"{path}: has no video, {len(container.streams)} other streams; allowed are files with video.")
    if streams[0].codec_context is None:
        raise ClipError(
            f"{path}: has a video of an unknown format, or is truncated; allowed is what FFmpeg can decode."
        )
    streams[0].codec_context.thread_type = "NONE"
    streams[0].codec_context.thread_count = 1
    return streams[0]


def _demuxed(path: str, container: Any, *streams: Any) -> Iterator[Any]:
    """All packets but the last of each stream, which are empty and have no time: they stand for the end."""
    count = 0
    try:
        for packet in container.demux(*streams):
            if packet.size or packet.dts is not None:
                count += 1
                yield packet
    except FFmpegError as error:
        raise ClipError(
            f"{path}: cannot be read behind packet {count} ({error.strerror}), it is damaged; allowed are whole files."
        ) from error


def _movie_header(path: str) -> bytes:
    """The box "moov" of an MP4, one of those that follow each other (ISO/IEC 14496-12, 4.2); empty without."""
    with Path(path).open("rb") as file:
        while len(start := file.read(8)) == 8:
            size, skipped = int.from_bytes(start[:4], "big"), 8
            if start[4:] == b"moov":
                return file.read(max(size - skipped, 0))
            if size == 1:  # too large for 32 bits
                size, skipped = int.from_bytes(file.read(8), "big"), 16
            if size < skipped:
                break
            file.seek(size - skipped, 1)
    return b""


def _end(packet: Any) -> Fraction:
    return ((packet.pts or 0) + (packet.duration or 0)) * Fraction(packet.time_base or 0)
