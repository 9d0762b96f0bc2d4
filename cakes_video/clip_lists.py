# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Lists of labelled clips in the forms that action recognition has, read into one and checked before a training."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cakes_video.class_names import check_class_names, class_order
from cakes_video.clip_entries import VIDEO_CONTAINERS, ClipList, ListedClip, checked_clips
from cakes_video.list_lines import (
    Lines,
    numbered_lines,
    parse_label_lines,
    parse_table,
    parse_tsn_lines,
    table_columns,
    tsn_share,
)
from cakes_video.something_something import read_something_v1, read_something_v2

__all__ = [
    "ClipList",
    "clips_fingerprint",
    "expand_views",
    "read_class_folders",
    "read_clips",
    "read_label_list",
    "read_something_v1",
    "read_something_v2",
    "read_tsn_list",
    "relabel_clips",
]

ClassNames = Sequence[str] | str | os.PathLike[str] | None


def read_clips(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: ClassNames = None,
    template: str | None = None,
    split: str | os.PathLike[str] | None = None,
    must_exist: bool = True,
) -> ClipList:
    """
    Read a list of labelled clips, whatever its form.

    Known are a folder with a folder for each class, Something-Something V1 (``id;class``) and V2 (JSON), TSN's
    ``path num_frames label``, ``path label``, both separated by spaces, tabs, commas or semicolons, and a CSV with a
    header (path, label, and optionally name, num_frames, start, stop). A clip is a video file or a folder of frames;
    its path in the list may lack the suffix of the video. The reader of one form can be called by its own name.

    Args:
        source: the list, or the folder of class folders.
        root: folder that the paths in the list are relative to; None: that of the list.
        class_names: names in the order of the labels, or their file as for
            :func:`~cakes_video.class_names.read_class_names`. None: the labels file beside a list of
            Something-Something, the sorted names of the classes, or ``"0"``, ``"1"``, ... for a list of numbers. Lists
            of one data set need the same ``class_names``: give the second those of the first.
        template: names of the files in a frame folder, as for :func:`~cakes_video.clip_reader.open_clip`; None: found.
        split: text with a name a line (``class/clip.avi``, suffix optional) that selects from class folders.
        must_exist: whether a missing clip is an error; if not, its path is as in the list.

    Raises:
        ValueError: with one line that says where, what is wrong and what is allowed: for a line that cannot be read, a
            label that is no class, a clip that is listed twice, an empty list, and when clips are missing the first of
            them and how many there are.

    Example:
        >>> train = read_clips("something-something-v2-train.json", root="webm")
        >>> validation = read_clips("something-something-v2-validation.json", "webm", train.class_names)
        >>> dataset = monai.data.Dataset(train.clips, transform)
    """
    source = Path(source).expanduser()
    if source.is_dir():
        if root is not None:
            raise ValueError(f"{source}: root is {root}; allowed for a folder of class folders: None.")
        return read_class_folders(source, class_names, template, split)
    if split is not None:
        raise ValueError(f"{source}: split is {split}; allowed only for a folder with a folder for each class.")
    if source.suffix.lower() == ".json":
        return read_something_v2(source, root, class_names, template, must_exist)
    lines = numbered_lines(source)
    if re.fullmatch(r"\d+;.*[A-Za-z].*", lines[0][1]):
        return read_something_v1(source, root, class_names, template, must_exist)
    read = read_tsn_list if not table_columns(lines) and tsn_share(lines[:1000]) >= 0.5 else read_label_list
    return read(source, root, class_names, template, must_exist)


def read_tsn_list(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: ClassNames = None,
    template: str | None = None,
    must_exist: bool = True,
) -> ClipList:
    """
    Read lines ``path num_frames label``; arguments and errors as for :func:`read_clips`.

    The number of frames is kept as ``"num_frames"`` for the scan; loading counts the frames itself.
    """
    source = Path(source).expanduser()
    listed = parse_tsn_lines(numbered_lines(source))
    return checked_clips(source, listed, source.parent if root is None else root, class_names, template, must_exist)


def read_label_list(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: ClassNames = None,
    template: str | None = None,
    must_exist: bool = True,
) -> ClipList:
    """Read lines ``path label`` or a table with a header; arguments and errors as for :func:`read_clips`."""
    source = Path(source).expanduser()
    lines = numbered_lines(source)
    listed = parse_table(lines) if table_columns(lines) else parse_label_lines(lines)
    return checked_clips(source, listed, source.parent if root is None else root, class_names, template, must_exist)


