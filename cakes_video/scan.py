# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Search of a list of clips for broken and mislabelled ones, in parallel, before a training meets them."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cakes_monai.atomic_file import written_whole
from cakes_video.clip_entries import ClipList
from cakes_video.clip_findings import content_hash, examine_clip
from cakes_video.watched_workers import WatchedWorkers, WorkerError

__all__ = ["GOOD", "ScannedClip", "scan_clips", "scan_summary", "write_scan_report"]

GOOD = "good"
STATUS = {"crash": "crash", "timeout": "timeout", "error": "unreadable"}  # of a WorkerError


@dataclass(frozen=True)
class ScannedClip:
    """
    A row of the report.

    Attributes:
        name: name of the clip in its list.
        path: its file or folder.
        status: "good" or the first finding: "missing", "unreadable", "crash" or "timeout" (of the process that read
            it), "empty", "frame count" and "frame range" (are others than the list says), "short", "container" (is
            another than the suffix says), "truncated", "damaged", "label" (the same bytes have another label).
        reason: all findings.
        frames: number of frames.
        fps: frames a second; None where unknown, as in a folder of frames.
        width: in pixels.
        height: in pixels.
        seconds: length.
    """

    name: str
    path: str
    status: str = GOOD
    reason: str = ""
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    seconds: float | None = None

    def with_finding(self, status: str, reason: str) -> ScannedClip:
        """Add a finding; the first one gives the status."""
        if self.status == GOOD:
            return replace(self, status=status, reason=reason)
        return replace(self, reason=f"{self.reason}; {reason}")


def scan_clips(
    clips: ClipList,
    num_workers: int = 1,
    decode: bool = True,
    min_frames: int = 1,
    timeout: float = 120.0,
    progress: bool = False,
) -> list[ScannedClip]:
    """
    Look at every clip of a list.

    A clip is opened, decoded to its end, and compared with what its list, its suffix and the other clips say. That a
    clip crashes or blocks the process that reads it is a finding, too.

    Args:
        clips: the list, read with ``must_exist=False`` to find all missing clips.
        num_workers: number of processes.
        decode: whether to decode all frames, which alone finds most damage.
        min_frames: number of frames that are wanted at least.
        timeout: seconds that a clip may take.
        progress: whether to show a progress bar, where somebody watches.

    Returns:
        A row for each clip, in the order of the list.

    Raises:
        ValueError: for arguments out of range.
    """
    if min_frames < 1:
        raise ValueError(f"scan_clips: min_frames is {min_frames}, allowed are 1 or more.")
    tasks = [(clip, decode, min_frames) for clip in clips.clips]
    with WatchedWorkers(num_workers, timeout, examine_clip.__module__) as workers:
        done = workers.map(examine_clip, tasks)
        results = dict(tqdm(done, total=len(tasks), desc="scanning", unit="clip", disable=None if progress else True))
        rows = [_row(clip, results[index]) for index, clip in enumerate(clips.clips)]
        sizes = [None if isinstance(found := results[index], WorkerError) else found.get("size") for index in results]
        for index, reason in _other_labels(clips, dict(zip(results, sizes, strict=True)), workers):
            rows[index] = rows[index].with_finding("label", reason)
    return rows


def write_scan_report(rows: Sequence[ScannedClip], path: str | os.PathLike[str]) -> None:
    """Write all rows as CSV, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(ScannedClip)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def scan_summary(rows: Sequence[ScannedClip]) -> str:
    """How many clips there are of each status, in one line."""
    counts = Counter(row.status for row in rows)
    good = counts.pop(GOOD, 0)
    found = "".join(f", {count} {status}" for status, count in counts.most_common())
    return f"{len(rows)} clips: {good} {GOOD}{found}"


def _row(clip: dict[str, Any], result: Any) -> ScannedClip:
    row = ScannedClip(clip["name"], clip["video"])
    if isinstance(result, WorkerError):
        return row.with_finding(STATUS[result.kind], str(result))
    known = {field.name: result.get(field.name) for field in fields(row) if field.name in result}
    row = replace(row, **known)
    for status, reason in result["findings"]:
        row = row.with_finding(status, reason)
    return row


def _other_labels(clips: ClipList, sizes: dict[int, int | None], workers: WatchedWorkers) -> list[tuple[int, str]]:
    """Clips whose bytes stand in the list with another label; only files of one size are read."""
    suspects = [index for group in _groups(clips, sizes) for index in group]
    hashes = dict(workers.map(content_hash, [clips.clips[index]["video"] for index in suspects]))
    known = {suspects[place]: text for place, text in hashes.items() if isinstance(text, str)}
    findings = []
    for group in _groups(clips, known):
        for index in group:
            label = clips.clips[index]["label"]
            other = next(clips.clips[one] for one in group if clips.clips[one]["label"] != label)
            findings.append((index, f"same bytes as {other['name']} of class {clips.class_names[other['label']]!r}"))
    return findings


def _groups(clips: ClipList, values: dict[int, Any]) -> list[list[int]]:
    """Clips of the same value, where there are several files and several labels."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index in sorted(values):
        if values[index]:
            groups[values[index]].append(index)
    several = (
        group
        for group in groups.values()
        if len({clips.clips[index]["label"] for index in group}) > 1
        and len({Path(clips.clips[index]["video"]).resolve() for index in group}) > 1
    )
    return list(several)
