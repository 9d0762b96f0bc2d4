# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A video with lines of text and bars of probabilities drawn on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av
import matplotlib as mpl
import numpy as np
from av.video.reformatter import Colorspace
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cakes_monai.atomic_file import written_whole
from cakes_video.clip_error import ClipError
from cakes_video.clip_reader import open_clip

__all__ = ["draw_lines", "write_labelled_video"]

Pixels: TypeAlias = NDArray[np.uint8]  # (height, width, colours)
Lines: TypeAlias = Sequence[tuple[str, float | None]]

SUFFIXES = (".mp4", ".mov", ".mkv")
FRAME_RATE = 25  # of frame folders, and of files that do not say theirs
BOX, BAR, TEXT = (16, 20, 24, 170), (0, 114, 178, 230), (255, 255, 255, 255)


class _Source(NamedTuple):
    """Mean frame rate, width by height of a pixel and standard of the colours where they are known, and the frames."""

    rate: Fraction
    aspect: Fraction | None
    colorspace: Colorspace | None
    frames: Iterator[Pixels]


def write_labelled_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    lines: Lines,
    start: int = 0,
    stop: int | None = None,
    template: str | None = None,
) -> None:
    """
    Write ``source`` again as H.264 with ``lines`` on every frame, in a translucent box in the upper left corner.

    Frames are read, drawn and written one by one, so memory does not grow with the length. The number of frames and
    the mean frame rate stay (25 where the source has none); an odd side gets one more row or column, because H.264 in
    its common form has even sides only. Sound is left out.

    Args:
        source: video file or folder of frames.
        target: file to write, .mp4, .mov or .mkv; it appears when it is complete.
        lines: text and its probability, for a bar and a percentage, or None for text alone. Lines that find no room in
            the upper two thirds are left out, so the most important ones come first.
        start: first frame to write.
        stop: frame to end before; None goes on to the end.
        template: names of the files in a frame folder, as for :func:`~cakes_video.clip_reader.open_clip`.

    Raises:
        ClipError: when the source cannot be read to its end.
        ValueError: for another kind of target, and when ``target`` is ``source``.

    Example:
        >>> write_labelled_video("fi001.mp4", "out/fi001.mp4", [("fight", 0.93), ("no fight", 0.07)])
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{target}: unknown kind of video; allowed are {', '.join(SUFFIXES)}.")
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the video itself; allowed is another folder for the labelled one.")
    with _opened(source, template) as opened:
        wanted = islice(opened.frames, start, stop)
        first = next(wanted, None)
        if first is None:
            raise ClipError(f"{source}: has no frame {start}; allowed is a video with that frame.")
        overlay = draw_lines((first.shape[0], first.shape[1]), lines)
        frames = (_blend(image, overlay) for image in _same_size(chain([first], wanted), source))
        with written_whole(target) as temporary:
            _encode(temporary, opened._replace(frames=frames))


def draw_lines(size: tuple[int, int], lines: Lines) -> Pixels:
    """
    Draw text for the upper left corner of a frame; letters grow with the frame from 10 pixels.

    Args:
        size: height and width of the frame.
        lines: as for :func:`write_labelled_video`; too long ones are cut.

    Shapes:
        - output: ``(height, width, 4)``, RGBA, at most as large as the frame
    """
    height, width = size
    points = max(10, round(min(size) / 24))
    font = ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), points)
    row, gap = round(1.4 * points), max(2, points // 3)
    shown = [(" ".join(text.split()), _percent(text, value), value or 0) for text, value in lines]
    shown = shown[: max(1, 2 * height // 3 // row)]
    widest = max((font.getlength(f"{text} {percent}") for text, percent, _ in shown), default=0)
    box = min(width, max(round(widest) + 4 * gap, 2 * width // 5))
    picture = Image.new("RGBA", (box, min(height, row * len(shown))), BOX)
    draw = ImageDraw.Draw(picture)
    for number, (text, percent, value) in enumerate(shown):
        top, room = number * row, box - 3 * gap - font.getlength(percent)
        draw.rectangle((0, top + 1, round(value * (box - 1)), top + row - 2), BAR if value else BOX)
        draw.text((gap, top + row / 2), _cut(text, font, room), TEXT, font, "lm")
        draw.text((box - gap, top + row / 2), percent, TEXT, font, "rm")
    return np.asarray(picture)


def _percent(text: str, value: float | None) -> str:
    if value is None:
        return ""
    if not 0 <= value <= 1:
        raise ValueError(f"lines: probability {value} of {text!r}; allowed are 0 to 1.")
    return f"{value:.0%}"


def _cut(text: str, font: Any, room: float) -> str:
    """As much of ``text`` as there is room for."""
    lengths = (length for length in range(len(text), 0, -1) if font.getlength(text[:length] + "…") <= room)
    return text if font.getlength(text) <= room else text[: next(lengths, 0)].rstrip() + "…"


def _blend(image: Pixels, overlay: Pixels) -> Pixels:
    blended, (height, width) = image.copy(), overlay.shape[:2]
    part, colors, alpha = (a.astype(np.uint16) for a in (image[:height, :width], overlay[..., :3], overlay[..., 3:]))
    blended[:height, :width] = (part * (255 - alpha) + colors * alpha + 127) // 255
    return blended


@contextmanager
def _opened(source: Path, template: str | None) -> Iterator[_Source]:
    if source.is_dir():
        with open_clip(source, template) as clip:
            frames = (clip.frames([number])[0] for number in range(clip.num_frames))
            yield _Source(_rate(clip.fps), None, None, frames)
        return
    try:
        container = av.open(str(source))
    except av.error.FFmpegError as error:
        raise _unreadable(source, error) from error
    with container:
        if not container.streams.video:
            raise ClipError(f"{source}: has no picture, only other streams; allowed is a video.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate, aspect = _rate(stream.average_rate), stream.sample_aspect_ratio
        colorspace = next((c for c in Colorspace if c.value == stream.codec_context.colorspace), None)
        yield _Source(rate, aspect, colorspace, _decoded(container, source))


def _decoded(container: Any, source: Path) -> Iterator[Pixels]:
    """Frames as a player shows them: turned as the file says."""
    try:
        for frame in container.decode(video=0):
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    except av.error.FFmpegError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Path, error: av.error.FFmpegError) -> ClipError:
    return ClipError(f"{source}: cannot be decoded ({error.strerror}); allowed is a complete video or frame folder.")


def _rate(rate: Fraction | float | None) -> Fraction:
    return Fraction(rate).limit_denominator(1001) if rate else Fraction(FRAME_RATE)


def _same_size(frames: Iterator[Pixels], source: Path) -> Iterator[Pixels]:
    first = None
    for number, image in enumerate(frames):
        first = image.shape if first is None else first
        if image.shape != first:
            sizes = f"{image.shape[1]}x{image.shape[0]}, the first {first[1]}x{first[0]}"
            raise ClipError(f"{source}: frame {number} is {sizes}; allowed is one size.")
        yield image


def _encode(path: Path, video: _Source) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=video.rate, options={"crf": "20", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        for number, image in enumerate(video.frames):
            image = np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)], mode="edge")
            if number == 0:
                stream.height, stream.width = image.shape[:2]
                if video.aspect is not None:
                    context.sample_aspect_ratio = video.aspect
                if video.colorspace is not None:
                    context.colorspace = video.colorspace.value
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=video.colorspace)
            frame.pts, frame.time_base = number, 1 / video.rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
