# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips whose frames show their own numbers, in several containers and codecs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

NUM_FRAMES, RATE = 40, 25
HEIGHT, WIDTH, BLOCK = 64, 128, 32  # 2 x 4 blocks, one for each bit of a number
X264 = {"bf": 3, "codec": "libx264"}
MPEG4 = {"codec": "mpeg4", "keys": 12}
CLIPS: dict[str, dict[str, Any]] = {
    "vp9.webm": {"codec": "libvpx-vp9", "keys": 15, "options": {"deadline": "realtime", "lag-in-frames": "16"}},
    "vp8.webm": {"codec": "libvpx", "keys": 15, "options": {"deadline": "realtime"}},
    "h264_keys12.mp4": {**X264, "keys": 12},
    "h264_keys5.mp4": {**X264, "keys": 5},
    "h264_one_key.mp4": {**X264, "keys": 250},
    "h264_open_groups.mp4": {**X264, "keys": 12, "options": {"x264-params": "open-gop=1:b-adapt=0:b-pyramid=normal"}},
    "h264_no_keys.mp4": {"codec": "libx264", "keys": 12, "options": {"x264-params": "intra-refresh=1"}},
    "h264.mkv": {**X264, "keys": 12},
    "h264.ts": {**X264, "keys": 12},
    "h264.avi": {**X264, "keys": 12},
    "h264_stream.h264": {**X264, "keys": 12},
    "mpeg4_b.avi": {**MPEG4, "bf": 2},
    "mpeg4_packed.avi": {**MPEG4, "bf": 1, "is_packed": True},
    "mpeg4.avi": MPEG4,
    "mpeg4_b.mp4": {**MPEG4, "bf": 2},
    "mpeg1_b.mpg": {"codec": "mpeg1video", "keys": 12, "bf": 2},
    "mpeg1.mpg": {"codec": "mpeg1video", "keys": 12},
    "mpeg1_stream.m1v": {"codec": "mpeg1video", "keys": 12, "bf": 2},
    "mpeg2_b.mpg": {"codec": "mpeg2video", "keys": 12, "bf": 2},
    "mjpeg.avi": {"codec": "mjpeg", "keys": 1, "pix_fmt": "yuvj420p"},
}


class NumberedClips:
    """Writes clips to a folder when they are first asked for."""

    num_frames, rate, size = NUM_FRAMES, RATE, (HEIGHT, WIDTH)
    names = tuple(CLIPS)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> Path:
        """Path of one of the clips."""
        path = self.folder / name
        if not path.exists():
            self.write(path, **CLIPS[name])
        return path

    def write(
        self,
        path: Path,
        codec: str = "libx264",
        keys: int = 12,
        bf: int = 0,
        options: dict[str, str] | None = None,
        pix_fmt: str = "yuv420p",
        is_packed: bool = False,
        num_frames: int = NUM_FRAMES,
        change: Callable[[list[av.Packet]], list[av.Packet]] | None = None,
        **more: Any,
    ) -> Path:
        """Write a clip, with the keyframe interval, number of B-frames between others, and a last change of packets."""
        with av.open(str(path), "w", **more) as container:
            stream = container.add_stream(codec, rate=RATE, options=options or {})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = keys, bf
            packets = [packet for frame in (*map(_frame, range(num_frames)), None) for packet in stream.encode(frame)]
            for packet in change(packets) if change else _packed(packets) if is_packed else packets:
                packet.stream = stream
                container.mux(packet)
        return path

    @staticmethod
    def number(image: np.ndarray) -> int:
        """The number that a picture shows."""
        bits = image[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].mean(-1).ravel() > 128
        return sum(int(bit) << place for place, bit in enumerate(bits))

    def numbers(self, images: Sequence[np.ndarray]) -> list[int]:
        """The numbers that pictures show."""
        return [self.number(image) for image in images]

    @staticmethod
    def picture(number: int) -> np.ndarray:
        """A picture that shows a number."""
        bits = np.array([number >> place & 1 for place in range(8)], np.uint8).reshape(2, 4)
        return np.kron(bits, np.ones((BLOCK, BLOCK), np.uint8))[..., None].repeat(3, -1) * 200 + 28


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> NumberedClips:
    """Clips of 40 frames that show their numbers."""
    return NumberedClips(tmp_path_factory.mktemp("clips"))


def _frame(number: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(NumberedClips.picture(number), format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, RATE)
    return frame


def _packed(packets: list[av.Packet]) -> list[av.Packet]:
    """As DivX 5 packs B-frames: each into the packet of the frame before it, and "not coded" where it was."""
    pictures = [bytes(packet) for packet in packets]
    start = pictures[0].index(b"\x00\x00\x01\xb6")
    pictures[0] = pictures[0][:start] + b"\x00\x00\x01\xb2DivX503b1393p" + pictures[0][start:]
    return list(_repacked(packets, pictures))


def _repacked(packets: list[av.Packet], pictures: list[bytes]) -> Iterator[av.Packet]:
    for number, (old, data) in enumerate(zip(packets, pictures, strict=True)):
        after = pictures[number + 1] if number + 1 < len(pictures) else b""
        content = _not_coded(data) if _is_b(data) else data + after if _is_b(after) else data
        packet = av.Packet(content)
        packet.pts = packet.dts = number
        packet.time_base, packet.is_keyframe = Fraction(1, RATE), old.is_keyframe
        yield packet


def _is_b(picture: bytes) -> bool:
    return picture[:4] == b"\x00\x00\x01\xb6" and picture[4] >> 6 == 2


def _not_coded(picture: bytes) -> bytes:
    """A picture of MPEG-4 part 2 that has the time of another one, and nothing else."""
    bits = "".join(f"{byte:08b}" for byte in picture[4:10])
    end = bits.index("0", 2) + 1 + 1 + 5 + 1  # seconds, marker, 25ths of a second in 5 bits, marker
    bits = "01" + bits[2:end] + "0"
    bits += "0" + "1" * (7 - len(bits) % 8)
    return picture[:4] + int(bits, 2).to_bytes(len(bits) // 8, "big")
