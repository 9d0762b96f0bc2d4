# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A journal has every record that was written, whatever happened to its writer."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from cakes_monai.search.evolution import TopologyEvolution
from cakes_monai.search.journal import Journal, read_journal
from cakes_monai.search.journal_records import parsed
from cakes_monai.search.proposer import CandidateList
from cakes_monai.search.topology_space import TopologySpace
from cakes_monai.search.trial import Proposal

SETTINGS = {"seed": 0, "space": {"num_cells": 12, "num_downs": (3,)}}
WRITER = """
import sys
from cakes_monai.search.journal import Journal
from cakes_monai.search.journal_records import parsed
from cakes_monai.search.proposer import CandidateList
with Journal(sys.argv[1], "width", {}) as journal:
    widths = CandidateList(range(1, 100000), journal.trials)
    while True:
        proposal = widths.ask()
        journal.proposed(proposal)
        journal.started(proposal.index)
        journal.finished(proposal.index, proposal.candidate, 1.5, {"text": "x" * 5000})
        widths.tell(proposal.index, proposal.candidate)
"""


def filled(path: Path) -> Path:
    """A journal of two finished trials, one that failed, one that runs and one to be tried again."""
    with Journal(path, "topology", SETTINGS) as journal:
        for index in range(5):
            journal.proposed(Proposal(index, (0, index, 0), "initial", index))
        for index in (1, 0, 2, 3, 4):
            journal.started(index)
        journal.finished(2, 0.25, 12.5, {"dice": [0.5, math.nan]})
        journal.failed(1, "out of memory", final=False)
        journal.started(1)
        journal.finished(1, 0.5)
        journal.failed(0, "diverged")
        journal.failed(4, "worker lost", final=False)
    return path


def test_trials_come_back(tmp_path: Path) -> None:
    """What was written is read again: scores, failures, the order of the ends; a NaN in the details is None."""
    path = filled(tmp_path / "new" / "journal.jsonl")
    content = read_journal(path)
    assert content.kind == "topology"
    assert content.settings == {"seed": 0, "space": {"num_cells": 12, "num_downs": [3]}}
    trials = content.trials
    assert [trial.state for trial in trials] == ["failed", "finished", "finished", "running", "proposed"]
    assert [trial.score for trial in trials] == [None, 0.5, 0.25, None, None]
    assert [trial.ended for trial in trials] == [2, 1, 0, None, None]
    assert [trial.starts for trial in trials] == [1, 2, 1, 1, 1]
    assert [trial.failures for trial in trials] == [("diverged",), ("out of memory",), (), (), ("worker lost",)]
    assert (trials[2].seconds, trials[2].details) == (12.5, {"dice": [0.5, None]})
    assert trials[3].proposal == Proposal(3, (0, 3, 0), "initial", 3)
    with Journal(path, "topology", SETTINGS) as journal:
        assert journal.trials == trials
        journal.proposed(trials[3].proposal)  # handed out again: not written again
        journal.finished(3, 0.75)
    assert [json.loads(line).get("event") for line in path.read_bytes().splitlines()][-2:] == ["failed", "finished"]


