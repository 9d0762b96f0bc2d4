# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The clips that a user wants recognised: one, a folder of them, or a list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cakes_video.clip_entries import VIDEO_CONTAINERS
from cakes_video.clip_lists import read_clips

__all__ = ["find_clips"]

_PICTURES = (".jpg", ".jpeg", ".png")
_LISTS = (".csv", ".txt", ".json")


def find_clips(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, template: str | None = None
) -> list[dict[str, Any]]:
    """
    Clips to recognise; labels are not needed and left out.

    Args:
        path: a video file; a folder of frames; a folder with videos and folders of frames at any depth; or a list as
            for :func:`~cakes_video.clip_lists.read_clips`.
        root: folder that the paths of a list are relative to; None: that of the list.
        template: names of the files in a frame folder; None: found.

    Returns:
        For each clip a dict with "video" and "name", in a fixed order.

    Raises:
        ValueError: when there is nothing at ``path``, or nothing that is a clip.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; allowed are a video, a folder of videos or frames, a list.")
    if path.suffix.lower() in _LISTS and path.is_file():
        listed = read_clips(path, root, template=template).clips
        return [{key: value for key, value in clip.items() if key not in ("label", "num_frames")} for clip in listed]
    files = [path] if path.is_file() else _clips_in(path)
    if not files:
        raise ValueError(f"{path}: no clip in it; allowed are {', '.join(sorted(VIDEO_CONTAINERS))} and frame folders.")
    base = path.parent if path in files else path
    named = [{"video": str(file.resolve()), "name": file.relative_to(base).as_posix()} for file in files]
    return [clip | ({"template": template} if template and Path(clip["video"]).is_dir() else {}) for clip in named]


def _clips_in(folder: Path) -> list[Path]:
    """The folder itself if it has pictures; else the videos and frame folders below it."""
    found: list[Path] = []
    for parent, _, names in sorted(os.walk(folder)):
        if any(name.lower().endswith(_PICTURES) for name in names):
            found.append(Path(parent))
        found += [Path(parent) / name for name in sorted(names) if Path(name).suffix.lower() in VIDEO_CONTAINERS]
    return found
