# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The search for broken and mislabelled clips."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import av
import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from cakes_video.__main__ import app
from cakes_video.clip_lists import ClipList, read_clips
from cakes_video.scan import ScannedClip, scan_clips, scan_summary, write_scan_report
from cakes_video.watched_workers import WatchedWorkers, WorkerError


def write_video(path: Path, seed: int = 0, frames: int = 30, codec: str = "mpeg4", **options: str) -> Path:
    """A video of noise that moves, 64x48, 25 frames a second."""
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(np.roll(noise, 2 * number, axis=1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, count: int) -> None:
    """A frame folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        matplotlib.image.imsave(folder / f"{number:05d}.png", np.full((48, 64, 3), number, np.uint8))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of clips with every fault, and a sound one of each kind."""
    root = tmp_path_factory.mktemp("broken")
    good = write_video(root / "good.mp4", movflags="faststart").read_bytes()
    write_video(root / "good.webm", 1, codec="libvpx")
    write_frames(root / "folder", 6)
    (root / "zero.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("this is no video")
    (root / "no_index.mp4").write_bytes(write_video(root / "x.mp4", 2).read_bytes()[:-2000])
    (root / "cut.mp4").write_bytes(good[: len(good) * 6 // 10])
    webm = (root / "good.webm").read_bytes()
    (root / "cut.webm").write_bytes(webm[: len(webm) * 6 // 10])
    hit = bytearray(write_video(root / "x.mp4", 3, movflags="faststart").read_bytes())
    for place in np.random.default_rng(0).integers(len(hit) // 3, len(hit), 12):
        hit[place] ^= 0xFF
    (root / "hit.mp4").write_bytes(hit)
    write_video(root / "x.mp4", 4).rename(root / "renamed.webm")
    for name in ("twin", "other_twin", "third"):
        write_video(root / f"{name}.mp4", seed=5)
    write_video(root / "short.mp4", 6, frames=4)
    write_frames(root / "bad_frame", 6)
    (root / "bad_frame" / "00004.png").write_bytes(b"no picture")
    names = [
        "good.mp4",
        "good.webm",
        "folder",
        "zero.mp4",
        "text.mp4",
        "no_index.mp4",
        "cut.mp4",
        "cut.webm",
        "hit.mp4",
    ]
    names += ["renamed.webm", "twin.mp4", "third.mp4", "short.mp4", "bad_frame", "gone.mp4"]
    frames = {"folder": 6, "bad_frame": 6, "short.mp4": 4, "good.webm": 30}
    rows = [f"{name},0,{frames.get(name, 30)},," for name in names]
    rows += ["other_twin.mp4,1,29,,", "good.mp4,1,30,0,15", "good.mp4,1,30,15,31"]
    (root / "list.csv").write_text("\n".join(["path,label,num_frames,start,stop", *rows]) + "\n")
    return root


@pytest.fixture(scope="module")
def scanned(broken: Path) -> dict[str, ScannedClip]:
    """What the scan finds in the list, by the name of the clip."""
    clips = read_clips(broken / "list.csv", must_exist=False)
    rows = scan_clips(clips, num_workers=2, min_frames=5, timeout=60)
    assert [row.name for row in rows] == [clip["name"] for clip in clips.clips]
    return {row.name: row for row in rows}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("good.mp4", "good", ""),
        ("good.webm", "good", ""),
        ("folder", "good", ""),
        ("good.mp4#0-15", "good", ""),
        ("zero.mp4", "unreadable", "."),
        ("text.mp4", "unreadable", "."),
        ("no_index.mp4", "unreadable", "."),
        ("cut.mp4", "unreadable", r"is truncated, .* of 30 frames"),
        ("cut.webm", "unreadable", r"is truncated, .* 1.2 s"),
        ("hit.mp4", "(damaged|truncated)", r"decoding (meets \d+ errors, the first: |gives \d+ of 30 frames)"),
        ("renamed.webm", "container", r"is mov,mp4,.*, the suffix .webm stands for webm"),
        ("twin.mp4", "label", "same bytes as other_twin.mp4 of class '1'"),
        ("third.mp4", "label", "same bytes as other_twin.mp4 of class '1'"),
        ("other_twin.mp4", "frame count", "the list says 29 frames, it has 30; same bytes as twin.mp4 of class '0'"),
        ("short.mp4", "short", "4 frames, wanted are 5 or more"),
        ("bad_frame", "unreadable", "00004.png"),
        ("gone.mp4", "missing", "does not exist"),
        ("good.mp4#15-31", "frame range", "the list says frames 15 to 31, it has 30"),
    ],
)
def test_findings(scanned: dict[str, ScannedClip], name: str, status: str, reason: str) -> None:
    """Every fault is found under its name, and sound clips are good."""
    row = scanned[name]
    assert re.fullmatch(status, row.status), row
    assert re.search(reason, row.reason) if reason else row.reason == "", row
    assert "\n" not in row.reason


def test_properties(scanned: dict[str, ScannedClip]) -> None:
    """Frames, rate, size and length stand in the row: 30 frames at 25 a second are 1.2 s."""
    row = scanned["good.mp4"]
    assert (row.frames, row.fps, row.width, row.height, row.seconds) == (30, 25.0, 64, 48, 1.2)
    row = scanned["folder"]
    assert (row.frames, row.fps, row.width, row.height, row.seconds) == (6, None, 64, 48, None)


def test_summary_counts_all(scanned: dict[str, ScannedClip]) -> None:
    """The numbers of the summary add up to all clips."""
    rows = list(scanned.values())
    total, *counts = map(int, re.findall(r"\d+", scan_summary(rows)))
    assert total == sum(counts) == len(rows)
    assert scan_summary(rows[:3]) == "3 clips: 3 good"


def test_report_is_written_whole(tmp_path: Path, scanned: dict[str, ScannedClip]) -> None:
    """The report has a row for each clip with the columns that are promised, and nothing else lies beside it."""
    write_scan_report(list(scanned.values()), tmp_path / "out" / "scan.csv")
    with (tmp_path / "out" / "scan.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["name", "path", "status", "reason", "frames", "fps", "width", "height", "seconds"]
    assert [row["name"] for row in rows] == list(scanned)
    assert {row["name"]: row["reason"] for row in rows} == {row.name: row.reason for row in scanned.values()}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.csv"]


def test_without_decoding(broken: Path) -> None:
    """Without decoding, what only decoding finds is not found, and the rest is."""
    (broken / "few.csv").write_text("path,label\nhit.mp4,0\nrenamed.webm,0\ntext.mp4,0\n")
    rows = scan_clips(read_clips(broken / "few.csv"), decode=False)
    assert [row.status for row in rows] == ["good", "container", "unreadable"]


def test_real_clips_are_good(data_root: Path) -> None:
    """Nothing is found in sound real clips of several codecs and containers."""
    video = data_root / "video"
    paths = [*sorted((video / "mixed").iterdir()), *sorted((video / "grid" / "clips").iterdir())[:4]]
    paths += sorted((video / "fight" / "fight").iterdir())[:4]
    clips = tuple({"video": str(path), "label": 0, "name": str(number)} for number, path in enumerate(paths))
    rows = scan_clips(ClipList(clips, ("any",)), num_workers=2, min_frames=8)
    assert [row for row in rows if row.status != "good"] == []
    assert rows[-5].frames == 75


def test_workers_survive_crashes_and_hangs() -> None:
    """An item that kills its process, hangs or raises costs that item only, and its kind is said."""
    with WatchedWorkers(2, timeout=2.0, preload="os") as workers:
        crashed = dict(workers.map(os._exit, [3, 4]))
        slept = dict(workers.map(time.sleep, [0, 60, 0, "a", 0]))
    assert [(result.kind, str(result)) for _, result in sorted(crashed.items())] == [
        ("crash", "the process that read it ended with exit code 3"),
        ("crash", "the process that read it ended with exit code 4"),
    ]
    assert [slept[index] for index in (0, 2, 4)] == [None, None, None]
    assert isinstance(slept[1], WorkerError)
    assert (slept[1].kind, str(slept[1])) == ("timeout", "not done after 2 s")
    assert slept[3].kind == "error"
    assert str(slept[3]).startswith("TypeError: ")


def test_leaving_early_ends_the_processes() -> None:
    """Whoever leaves the block, as on an interrupt, does not wait for what is running or waiting."""
    start = time.monotonic()
    with WatchedWorkers(1, timeout=60, preload="os") as workers:
        assert next(workers.map(time.sleep, [0, 60, 60])) == (0, None)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "workers: 0, allowed are 1 or more"),
        ({"timeout": 0}, "timeout: 0 s, allowed are more than 0"),
        ({"min_frames": 0}, "scan_clips: min_frames is 0, allowed are 1 or more"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, int], message: str) -> None:
    """Arguments out of range are errors."""
    with pytest.raises(ValueError, match=message):
        scan_clips(ClipList(({"video": "/a", "label": 0, "name": "a"},), ("x",)), **options)  # type: ignore[arg-type]


def test_command(broken: Path, tmp_path: Path) -> None:
    """The command prints findings and summary, writes the report, and ends with 1 when it found something."""
    (broken / "two.txt").write_text("good.mp4 0\ntext.mp4 0\n")
    command = [sys.executable, "-m", "cakes_video", "scan", str(broken / "two.txt"), "--workers", "1"]
    result = subprocess.run(
        [*command, "--report", str(tmp_path / "scan.csv")], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{broken}/text.mp4: unreadable: ")
    assert lines[1] == f"2 clips: 1 good, 1 unreadable; {tmp_path / 'scan.csv'}"
    assert len((tmp_path / "scan.csv").read_text().splitlines()) == 3


def test_command_without_findings(broken: Path) -> None:
    """With sound clips the command ends with 0; a list that cannot be read is an error of usage."""
    (broken / "one.txt").write_text("folder 0\n")
    result = CliRunner().invoke(app, ["scan", str(broken / "one.txt"), "--workers", "1", "--no-decode"])
    assert (result.exit_code, result.output) == (0, "1 clips: 1 good\n")
    result = CliRunner().invoke(app, ["scan", str(broken / "none.txt")])
    assert result.exit_code == 2
    assert "no such file" in re.sub(r"[│\s]+", " ", result.output)  # as a terminal shows it, in a box
