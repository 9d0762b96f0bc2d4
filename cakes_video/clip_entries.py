# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The value object of a list of clips, and the checks between the lines of a file and it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cakes_video.class_names import check_class_names, read_class_names
from cakes_video.clip_reader import open_clip

__all__ = ["VIDEO_CONTAINERS", "ClipList", "ListedClip", "checked_clips"]

MAX_CLASSES = 100_000  # without names, numbers from here on are no labels but something else

# Suffixes of video files, and what FFmpeg calls the container each stands for.
VIDEO_CONTAINERS = {
    ".webm": ("webm",),
    ".mp4": ("mp4",),
    ".m4v": ("mp4",),
    ".mov": ("mov",),
    ".3gp": ("3gp",),
    ".avi": ("avi",),
    ".mkv": ("matroska",),
    ".mpg": ("mpeg", "mpegts", "mpegvideo"),
    ".mpeg": ("mpeg", "mpegts", "mpegvideo"),
    ".vob": ("mpeg",),
    ".ts": ("mpegts",),
    ".mts": ("mpegts",),
    ".flv": ("flv",),
    ".wmv": ("asf",),
    ".ogv": ("ogg",),
    ".gif": ("gif",),
}


@dataclass(frozen=True)
class ClipList:
    """
    Clips with their labels.

    Attributes:
        clips: for each ``{"video": absolute path, "label": number of the class, "name": unique name}``, and where given
            ``"start"`` and ``"stop"`` (frames, stop excluded), ``"num_frames"`` (what the list says) and ``"template"``
            (names of the files in a frame folder).
        class_names: names of the labels 0, 1, ...

    Raises:
        ValueError: when there is no clip, a name stands there twice, or a label is no class.
    """

    clips: tuple[dict[str, Any], ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        if not self.clips:
            raise ValueError("clips: the list is empty; allowed: at least one clip.")
        if len({clip["name"] for clip in self.clips}) < len(self.clips):
            raise ValueError("clips: a name stands there twice; allowed are different names.")
        if wrong := [clip for clip in self.clips if not 0 <= clip["label"] < len(self.class_names)]:
            allowed = f"allowed are 0 to {len(self.class_names) - 1}"
            raise ValueError(f"{wrong[0]['video']}: label {wrong[0]['label']} is no class; {allowed}.")


class ListedClip(NamedTuple):
    """A clip as a list has it: where it stands, its path, the number or name of its class, and what else is given."""

    place: str
    path: str
    label: int | str
    name: str
    more: dict[str, int]


def checked_clips(
    source: Path,
    listed: Sequence[ListedClip],
    root: str | os.PathLike[str],
    class_names: Sequence[str] | str | os.PathLike[str] | None,
    template: str | None,
    must_exist: bool,
) -> ClipList:
    """
    Turn the entries of a list into clips.

    A path that does not exist as it stands is taken with the suffix of a video, if there is exactly one such file.

    Args:
        source: the list, for messages.
        listed: its entries.
        root: folder that paths are relative to.
        class_names: names in the order of the labels, or their file as for :func:`read_class_names`; None: what the
            list itself tells, numbers or the sorted names.
        template: names of the files in a frame folder.
        must_exist: whether a missing clip is an error.

    Raises:
        ValueError: for an empty list, a name that stands there twice, a label that is no class, and missing clips.
    """
    if not listed:
        raise ValueError(f"{source}: lists no clip; allowed: at least one.")
    _check_names(listed)
    names = _class_names(listed, class_names)
    labels = _labels(listed, names)
    paths = _paths(Path(root).expanduser().absolute(), listed, must_exist)
    if must_exist and (template is not None or Path(paths[0]).is_dir()):
        with open_clip(paths[0], template):  # a template that fits no folder is known before the training starts
            pass
    shared = {} if template is None else {"template": template}
    clips = (
        {"video": path, "label": label, "name": clip.name, **clip.more, **shared}
        for clip, label, path in zip(listed, labels, paths, strict=True)
    )
    return ClipList(tuple(clips), names)


def _check_names(listed: Iterable[ListedClip]) -> None:
    seen: dict[str, str] = {}
    for clip in listed:
        if clip.name in seen:
            raise ValueError(f"{clip.place}: {clip.name!r} is there already, {seen[clip.name]}; allowed: once.")
        seen[clip.name] = clip.place


def _class_names(listed: Sequence[ListedClip], given: Sequence[str] | str | os.PathLike[str] | None) -> tuple[str, ...]:
    if isinstance(given, (str, os.PathLike)):
        return read_class_names(given)
    if given is not None:
        return check_class_names(given)
    texts = [clip for clip in listed if isinstance(clip.label, str)]
    if texts and len(texts) < len(listed):
        raise ValueError(f"{texts[0].place}: label {texts[0].label!r} is text, others are numbers; allowed: one kind.")
    if texts:
        return tuple(sorted({str(clip.label) for clip in texts}))
    last = max(listed, key=lambda clip: int(clip.label))
    if not 0 <= int(last.label) < MAX_CLASSES:
        raise ValueError(f"{last.place}: label {last.label} is no class; allowed: 0 to {MAX_CLASSES - 1}.")
    return tuple(str(label) for label in range(int(last.label) + 1))


def _labels(listed: Iterable[ListedClip], class_names: Sequence[str]) -> list[int]:
    numbers: dict[int | str, int] = {name: label for label, name in enumerate(class_names)}
    numbers.update((label, label) for label in range(len(class_names)))
    for clip in listed:
        if clip.label not in numbers:
            allowed = f"0 to {len(class_names) - 1}" if isinstance(clip.label, int) else f"the {len(class_names)} names"
            raise ValueError(f"{clip.place}: label {clip.label!r} is no class; allowed: {allowed} of class_names.")
    return [numbers[clip.label] for clip in listed]


def _paths(root: Path, listed: Sequence[ListedClip], must_exist: bool) -> list[str]:
    """Absolute paths; folders are listed once each, which is faster than asking for every file."""
    folders: dict[str, dict[str, list[str]]] = {}
    paths, missing = [], []
    for clip in listed:
        wanted = os.path.normpath(os.path.join(root, clip.path))  # noqa: PTH118
        folder, name = os.path.split(wanted)
        if folder not in folders:
            folders[folder] = _files(folder)
        found = folders[folder].get(name, [])
        if len(found) > 1:
            raise ValueError(f"{clip.place}: {wanted} may be {' or '.join(sorted(found))}; allowed: one of them.")
        if not found:
            missing.append((clip, wanted))
        paths.append(os.path.join(folder, found[0]) if found else wanted)  # noqa: PTH118
    if missing and must_exist:
        clip, wanted = missing[0]
        raise ValueError(
            f"{clip.place}: {wanted} does not exist, nor with the suffix of a video; {len(missing)} of {len(listed)} "
            f"clips are missing; allowed: a root that holds them, it is {root}."
        )
    return paths


def _files(folder: str) -> dict[str, list[str]]:
    """What a name in a folder stands for: itself, or else the video files that have it before their suffix."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return {}
    files: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() in VIDEO_CONTAINERS:
            files.setdefault(stem, []).append(name)
    return {**files, **{name: [name] for name in names}}
