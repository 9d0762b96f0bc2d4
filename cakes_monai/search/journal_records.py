# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The lines of a journal: what they may say, and the trials they add up to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cakes_monai.search.trial import Candidate, Proposal, Trial

__all__ = ["JournalContent", "differences", "header_of", "parsed", "with_record"]

_FORMAT = 1
_HEADER = {"format", "journal", "settings"}
_FIELDS = {
    "proposed": {"candidate", "reason", "cluster"},
    "started": set[str](),
    "finished": {"score", "seconds", "details"},
    "failed": {"reason", "final"},
}


@dataclass(frozen=True)
class JournalContent:
    """
    What a journal says.

    Args:
        kind: what is searched.
        settings: all that the proposals depend on.
        trials: the trials by index.
        size: bytes of the whole lines; what follows is torn.
    """

    kind: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    size: int


def header_of(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    First line of a journal.

    Raises:
        ValueError: when JSON cannot say the settings.
    """
    try:
        said = json.loads(json.dumps(dict(settings), allow_nan=False))  # tuples are lists from here on
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings of the journal: JSON cannot say them ({error}).") from error
    return {"format": _FORMAT, "journal": kind, "settings": said}


def differences(content: JournalContent, header: Mapping[str, Any]) -> str:
    """What differs between a journal and the header of a search, as text; empty when nothing does."""
    there = {"journal": content.kind} | dict(_flat(content.settings))
    here = {"journal": header["journal"]} | dict(_flat(header["settings"]))
    names = [name for name in {**there, **here} if there.get(name, _flat) != here.get(name, _flat)]
    return "; ".join(f"{name} is {_said(there, name)} in the file and {_said(here, name)} here" for name in names)


def parsed(content: bytes) -> JournalContent:
    """
    The trials of all whole lines.

    A line is whole when it ends in a newline. The last one must be JSON besides: after a power failure a file can have
    its length and not yet what it holds.

    Raises:
        ValueError: naming the line that is damaged or says what cannot be.
    """
    lines = content.split(b"\n")[:-1]
    header = _header(lines[0] if lines else b"")
    trials: tuple[Trial, ...] = ()
    size = len(lines[0]) + 1
    for number, line in enumerate(lines[1:], 2):
        try:
            record = _object(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"line {number}: damaged ({error}), only the last line of a journal may be.") from error
        try:
            trials = with_record(trials, record)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        size += len(line) + 1
    return JournalContent(header["journal"], header["settings"], trials, size)


def with_record(trials: tuple[Trial, ...], record: Mapping[str, Any]) -> tuple[Trial, ...]:
    """
    The trials after an event.

    Raises:
        ValueError: for a record that has not the fields of its event, or an event that cannot be.
    """
    event, index = record.get("event"), record.get("index")
    if event not in _FIELDS:
        raise ValueError(f"unknown event {event!r}, allowed are {', '.join(_FIELDS)}.")
    if wrong := (_FIELDS[event] | {"event", "index", "time"}) ^ record.keys():
        allowed = ", ".join(["index", *sorted(_FIELDS[event]), "time"])
        raise ValueError(f"{event!r} is wrong in {', '.join(sorted(wrong))}, it must have {allowed}.")
    if not isinstance(index, int) or not 0 <= index < len(trials) + (event == "proposed"):
        raise ValueError(f"{event!r} for trial {index!r}, but {len(trials)} trials were proposed.")
    if event == "proposed":
        if index != len(trials):
            raise ValueError(f"trial {index} is proposed twice.")
        return (*trials, Trial(_proposal(record)))
    return (*trials[:index], _after(trials, trials[index], record), *trials[index + 1 :])


def _after(trials: tuple[Trial, ...], trial: Trial, record: Mapping[str, Any]) -> Trial:
    if record["event"] == "started":
        return trial.started()
    ended = sum(other.ended is not None for other in trials)
    if record["event"] == "failed":
        return trial.failed(record["reason"], ended, record["final"])
    return trial.finished(record["score"], ended, record["seconds"], record["details"])


def _proposal(record: Mapping[str, Any]) -> Proposal:
    value = record["candidate"]
    candidate: Candidate = tuple(value) if isinstance(value, list) else value
    return Proposal(record["index"], candidate, record["reason"], record["cluster"])


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = _object(line)
    except ValueError as error:
        raise ValueError("line 1: this is no journal, there must be a header.") from error
    if header.keys() != _HEADER or not isinstance(header["settings"], dict):
        raise ValueError(f"line 1: this is no journal, its header must have {', '.join(sorted(_HEADER))}.")
    if header["format"] != _FORMAT:
        raise ValueError(f"line 1: format {header['format']!r}, allowed is {_FORMAT}.")
    return header


def _object(line: bytes) -> dict[str, Any]:
    """
    The JSON object of a line.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value := json.loads(line), dict):
        raise ValueError("no JSON object")
    return value


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _said(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not given"
