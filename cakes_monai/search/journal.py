# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The trials of a search in a file that survives a kill at any moment."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cakes_monai.atomic_file import written_whole
from cakes_monai.search.journal_lock import JournalLock
from cakes_monai.search.journal_records import JournalContent, differences, header_of, parsed, with_record
from cakes_monai.search.trial import Proposal, Trial, checked_score

__all__ = ["Journal", "read_journal"]

logger = logging.getLogger(__name__)


def read_journal(path: str | os.PathLike[str]) -> JournalContent:
    """
    What a journal says, also while a driver writes it.

    A last line that is not whole is left out: it is just being written, or its writer was killed.

    Raises:
        ValueError: naming the file and the line, when it is no journal or a line is damaged.
    """
    try:
        return parsed(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


class Journal:
    """
    Append-only JSON lines: a header, then one record for each event of a trial.

    A method returns when its record is on the disk. What a killed driver left of a last record is cut. Only one
    journal object can be open for a file; a second driver gets an error (where the file system has locks, see
    :class:`~cakes_monai.search.journal_lock.JournalLock`).

    Args:
        path: the file; it and its folder are made when they do not exist.
        kind: what is searched, e.g. "topology".
        settings: all that the proposals depend on (space, seed ...) and all that makes scores comparable; anything
            JSON can say. A journal of another kind or other settings is refused.

    Raises:
        ValueError: when another driver writes the file, it is no journal or damaged, or it belongs to another search;
            then one line says what differs. Also when the file cannot be made.

    Example:
        >>> with Journal("eval/journal.jsonl", "width", widths.settings) as journal:  # doctest: +SKIP
        ...     widths = CandidateList(WIDTH_MULTIPLIERS, journal.trials)
        ...     while (proposal := widths.ask()) is not None:
        ...         journal.proposed(proposal)
        ...         journal.started(proposal.index)
        ...         score = train_and_evaluate(proposal.candidate)
        ...         journal.finished(proposal.index, score)
        ...         widths.tell(proposal.index, score)
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._file: int | None = None
        header = header_of(kind, settings)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = JournalLock(self.path)
            try:
                self._file = self._open(header)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be opened as a journal ({error.strerror}).") from error

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials by index."""
        return self._trials

    def proposed(self, proposal: Proposal) -> None:
        """
        A candidate is going to be evaluated; one that is handed out again is not written again.

        Raises:
            ValueError: when it is not the next trial nor one that is in the journal and has not ended.
            OSError: as for every record, when it could not be written; the journal then is as before.
        """
        if any(trial.proposal == proposal and trial.ended is None for trial in self._trials[proposal.index :][:1]):
            return
        candidate = list(proposal.candidate) if isinstance(proposal.candidate, tuple) else proposal.candidate
        self._append("proposed", proposal.index, candidate=candidate, reason=proposal.reason, cluster=proposal.cluster)

    def started(self, index: int) -> None:
        """A worker evaluates the trial, for the first time or again."""
        self._append("started", index)

    def finished(
        self, index: int, score: float, seconds: float | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        """
        The trial has a score.

        Args:
            index: number of the trial.
            score: the larger the better.
            seconds: duration of the attempt.
            details: more results, anything JSON can say; numbers that are not finite (say, the Dice of a class that
                is nowhere) are written as null.

        Raises:
            ValueError: for a score that is no finite number, an unknown trial or one that has ended.
        """
        self._append(
            "finished", index, score=checked_score(score, index), seconds=seconds, details=_finite(dict(details or {}))
        )

    def failed(self, index: int, reason: str, final: bool = True) -> None:
        """An attempt failed; unless that is ``final``, the trial is to be tried again."""
        self._append("failed", index, reason=reason, final=final)

    def close(self) -> None:
        """Close the file and let other drivers write it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, header: Mapping[str, Any]) -> int:
        if not self.path.exists() or not self.path.stat().st_size:
            self._begin(header)
        content = read_journal(self.path)
        if different := differences(content, header):
            raise ValueError(f"{self.path}: belongs to another search: {different}.")
        self._trials = content.trials
        self._size = content.size  # in bytes, of all whole lines
        self._torn = False  # whether this object left part of a record behind them
        if torn := self.path.stat().st_size - self._size:
            logger.warning("%s: %d bytes of a record that is not whole are cut.", self.path, torn)
            os.truncate(self.path, self._size)
        return os.open(self.path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def _begin(self, header: Mapping[str, Any]) -> None:
        with written_whole(self.path) as temporary, temporary.open("wb") as file:
            file.write(_line(header))
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # not on Windows
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _append(self, event: str, index: int, **fields: Any) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: the journal is closed.")
        record = {"event": event, "index": index, **fields, "time": round(time.time(), 3)}
        try:
            trials = with_record(self._trials, record)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        try:
            line = _line(record)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: JSON cannot say {event!r} of trial {index} ({error}).") from error
        self._write(self._file, line)
        self._size, self._trials, self._torn = self._size + len(line), trials, False

    def _write(self, file: int, line: bytes) -> None:
        try:
            self._restore_size(file)
            self._torn = True
            written = 0
            while written < len(line):  # a disk that becomes full takes a part of it
                written += os.write(file, line[written:])
            os.fsync(file)
        except OSError as error:
            with suppress(OSError):  # else before the next record
                self._restore_size(file)
            text = f"{self.path}: the record is not written ({error.strerror}), all earlier ones are."
            raise OSError(error.errno or errno.EIO, text) from error

    def _restore_size(self, file: int) -> None:
        if os.fstat(file).st_size == self._size:
            return
        if not self._torn:  # where there are no locks
            raise ValueError(f"{self.path}: changed by somebody else, a journal has one writer.")
        os.ftruncate(file, self._size)


def _finite(value: Any) -> Any:
    """``value`` with None in the place of NaN and infinity, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"
