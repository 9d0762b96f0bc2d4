# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables whose rows are trained with several seeds by a bundle's commands, in pieces that can be killed and resumed."""

from __future__ import annotations

import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import torch
from scipy.stats import ttest_ind
from torch import Tensor

from cakes_monai.atomic_file import written_whole

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """
    A row of a table.

    Args:
        name: the row.
        published: name of the published architecture, if it is one.
        search: options of search.json, if it is searched.
    """

    name: str
    published: str | None = None
    search: tuple[tuple[str, Any], ...] = ()


def searched(name: str, **options: Any) -> Row:
    """A row whose architecture is searched, anew for every seed."""
    return Row(name, None, tuple(options.items()))


@dataclass(frozen=True)
class Column:
    """
    A column beside name, seeds, score and difference.

    Args:
        title: heading, with the unit.
        value: number of a run.
        digits: behind the point.
    """

    title: str
    value: Callable[[Mapping[str, Any]], float]
    digits: int = 3


@dataclass(frozen=True)
class SeededTable:
    """
    Rows, and the JSON file with the results of those that are trained.

    Args:
        rows: the rows.
        reference: the row that the others are compared with.
        score: heading of the score, in per cent, and where it is in a run.
        columns: more columns.
    """

    rows: tuple[Row, ...]
    reference: str
    score: Column
    columns: tuple[Column, ...]

    def run(
        self,
        path: Path,
        settings: dict[str, Any],
        piece: Callable[[Row, int], dict[str, Any]],
        latency: Callable[[dict[str, Any]], dict[str, float]],
        minutes: float,
        only: str = "",
        seeds: Iterable[int] = SEEDS,
    ) -> None:
        """Train what is missing, all rows with the first seed first; start no piece after ``minutes``."""
        content = read_results(path, settings)
        deadline = time.monotonic() + 60 * minutes
        for seed in seeds:
            for row in self.rows:
                missing = f"{row.name}/{seed}" not in content["runs"]
                if missing and only in row.name and time.monotonic() < deadline:
                    content["runs"][f"{row.name}/{seed}"] = piece(row, seed)
                    write_results(path, content)
        content["latency"] = latency(content)
        write_results(path, content)

    def text(self, content: dict[str, Any]) -> str:
        """The table in Markdown; rows that lack seeds are marked."""
        titles = ["row", "seeds", self.score.title, f"difference to {self.reference} (p)"]
        titles += [*(column.title for column in self.columns), f"time / {self.reference}"]
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        scores = {row.name: self._scores(content, row) for row in self.rows}
        for row in self.rows:
            runs = _runs(content, row)
            if not runs:
                lines.append(f"| {row.name} | 0 of {len(SEEDS)}, unfinished |" + " |" * (len(titles) - 2))
                continue
            values = scores[row.name]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            seeds = f"{len(runs)} of {len(SEEDS)}{'' if len(runs) == len(SEEDS) else ', unfinished'}"
            cells = [row.name, seeds, f"{statistics.mean(values):.2f}{spread}"]
            cells.append("" if row.name == self.reference else _difference(values, scores[self.reference]))
            cells += [f"{statistics.mean(map(column.value, runs)):.{column.digits}f}" for column in self.columns]
            ratio = content["latency"].get(row.name)
            cells.append("" if ratio is None else f"{ratio:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _scores(self, content: dict[str, Any], row: Row) -> list[float]:
        return [100 * self.score.value(run) for run in _runs(content, row)]


def _runs(content: dict[str, Any], row: Row) -> list[dict[str, Any]]:
    return [content["runs"][key] for seed in SEEDS if (key := f"{row.name}/{seed}") in content["runs"]]


def _difference(values: Sequence[float], reference: Sequence[float]) -> str:
    """Difference of the means and p of Welch's t-test over seeds, where both have at least two."""
    if not reference:
        return ""
    difference = f"{statistics.mean(values) - statistics.mean(reference):+.2f}"
    if min(len(values), len(reference)) < 2:
        return difference
    return f"{difference} (p {ttest_ind(values, reference, equal_var=False).pvalue:.2f})"


def read_results(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results so far; exit when they are those of another recipe."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "monai": monai.__version__}
    if not path.exists():
        return {"settings": settings, "versions": versions, "runs": {}, "latency": {}}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["settings"] != settings:
        raise SystemExit(f"{path}: has results with {content['settings']}, this is {settings}; use --results.")
    return content


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run_folder(runs: Path, row: Row, seed: int) -> Path:
    """Where the run of a row with a seed keeps its files."""
    return (runs / re.sub(r"\W+", "_", row.name) / str(seed)).resolve()


def run_bundle(bundle: Path, folder: Path, files: Iterable[str], **options: Any) -> None:
    """Run configs of a bundle in a process of their own, with its output in a log."""
    names = list(files)
    configs = str([str(bundle / "configs" / name) for name in names])
    arguments = [f"--{name}={value}" for name, value in options.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{names[-1]}.log").open("a") as log:
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs, *arguments]
        subprocess.run(command, stdout=log, stderr=log, check=True)


def time_ratios(
    networks: Mapping[str, Callable[[Tensor], Any]], x: Tensor, reference: str, rounds: int = 9
) -> dict[str, float]:
    """Time of a forward pass over that of the reference, all measured in turns in this process; medians."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for round_number in range(rounds + 2):
            for name, network in networks.items():
                start = time.perf_counter()
                network(x)
                if round_number >= 2:  # the first ones choose algorithms
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: medians[name] / medians[reference] for name in sorted(networks)}


def measured_architectures(content: dict[str, Any], reference: str) -> dict[str, Any]:
    """For every row with a result the architecture of its first seed; None for a reference without one."""
    found: dict[str, Any] = {reference: None}
    for key, run in content["runs"].items():
        name = key.rpartition("/")[0]
        if found.get(name) is None:
            found[name] = run["architecture"]
    return found
