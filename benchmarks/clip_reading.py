# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of reading the frames of a sparsely sampled clip, against decoding the whole file and picking them."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import av
import numpy as np
import typer

from cakes_monai.atomic_file import written_whole
from cakes_video.clip_reader import open_clip
from cakes_video.clip_sampling import testing_frames

WAYS = ("sparse", "whole", "lean")
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def main(
    video_dir: Annotated[Path, typer.Option(help="Folder searched for videos, with its folders.", exists=True)],
    num_frames: Annotated[int, typer.Option(min=1, help="Frames of a clip, the middle ones of equal segments.")] = 8,
    files: Annotated[int, typer.Option(min=1, help="Files of each folder, container and codec.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Measured runs of each way, taken in turns.")] = 9,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """
    Print the time of three ways to the same frames, from opening the file to the array, each decoding with one thread.

    "sparse" is the reader of this package; "whole" decodes and converts every frame, as the documentation of PyAV does;
    "lean" decodes every frame and converts the wanted ones.
    """
    rows = []
    for path, kind in _chosen(video_dir, files):
        name = str(path.relative_to(video_dir))
        rows.append({"file": name, "kind": kind, **_facts(path), **_turns(path, num_frames, rounds)})
        typer.echo(_line(name, rows[-1:]))
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in sorted({row["kind"] for row in rows})}
    for kind, group in groups.items():
        typer.echo(_line(f"{kind}, {len(group)} files", group))
    if output is not None:
        content = {
            "setting": {"num_frames": num_frames, "files": files, "rounds": rounds, "machine": platform.machine()},
            "versions": {"python": platform.python_version(), "av": av.__version__, "numpy": np.__version__},
            "ratios": {kind: _ratios(group) for kind, group in groups.items()},
            "files": [{**row, **_medians(row), "ratios": _ratios([row])} for row in rows],
        }
        with written_whole(output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _chosen(folder: Path, files: int) -> Iterator[tuple[Path, str]]:
    """Videos with their container and codec, until a folder has given enough of their kind."""
    counts: Counter[tuple[Path, str]] = Counter()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        try:
            with av.open(str(path)) as container:
                kind = f"{container.format.name.split(',')[0]} {container.streams.video[0].codec_context.name}"
        except (av.error.FFmpegError, IndexError):
            continue
        counts[path.parent, kind] += 1
        if counts[path.parent, kind] <= files:
            yield path, kind


def _turns(path: Path, num_frames: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Times of each way by each clock; in turns of mixed order, so that other load on the machine meets all alike."""
    with open_clip(path) as clip:
        wanted = testing_frames(clip.num_frames, num_frames)
    ways = {"sparse": _sparse, "whole": _whole, "lean": _lean}
    times: dict[str, dict[str, list[float]]] = {clock: {way: [] for way in WAYS} for clock in CLOCKS}
    order = np.random.RandomState(0)
    for round_number in range(rounds + 1):
        results = []
        for way in order.permutation(WAYS):
            frames, passed = _timed(ways[way], path, wanted)
            results.append(frames)
            if round_number:  # the first one reads from the disk
                for clock, seconds in passed.items():
                    times[clock][way].append(seconds)
        if not all(np.array_equal(results[0], other) for other in results[1:]):
            raise RuntimeError(f"{path}: the ways give different frames.")
    return times


def _timed(way: Callable[[Path, list[int]], Pixels], path: Path, wanted: list[int]) -> tuple[Pixels, dict[str, float]]:
    start = {name: clock() for name, clock in CLOCKS.items()}
    frames = way(path, wanted)
    return frames, {name: clock() - start[name] for name, clock in CLOCKS.items()}


def _sparse(path: Path, wanted: list[int]) -> Pixels:
    with open_clip(path) as clip:
        return clip.frames(wanted)


def _whole(path: Path, wanted: list[int]) -> Pixels:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[index] for index in wanted])


def _lean(path: Path, wanted: list[int]) -> Pixels:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        decoded = enumerate(container.decode(video=0))
        frames = {index: frame.to_ndarray(format="rgb24") for index, frame in decoded if index in wanted}
    return np.stack([frames[index] for index in wanted])


def _facts(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        keys = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
    return {"size": size, "packets": len(keys), "keyframes": sum(keys)}


def _ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Time of the other ways over that of "sparse" in the same turn: medians over turns, then over files."""

    def ratio(clock: str, way: str) -> float:
        pairs = (zip(row[clock][way], row[clock]["sparse"], strict=True) for row in rows)
        return round(median(median(slow / fast for slow, fast in turns) for turns in pairs), 2)

    return {clock: {way: ratio(clock, way) for way in WAYS[1:]} for clock in CLOCKS}


def _medians(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {clock: {way: round(median(row[clock][way]), 5) for way in WAYS} for clock in CLOCKS}


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    times = "  ".join(f"{way} {1e3 * median(median(row['seconds'][way]) for row in rows):7.1f} ms" for way in WAYS)
    wall, cpu = _ratios(rows).values()
    ratios = "  ".join(f"{way} / sparse {wall[way]:5.2f} (CPU {cpu[way]:5.2f})" for way in WAYS[1:])
    return f"{name:36}  {times}  {ratios}"


if __name__ == "__main__":
    typer.run(main)
