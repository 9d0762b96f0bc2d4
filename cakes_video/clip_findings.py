# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with one clip: whether it is whole, what its container says, and whether its list tells the truth."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.logging

from cakes_video.clip_entries import VIDEO_CONTAINERS
from cakes_video.clip_error import ClipError
from cakes_video.clip_reader import Clip, open_clip

__all__ = ["content_hash", "examine_clip"]

FRAMES_AT_ONCE = 32
CHUNK = 1 << 20  # bytes

Finding = tuple[str, str]


def examine_clip(task: tuple[Mapping[str, Any], bool, int]) -> dict[str, Any]:
    """
    Find out what is wrong with a clip.

    Args:
        task: the clip as in a :class:`~cakes_video.clip_entries.ClipList`, whether to decode all its frames, and the
            number of frames that are wanted at least.

    Returns:
        ``"findings"`` (status and reason of each), ``"size"`` (bytes), ``"frames"``, ``"fps"``, ``"width"``,
        ``"height"`` and ``"seconds"`` as far as they are known.
    """
    clip, decode, min_frames = task
    path = Path(clip["video"])
    if not path.exists():
        return {"findings": [("missing", "does not exist")]}
    found: dict[str, Any] = {"findings": [], "size": sum(file.stat().st_size for file in _files(path))}
    try:
        with open_clip(path, clip.get("template")) as opened:
            found |= _properties(opened)
            found["findings"] += _list_findings(clip, opened.num_frames, min_frames)
            if decode and path.is_dir():
                _read_all(opened)
        if path.is_file():
            found["findings"] += _file_findings(path, found["frames"], decode)
    except (ClipError, av.error.FFmpegError, OSError) as error:
        found["findings"].insert(0, ("unreadable", " ".join(str(error).removeprefix(f"{path}: ").split())))
    return found


def content_hash(path: str) -> str:
    """Hash of the bytes of a file, or of all files of a folder in the order of their names."""
    digest = hashlib.blake2b(digest_size=16)
    for file in _files(Path(path)):
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _properties(clip: Clip) -> dict[str, Any]:
    height, width = clip.size
    seconds = clip.num_frames / clip.fps if clip.fps else None
    return {"frames": clip.num_frames, "fps": clip.fps, "width": width, "height": height, "seconds": seconds}


def _list_findings(clip: Mapping[str, Any], num_frames: int, min_frames: int) -> Iterator[Finding]:
    listed, start, stop = clip.get("num_frames", num_frames), clip.get("start", 0), clip.get("stop", num_frames)
    if num_frames < 1:
        yield "empty", "has no frames"
    if listed != num_frames:
        yield "frame count", f"the list says {listed} frames, it has {num_frames}"
    if not start < stop <= num_frames:
        yield "frame range", f"the list says frames {start} to {stop}, it has {num_frames}"
    elif stop - start < min_frames:
        yield "short", f"{stop - start} frames, wanted are {min_frames} or more"


def _read_all(clip: Clip) -> None:
    for first in range(0, clip.num_frames, FRAMES_AT_ONCE):
        clip.frames(range(first, min(first + FRAMES_AT_ONCE, clip.num_frames)))


def _file_findings(path: Path, num_frames: int, decode: bool) -> Iterator[Finding]:
    """What FFmpeg says of a video file; its messages are heard, for most damage is concealed in the picture."""
    with _heard() as messages, av.open(os.fspath(path)) as container:
        allowed = VIDEO_CONTAINERS.get(path.suffix.lower())
        if allowed and not set(allowed) & set(container.format.name.split(",")):
            yield "container", f"is {container.format.name}, the suffix {path.suffix} stands for {' or '.join(allowed)}"
        if decode:
            yield from _decoding_findings(container, num_frames, messages)


@contextmanager
def _heard() -> Iterator[list[tuple[int, str, str]]]:
    """Collect the errors that FFmpeg logs."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as messages:
            yield messages
    finally:
        av.logging.set_level(None)


def _decoding_findings(container: Any, num_frames: int, messages: list[tuple[int, str, str]]) -> Iterator[Finding]:
    stream, count, corrupt, stopped = container.streams.video[0], 0, 0, ""
    stream.thread_count = 1  # the processes share the machine
    try:
        for frame in container.decode(stream):
            count, corrupt = count + 1, corrupt + frame.is_corrupt
    except av.error.FFmpegError as error:
        stopped = f" ({error.strerror})"
    if stopped or count < num_frames:
        yield "truncated", f"decoding gives {count} of {num_frames} frames{stopped}"
    elif corrupt or messages:
        first = messages[0][2].strip() if messages else "a corrupt frame"
        yield "damaged", f"decoding meets {max(corrupt, len(messages))} errors, the first: {first}"
