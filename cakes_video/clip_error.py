# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The error of a clip that cannot be read, and the check of frame numbers."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ClipError", "check_frames"]


class ClipError(ValueError):
    """A video or a folder of frames that cannot be read; one line: path, what is wrong, what is allowed."""


def check_frames(path: str, indices: Iterable[int], num_frames: int) -> None:
    """
    Check the numbers of frames that are wanted of a clip.

    Raises:
        ClipError: for a number that is no frame.
    """
    for index in indices:
        if not 0 <= index < num_frames:
            raise ClipError(f"{path}: has no frame {index}; allowed are 0 to {num_frames - 1}.")