def read_class_folders(
    source: str | os.PathLike[str],
    class_names: ClassNames = None,
    template: str | None = None,
    split: str | os.PathLike[str] | None = None,
) -> ClipList:
    """
    List the clips of a folder with a folder for each class, sorted by class and clip.

    Args:
        source: the folder; in a class folder every video file and every folder of frames is a clip.
        class_names: names in the order of the labels, or their file; None: the names of all folders, sorted.
        template: names of the files in a frame folder.
        split: text with a name a line that selects clips; a label behind the name, as in the lists of UCF101, is left
            out, because the folder tells it.

    Raises:
        ValueError: when there is no folder or one without clips, one is no class of ``class_names``, or a name of the
            split is no clip.
    """
    source = Path(source).expanduser()
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ValueError(f"{source}: has no folders; allowed: a folder for each class, clips in it.")
    listed = [clip for folder in folders for clip in _folder_clips(folder)]
    if split is not None:
        listed = _selected(numbered_lines(Path(split).expanduser()), listed)
    names = [folder.name for folder in folders] if class_names is None else class_names
    return checked_clips(source, listed, source, names, template, must_exist=True)


def relabel_clips(clips: ClipList, class_names: Sequence[str]) -> ClipList:
    """
    Give clips the labels that their classes have in another list of names, for example a checkpoint's.

    Raises:
        ValueError: when a class is not in ``class_names``, see :func:`~cakes_video.class_names.class_order`.
    """
    order = class_order(class_names, clips.class_names)
    relabelled = tuple({**clip, "label": order[clip["label"]]} for clip in clips.clips)
    return ClipList(relabelled, check_class_names(class_names))


def expand_views(clips: Sequence[dict[str, Any]], num_clips: int = 1, num_crops: int = 1) -> list[dict[str, Any]]:
    """
    Repeat every clip once for each of its views, for testing with several clips in time and crops in space.

    A view is an item of the data set like any other; its ``"clip"`` and ``"crop"`` tell
    :class:`~cakes_video.clip_transforms.LoadClipd` and :class:`~cakes_video.clip_transforms.TestCropsd` what to take.
    The views of a clip share its name, by which a report averages their scores.

    Args:
        clips: the clips of a :class:`ClipList`.
        num_clips: clips in time.
        num_crops: crops of each, 1 (centre) or 3 (along the longer side).

    Raises:
        ValueError: when ``num_clips`` is below 1 or ``num_crops`` neither 1 nor 3.
    """
    if num_clips < 1:
        raise ValueError(f"expand_views: num_clips is {num_clips}, allowed are 1 or more.")
    if num_crops not in (1, 3):
        raise ValueError(f"expand_views: num_crops is {num_crops}, allowed are 1 and 3.")
    views = [{"clip": clip, "crop": crop} for clip in range(num_clips) for crop in range(num_crops)]
    return [{**item, **view} for item in clips for view in views]


def clips_fingerprint(clips: ClipList) -> str:
    """
    Fingerprint of the names, classes, frame ranges and file sizes of clips, the same wherever they lie.

    Neither the order of the clips nor that of the class names counts. Of a frame folder only the name counts, and the
    number of frames where the list tells it.

    Returns:
        12 hexadecimal digits.
    """
    counts = ("num_frames", "start", "stop")
    entries = [
        [clip["name"], clips.class_names[clip["label"]], *map(clip.get, counts), _size(clip["video"])]
        for clip in clips.clips
    ]
    return hashlib.sha256(json.dumps(sorted(entries, key=str)).encode()).hexdigest()[:12]


def _size(path: str) -> int:
    found = os.stat(path)  # noqa: PTH116
    return -1 if stat.S_ISDIR(found.st_mode) else found.st_size


def _folder_clips(folder: Path) -> list[ListedClip]:
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and (entry.is_dir() or Path(entry.name).suffix.lower() in VIDEO_CONTAINERS)
        )
    if not names:
        raise ValueError(f"{folder}: has no clips; allowed: a folder for each class, clips in it.")
    paths = [f"{folder.name}/{name}" for name in names]
    return [ListedClip(str(folder), path, folder.name, path, {}) for path in paths]


def _selected(lines: Lines, listed: Sequence[ListedClip]) -> list[ListedClip]:
    clips = {os.path.splitext(clip.path)[0]: clip for clip in listed}  # noqa: PTH122
    clips |= {clip.path: clip for clip in listed}
    chosen = []
    for place, line in lines:
        name = line if line in clips else line.rsplit(maxsplit=1)[0]
        if name not in clips:
            raise ValueError(f"{place}: {line!r} is none of the {len(listed)} clips; allowed: class/clip.")
        chosen.append(clips[name]._replace(place=place))
    return chosen
