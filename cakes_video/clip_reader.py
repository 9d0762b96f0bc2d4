# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One way to read clips: a video file or a folder of frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cakes_video.clip_error import ClipError
from cakes_video.frame_folder import FrameFolder
from cakes_video.video_file import VideoFile

__all__ = ["Clip", "open_clip"]


class Clip(Protocol):
    """An open clip; leaving its ``with`` block closes it."""

    @property
    def num_frames(self) -> int:
        """Number of frames, at least 1."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None where they are not known."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames ``(len(indices), H, W, 3)`` in the order of ``indices``, which may repeat."""

    def close(self) -> None:
        """Let go of files and memory; a second time does nothing."""

    def __enter__(self) -> Clip:
        """Return the clip."""

    def __exit__(self, *_: object) -> None:
        """Close the clip."""


def open_clip(path: str | os.PathLike[str], template: str | None = None) -> Clip:
    """
    Open a video file, or a folder of frames.

    Args:
        path: the file or folder.
        template: names of the pictures in a folder, ``img_{:05d}.jpg`` or ``img_%05d.jpg``; None: found from what is
            in it.

    Raises:
        ClipError: for a clip that does not exist or cannot be read.

    Example:
        >>> with open_clip("clip.webm") as clip:
        ...     frames = clip.frames([0, clip.num_frames - 1])
    """
    if Path(path).is_dir():
        return FrameFolder(path, template)
    if template is not None and Path(path).exists():
        raise ClipError(f"{os.fspath(path)}: is a file, but a template was given; allowed with a template: a folder.")
    return VideoFile(path)
