# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The label files of Something-Something, versions 1 and 2 (Goyal et al., ICCV 2017), as they are distributed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cakes_video.class_names import check_class_names, read_class_names, without_brackets
from cakes_video.clip_entries import ClipList, ListedClip, checked_clips
from cakes_video.list_lines import numbered_lines

__all__ = ["read_something_v1", "read_something_v2"]


def read_something_v1(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    template: str | None = None,
    must_exist: bool = True,
) -> ClipList:
    """
    Read ``something-something-v1-train.csv`` or ``-validation.csv``: lines ``id;class``, the id a folder of frames.

    Args:
        source: the csv.
        root: folder with the frame folders ``1``, ``2``, ...; None: that of ``source``.
        class_names: names in the order of the labels, or their file; None: the ``*labels.csv`` beside ``source``.
        template: names of the files in a frame folder; None: found by the reader.
        must_exist: whether a missing clip is an error.

    Raises:
        ValueError: for a line that is anything else, and as in :func:`~cakes_video.clip_lists.read_clips`.
    """
    source = Path(source).expanduser()
    listed = []
    for place, line in numbered_lines(source):
        number, found, label = line.partition(";")
        if not found or not number.strip() or not label.strip():
            raise ValueError(f"{place}: cannot read {line!r}; allowed: id;class, which the test list has not.")
        listed.append(ListedClip(place, number.strip(), without_brackets(label), number.strip(), {}))
    names = _class_names(source, class_names, ".csv")
    return checked_clips(source, listed, source.parent if root is None else root, names, template, must_exist)


def read_something_v2(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    template: str | None = None,
    must_exist: bool = True,
) -> ClipList:
    """
    Read ``something-something-v2-train.json`` or ``-validation.json``: ``[{"id": .., "template": ..}, ...]``.

    A template is the class with its objects in brackets, ``"Holding [something]"``.

    Args:
        source: the JSON.
        root: folder with ``1.webm``, ``2.webm``, ... (or frame folders ``1``, ``2``, ...); None: that of ``source``.
        class_names: names in the order of the labels, or their file; None: the ``*labels.json`` beside ``source``.
        template: names of the files in a frame folder; None: found by the reader.
        must_exist: whether a missing clip is an error.

    Raises:
        ValueError: for an entry that is anything else, and as in :func:`~cakes_video.clip_lists.read_clips`.
    """
    source = Path(source).expanduser()
    listed = [_listed(f"{source}, entry {number}", entry) for number, entry in enumerate(_entries(source), 1)]
    names = _class_names(source, class_names, ".json")
    return checked_clips(source, listed, source.parent if root is None else root, names, template, must_exist)


def _class_names(source: Path, given: Sequence[str] | str | os.PathLike[str] | None, suffix: str) -> tuple[str, ...]:
    """Names as the clips' labels write them: without brackets."""
    if given is None:
        found = [path for path in sorted(source.parent.glob(f"*labels{suffix}")) if path != source]
        if len(found) != 1:
            raise ValueError(f"{source}: {len(found)} files *labels{suffix} beside it; allowed: one, or class_names.")
        given = found[0]
    names = read_class_names(given) if isinstance(given, (str, os.PathLike)) else check_class_names(given)
    return check_class_names([without_brackets(name) for name in names])


def _entries(source: Path) -> list[Any]:
    if not source.is_file():
        raise ValueError(f"{source}: no such file; allowed: the JSON of Something-Something V2.")
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{source}: is no JSON ({error}).") from error
    if not isinstance(content, list):
        raise ValueError(f'{source}: is no list; allowed: [{{"id": .., "template": ..}}, ...].')
    return content


def _listed(place: str, entry: Any) -> ListedClip:
    if not isinstance(entry, dict) or not entry.get("id") or not isinstance(entry.get("template"), str):
        raise ValueError(f"{place}: cannot read {entry}; allowed: id and template, which the test list has not.")
    return ListedClip(place, str(entry["id"]), without_brackets(entry["template"]), str(entry["id"]), {})
