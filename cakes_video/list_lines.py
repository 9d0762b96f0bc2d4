# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Lines of text lists of clips: TSN's, path and label, and tables with a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from cakes_video.clip_entries import ListedClip

__all__ = ["numbered_lines", "parse_label_lines", "parse_table", "parse_tsn_lines", "table_columns", "tsn_share"]

COLUMNS = {
    "path": "path",
    "video": "path",
    "file": "path",
    "label": "label",
    "class": "label",
    "name": "name",
    "num_frames": "num_frames",
    "start": "start",
    "stop": "stop",
}
NUMBER = re.compile(r"-?\d+")

Lines = Sequence[tuple[str, str]]


def numbered_lines(path: Path) -> list[tuple[str, str]]:
    """
    Lines of a text that are not blank, each after its place ``"file:number"``.

    Raises:
        ValueError: when the file does not exist, is no text, or is empty.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; allowed: a list of clips, or a folder with a folder for each class.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error.reason}); allowed: a list of clips.") from error
    lines = [(f"{path}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: lists no clip; allowed: at least one.")
    return lines


def tsn_share(lines: Lines) -> float:
    """Share of the lines that end in two numbers, as ``path num_frames label`` does."""
    separator = _separator(lines)
    ends = [_fields(place, line, separator, 3)[1:] for place, line in lines]
    return sum(len(end) == 2 and all(map(NUMBER.fullmatch, end)) for end in ends) / len(lines)


def table_columns(lines: Lines) -> list[str]:
    """Columns of a table, or nothing when the first line is no header with at least path and label."""
    place, line = lines[0]
    names = [name.strip().lower() for name in _fields(place, line, _separator(lines), len(COLUMNS))]
    columns = [COLUMNS.get(name, "") for name in names]
    if not {"path", "label"} <= set(columns):
        return []
    if "" in columns or len(set(columns)) < len(columns):
        raise ValueError(f"{place}: columns are {', '.join(names)}; allowed, each once: {', '.join(COLUMNS)}.")
    return columns


def parse_tsn_lines(lines: Lines) -> list[ListedClip]:
    """
    Read lines ``path num_frames label`` as TSN and its successors have them, separated by spaces or as a CSV.

    Raises:
        ValueError: for a line that is anything else.
    """
    separator, listed = _separator(lines), []
    for place, line in lines:
        fields = _fields(place, line, separator, 3)
        if len(fields) != 3 or not all(map(NUMBER.fullmatch, fields[1:])):
            raise ValueError(f"{place}: cannot read {line!r}; allowed: path, number of frames and label number.")
        listed.append(_listed(place, dict(zip(("path", "num_frames", "label"), fields, strict=True))))
    return listed


def parse_label_lines(lines: Lines) -> list[ListedClip]:
    """
    Read lines ``path label``; the label is a number or a name, which has no spaces where they separate the two.

    Raises:
        ValueError: for a line that is anything else.
    """
    separator, listed = _separator(lines), []
    for place, line in lines:
        fields = _fields(place, line, separator, 2)
        if len(fields) != 2 or not all(fields):
            raise ValueError(f"{place}: cannot read {line!r}; allowed: path and label.")
        listed.append(_listed(place, dict(zip(("path", "label"), fields, strict=True))))
    return listed


def parse_table(lines: Lines) -> list[ListedClip]:
    """
    Read a table with a header: the columns path and label, and of name, num_frames, start and stop those that it has.

    Raises:
        ValueError: for other columns, and for a line that does not fill them.
    """
    separator, columns = _separator(lines), table_columns(lines)
    if not columns:
        raise ValueError(f"{lines[0][0]}: cannot read {lines[0][1]!r}; allowed: a header with at least path, label.")
    listed = []
    for place, line in lines[1:]:
        fields = _fields(place, line, separator, len(columns))
        row = dict(zip(columns, fields, strict=False))
        if len(fields) != len(columns) or not row["path"] or not row["label"]:
            raise ValueError(f"{place}: cannot read {line!r}; allowed: {', '.join(columns)}.")
        listed.append(_listed(place, row))
    return listed


def _listed(place: str, row: dict[str, str]) -> ListedClip:
    counts = {key: row[key] for key in ("num_frames", "start", "stop") if row.get(key)}
    for key, text in counts.items():
        if not text.isdecimal():
            raise ValueError(f"{place}: {key} is {text!r}; allowed: a whole number from 0.")
    more = {key: int(text) for key, text in counts.items()}
    start, stop = more.get("start", 0), more.get("stop")
    if stop is not None and stop <= start:
        raise ValueError(f"{place}: frames {start} to {stop} are none; allowed: start below stop.")
    span = f"#{start}-{'end' if stop is None else stop}" if {"start", "stop"} & set(more) else ""
    label = int(row["label"]) if NUMBER.fullmatch(row["label"]) else row["label"]
    return ListedClip(place, row["path"], label, row.get("name") or row["path"] + span, more)


def _separator(lines: Lines) -> str | None:
    """Tab, semicolon or comma when every line has one outside of quotes, else None for spaces."""
    bare = [re.sub(r'"[^"]*"', "", line) for _, line in lines]
    return next((separator for separator in "\t;," if all(separator in line for line in bare)), None)


def _fields(place: str, line: str, separator: str | None, count: int) -> list[str]:
    """Split from the right, because paths have spaces and commas; a line with quotes as CSV."""
    if '"' not in line:
        return [field.strip() for field in line.rsplit(separator, count - 1)]
    try:
        row = next(csv.reader([line], delimiter=separator or " ", skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{place}: cannot read {line!r} ({error}); allowed: quotes in pairs.") from error
    return [field.strip() for field in row if separator or field]