def test_every_torn_end_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file cut at any byte after the header has its whole records, and takes further ones."""
    whole = filled(tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    ends = [match.end() for match in re.finditer(b"\n", whole)]
    states = {end: parsed(whole[:end]).trials for end in ends}
    for size in range(ends[0], len(whole) + 1):
        end = max(end for end in ends if end <= size)
        assert parsed(whole[:size]).trials == states[end]
        if size + 1 not in ends[::3] and size - 9 not in ends[::3] and size != len(whole):
            continue  # files on a disk take their time
        path.write_bytes(whole[:size])
        assert read_journal(path).trials == states[end]
        assert path.stat().st_size == size  # reading changes nothing
        caplog.clear()
        with Journal(path, "topology", SETTINGS) as journal:
            assert journal.trials == states[end]
            assert ("record that is not whole" in caplog.text) == (size != end)
            assert path.read_bytes() == whole[:end]
            journal.proposed(Proposal(len(states[end]), 0.5, "listed"))
        assert len(read_journal(path).trials) == len(states[end]) + 1


def test_zeros_at_the_end_are_cut(tmp_path: Path) -> None:
    """After a power failure the last record can be zeros of its length, with or without the newline."""
    for tail in (b"\0" * 50, b"\0" * 50 + b"\n"):
        path = filled(tmp_path / "journal.jsonl")
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(tail)
        with Journal(path, "topology", SETTINGS) as journal:
            assert len(journal.trials) == 5
        assert path.stat().st_size == size
        path.unlink()


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    """A line before the last that is no JSON, or says what cannot be, is an error with its number; the file stays."""
    path = filled(tmp_path / "journal.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    finished = {**records[11], "index": 9}
    cases: list[tuple[str | bytes, str]] = [
        (b"garbage\n", "line 12: damaged .* only the last line of a journal may be"),
        (b"[1, 2]\n", "line 12: damaged .no JSON object"),
        (b"\n", "line 12: damaged"),
        (b"\xff\xfe\n", "line 12: damaged"),
        (json.dumps(finished), "line 12: 'finished' for trial 9, but 5 trials were proposed"),
        (json.dumps({**records[11], "index": -1}), "line 12: 'finished' for trial -1"),
        (json.dumps({**records[11], "score": math.nan}), "line 12: trial 2: score nan is no finite number"),
        (json.dumps({**records[11], "event": "stopped"}), "line 12: unknown event 'stopped', allowed are proposed, "),
        (json.dumps({"event": "started", "index": 0}), "line 12: 'started' is wrong in time, it must have index, time"),
        (json.dumps({**records[6], "x": 1}), "line 12: 'started' is wrong in x"),
        (json.dumps(records[1]), "line 12: trial 0 is proposed twice"),
        (json.dumps({**records[1], "index": 6}), "line 12: 'proposed' for trial 6, but 5 trials"),
    ]
    for line, message in cases:
        text = line if isinstance(line, bytes) else line.encode() + b"\n"
        path.write_bytes(b"".join([*lines[:11], text, *lines[12:]]))
        before = path.read_bytes()
        for open_it in (lambda: read_journal(path), lambda: Journal(path, "topology", SETTINGS)):
            with pytest.raises(ValueError, match=message) as caught:
                open_it()
            assert str(caught.value).startswith(f"{path}, line 12: ")
            assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    """A file without a whole header is refused and not touched; an empty one is begun."""
    path = tmp_path / "journal.jsonl"
    for content in (b'{"name": "task"}', b'{"name": "task"}\n', b"text\n", b"\0" * 20, b'{"format": 1, "journ'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="line 1: this is no journal"):
            Journal(path, "topology", SETTINGS)
        assert path.read_bytes() == content
    path.write_bytes(b'{"format": 2, "journal": "topology", "settings": {}}\n')
    with pytest.raises(ValueError, match="line 1: format 2, allowed is 1"):
        read_journal(path)
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read \(No such file or directory\)"):
        read_journal(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"cannot be opened as a journal \((Not a directory|File exists)\)"):
        Journal(path / "journal.jsonl", "topology", SETTINGS)
    path.write_bytes(b"")
    with Journal(path, "topology", SETTINGS) as journal:
        assert journal.trials == ()


def test_another_search_is_refused(tmp_path: Path) -> None:
    """One line names every setting that differs, the missing ones too, and the kind; order does not matter."""
    path = filled(tmp_path / "journal.jsonl")
    space = {"num_downs": [3], "num_cells": 10}
    message = (
        f"{path}: belongs to another search: seed is 0 in the file and 1 here; "
        "space.num_cells is 12 in the file and 10 here; epochs is not given in the file and 5 here."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Journal(path, "topology", {"epochs": 5, "space": space, "seed": 1})
    with pytest.raises(ValueError, match='journal is "topology" in the file and "width" here'):
        Journal(path, "width", SETTINGS)
    with pytest.raises(ValueError, match=r"JSON cannot say them \(Object of type .*Path"):
        Journal(path, "topology", {"folder": tmp_path})
    Journal(path, "topology", dict(reversed(SETTINGS.items()))).close()


def test_wrong_events_are_not_written(tmp_path: Path) -> None:
    """Events that cannot be, and values JSON cannot say, are refused; the file is as before and goes on."""
    path = filled(tmp_path / "journal.jsonl")
    before = path.read_bytes()
    with Journal(path, "topology", SETTINGS) as journal:
        with pytest.raises(
            ValueError, match="trial 3: score nan is no finite number; a trial without a score has failed"
        ):
            journal.finished(3, math.nan)
        with pytest.raises(ValueError, match=r"journal\.jsonl: trial 2 is already finished, it cannot be started"):
            journal.started(2)
        with pytest.raises(ValueError, match="trial 0 is already failed, it cannot be finished"):
            journal.finished(0, 0.5)
        with pytest.raises(ValueError, match="'started' for trial 5, but 5 trials were proposed"):
            journal.started(5)
        with pytest.raises(ValueError, match="'proposed' for trial 6"):
            journal.proposed(Proposal(6, 0.5, "listed"))
        with pytest.raises(ValueError, match="trial 3 is proposed twice"):
            journal.proposed(Proposal(3, (0, 1, 0), "initial", 3))
        with pytest.raises(ValueError, match="trial 2 is proposed twice"):  # it has ended
            journal.proposed(journal.trials[2].proposal)
        with pytest.raises(ValueError, match=r"JSON cannot say 'finished' of trial 3 \(Object of type set"):
            journal.finished(3, 0.5, details={"dice": {1}})
        assert path.read_bytes() == before
        journal.finished(3, 0.5)
    with pytest.raises(ValueError, match="the journal is closed"):
        journal.started(4)


def test_a_full_disk_leaves_the_earlier_records(tmp_path: Path) -> None:
    """
    A record that does not fit is not written in part and raises an error that says so; with room it can be repeated.

    The limit of the size of files stands for the disk: it too takes a part of a record and refuses the rest.
    """
    resource = pytest.importorskip("resource")
    path = filled(tmp_path / "journal.jsonl")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, "topology", SETTINGS) as journal:
        trials = journal.trials
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, limits[1]))
        try:
            with pytest.raises(OSError, match=r"the record is not written .*, all earlier ones are") as caught:
                journal.finished(3, 0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before
        assert journal.trials == trials
        journal.finished(3, 0.5)
    assert read_journal(path).trials[3].score == 0.5


def test_one_writer(tmp_path: Path) -> None:
    """A second driver is refused with the process that has the journal, readers are not; after it everybody may."""
    path = tmp_path / "journal.jsonl"
    with Journal(path, "width", {}) as journal:
        with pytest.raises(
            ValueError, match=rf"another driver is running \(process {os.getpid()} on .*\), a journal has"
        ):
            Journal(path, "width", {})
        journal.proposed(Proposal(0, 0.5, "listed"))
        assert len(read_journal(path).trials) == 1
    with Journal(path, "width", {}) as journal:
        assert len(journal.trials) == 1


def test_without_locks_a_second_writer_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a system without file locks a warning is logged, and a driver does not write behind records of another."""
    monkeypatch.setattr("cakes_monai.search.journal_lock.fcntl", None)
    path = tmp_path / "journal.jsonl"
    with caplog.at_level(logging.WARNING), Journal(path, "width", {}) as first, Journal(path, "width", {}) as second:
        assert "cannot be locked" in caplog.text
        second.proposed(Proposal(0, 0.5, "listed"))
        with pytest.raises(ValueError, match="changed by somebody else"):
            first.proposed(Proposal(0, 0.75, "listed"))
    assert [trial.proposal.candidate for trial in read_journal(path).trials] == [0.5]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer(tmp_path: Path) -> None:
    """While a process writes, readers always see whole records; killed again and again, no record before is lost."""
    path, seen = tmp_path / "journal.jsonl", 0
    for delay in (0.11, 0.2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as writer:
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and writer.poll() is None:
                    if path.exists() and len(read_journal(path).trials) > seen + 3:
                        break
                    time.sleep(0.005)
                with pytest.raises(ValueError, match=f"another driver is running .process {writer.pid} on"):
                    Journal(path, "width", {})
                time.sleep(delay)
            finally:
                writer.kill()
        written = read_journal(path).trials
        assert len(written) > seen + 3
        seen = len(written)
        assert [trial.proposal.candidate for trial in written] == list(range(1, seen + 1))
        assert all(trial.score == trial.proposal.candidate for trial in written[:-1])
    with path.open("ab") as file:
        file.write(b'{"event": "proposed", "ind')
    with Journal(path, "width", {}) as journal:
        assert journal.trials == written
        widths = CandidateList(range(1, 100000), journal.trials)
        expected = written[-1].index if written[-1].ended is None else seen
        assert (proposal := widths.ask()) is not None
        assert proposal.index == expected


def events(search: TopologyEvolution, journal: Journal, handed_out: list[Proposal]) -> Iterator[None]:
    """Go on with a search of one worker, step by step from record to record."""
    while (proposal := search.ask()) is not None:
        handed_out.append(proposal)
        journal.proposed(proposal)
        yield
        journal.started(proposal.index)
        yield
        if proposal.index % 5 == 4:
            journal.failed(proposal.index, "diverged")
            yield
            search.fail(proposal.index)
        else:
            score = proposal.topology.levels.count(1) / 10
            journal.finished(proposal.index, score)
            yield
            search.tell(proposal.index, score)


def drive(path: Path, steps: int = 1000) -> list[Proposal]:
    """Begin a search or go on with it for a number of steps; the proposals that were handed out."""
    space = TopologySpace(6, 1, num_clusters=3)
    handed_out: list[Proposal] = []
    settings = TopologyEvolution(space.clusters, seed=2).settings
    with Journal(path, "topology", settings) as journal:
        search = TopologyEvolution(space.clusters, 2, 1, 0.3, 8, journal.trials)
        for _ in islice(events(search, journal, handed_out), steps):
            pass
    return handed_out


def test_a_search_stopped_after_any_record_ends_the_same(tmp_path: Path) -> None:
    """Stopped after each of its 24 records and made anew, the search has the trials of one that was never stopped."""
    drive(tmp_path / "whole.jsonl")
    whole = read_journal(tmp_path / "whole.jsonl").trials
    assert len(whole) == 8
    assert {trial.proposal.reason for trial in whole} == {"initial", "best", "explore"}
    for records in range(1, 24):
        path = tmp_path / f"{records}.jsonl"
        before, after = drive(path, records), drive(path)
        again = read_journal(path).trials
        assert [trial.proposal for trial in again] == [trial.proposal for trial in whole]
        assert [trial.score for trial in again] == [trial.score for trial in whole]
        if records % 3:
            assert before[-1] == after[0]  # the one without an end, under its index


def test_a_search_stopped_at_every_trial_ends_the_same(tmp_path: Path) -> None:
    """Stopped after every five steps, so that all trials but the first are begun twice, it ends the same."""
    drive(tmp_path / "whole.jsonl")
    path = tmp_path / "pieces.jsonl"
    while drive(path, 5):
        pass
    pieces, whole = read_journal(path).trials, read_journal(tmp_path / "whole.jsonl").trials
    assert [trial.proposal for trial in pieces] == [trial.proposal for trial in whole]
    assert [trial.score for trial in pieces] == [trial.score for trial in whole]
    assert [trial.starts for trial in pieces] == [1] + [2] * 7
