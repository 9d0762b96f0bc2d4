# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables whose rows are trained with several seeds by a bundle's commands, in pieces that can be killed and resumed."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import monai
import torch
from scipy.stats import ttest_ind, ttest_rel
from torch import Tensor, nn

from cakes_monai.atomic_file import written_whole
from cakes_monai.inference.engines import ENGINES, build_checked
from cakes_monai.inference.engines.engine_choice import DisagreementError
from cakes_monai.inference.timing import median_milliseconds

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
ROUNDS = 9
DRAWS = 5
ENGINE_NAMES = ("torch", "planned", "openvino", "onnxruntime")
#: Times of the rows over that of the reference, and the engines that ran them, by the heading of a column.
Times = dict[str, dict[str, dict[str, Any]]]

Key = TypeVar("Key")


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
        folds: whether the runs of a row are folds with a seed each, so that runs of one number are compared in pairs.
    """

    rows: tuple[Row, ...]
    reference: str
    score: Column
    columns: tuple[Column, ...]
    folds: bool = False

    def run(
        self,
        path: Path,
        settings: dict[str, Any],
        piece: Callable[[Row, int], dict[str, Any]],
        times: Callable[[dict[str, Any]], Times],
        minutes: float,
        only: str = "",
        seeds: Iterable[int] = SEEDS,
    ) -> None:
        """
        Train what is missing, all rows with the first seed first; start no piece after ``minutes``.

        Times are measured when a row has none. They are those of its first seed, so more seeds change nothing.
        """
        content = read_results(path, settings)
        deadline = time.monotonic() + 60 * minutes
        for seed in seeds:
            for row in self.rows:
                missing = f"{row.name}/{seed}" not in content["runs"]
                if missing and only in row.name and time.monotonic() < deadline:
                    content["runs"][f"{row.name}/{seed}"] = piece(row, seed)
                    write_results(path, content)
        if not self._measured(content):
            torch.manual_seed(0)  # weights of the networks that are timed
            content["times"] = times(content)
            write_results(path, content)

    def _measured(self, content: dict[str, Any]) -> bool:
        names = {row.name for row in self.rows if _runs(content, row)}
        return bool(content["times"]) and all(names <= times["ratios"].keys() for times in content["times"].values())

    def text(self, content: dict[str, Any]) -> str:
        """The table in Markdown; rows that lack runs are marked."""
        titles = ["row", "folds" if self.folds else "seeds", self.score.title, f"difference to {self.reference} (p)"]
        titles += [*(column.title for column in self.columns), *content["times"]]
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        scores = {row.name: self._scores(content, row) for row in self.rows}
        for row in self.rows:
            runs = _runs(content, row)
            if not runs:
                lines.append(f"| {row.name} | 0 of {len(SEEDS)}, unfinished |" + " |" * (len(titles) - 2))
                continue
            values = list(scores[row.name].values())
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            done = f"{len(runs)} of {len(SEEDS)}{'' if len(runs) == len(SEEDS) else ', unfinished'}"
            cells = [row.name, done, f"{statistics.mean(values):.2f}{spread}"]
            reference = {} if row.name == self.reference else scores[self.reference]
            cells.append(self._difference(scores[row.name], reference))
            for column in self.columns:
                cells.append(f"{statistics.mean(map(column.value, runs.values())):.{column.digits}f}")
            ratios = [times["ratios"].get(row.name) for times in content["times"].values()]
            cells += ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            lines.append(f"| {' | '.join(cells)} |")
        for title, times in content["times"].items():
            if engines := times.get("engines"):
                lines += ["", f"Engines, {title}: {', '.join(f'{name} {engine}' for name, engine in engines.items())}."]
        return "\n".join(lines)

    def _scores(self, content: dict[str, Any], row: Row) -> dict[int, float]:
        return {number: 100 * self.score.value(run) for number, run in _runs(content, row).items()}

    def _difference(self, scores: dict[int, float], reference: dict[int, float]) -> str:
        """Difference of the means, and p of a t-test of two or more runs: paired for folds, Welch's for seeds."""
        if self.folds:
            scores = {number: scores[number] for number in scores if number in reference}
            reference = {number: reference[number] for number in scores}
        values, others = list(scores.values()), list(reference.values())
        if not values or not others:
            return ""
        difference = f"{statistics.mean(values) - statistics.mean(others):+.2f}"
        if min(len(values), len(others)) < 2:
            return difference
        test = ttest_rel(values, others) if self.folds else ttest_ind(values, others, equal_var=False)
        return f"{difference} (p {test.pvalue:.3f})"


def _runs(content: dict[str, Any], row: Row) -> dict[int, dict[str, Any]]:
    keys = {number: f"{row.name}/{number}" for number in SEEDS}
    return {number: content["runs"][key] for number, key in keys.items() if key in content["runs"]}


def read_results(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results so far; exit when they are those of another recipe."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "monai": monai.__version__}
    if not path.exists():
        return {"settings": settings, "versions": versions, "runs": {}, "times": {}}
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


def times_at_two_widths(
    narrow: Mapping[str, nn.Module], wide: Mapping[str, nn.Module], x: Tensor, reference: str, width: str
) -> Times:
    """
    Times of a table whose networks are small to be trained in little time.

    Args:
        narrow: the rows as they were trained.
        wide: the same with as many channels as the papers have.
        x: input of both.
        reference: the row whose times the others are divided by.
        width: what makes the wide ones wide, in words.
    """
    return {
        f"time / {reference}, eager": eager_times(narrow, x, reference),
        f"time / {reference}, fastest engine": fastest_times(narrow, x, reference),
        f"time / {reference}, fastest engine, {width}": fastest_times(wide, x, reference),
    }


def eager_times(networks: Mapping[str, nn.Module], x: Tensor, reference: str) -> dict[str, dict[str, Any]]:
    """Time of a forward pass of each network over that of the reference, in turns in one run."""
    medians = _medians(networks, x)
    return {"ratios": {name: ms / medians[reference] for name, ms in medians.items()}}


def fastest_times(networks: Mapping[str, nn.Module], x: Tensor, reference: str) -> dict[str, dict[str, Any]]:
    """The same with each network on the float32 engine that is fastest for it, and the names of these engines."""
    runs: dict[tuple[str, str], Callable[[Tensor], Any]] = {}
    for name, network in networks.items():
        for engine in ENGINE_NAMES:
            if ENGINES[engine].missing("cpu") is None and (run := _built(engine, network, x)):
                runs[name, engine] = run
    medians = _medians(runs, x)
    fastest = {name: min((ms, engine) for (row, engine), ms in medians.items() if row == name) for name in networks}
    return {
        "ratios": {name: ms / fastest[reference][0] for name, (ms, _) in fastest.items()},
        "engines": {name: engine for name, (_, engine) in fastest.items()},
    }


def _built(engine: str, network: nn.Module, x: Tensor) -> Callable[[Tensor], Any] | None:
    """
    The network on an engine; None when results are never right.

    Some random weights are ill-conditioned, so that OpenVINO's rounding is just too much. Others are drawn then.
    """
    for _ in range(DRAWS):
        with contextlib.suppress(DisagreementError):
            return build_checked(ENGINES[engine], network, x, torch.float32)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    return None


def _medians(runs: Mapping[Key, Callable[[Tensor], Any]], x: Tensor) -> dict[Key, float]:
    """Milliseconds of each."""
    calls = [partial(run, x) for run in runs.values()]
    return dict(zip(runs, median_milliseconds("rows", calls, x.device, ROUNDS), strict=True))


def wider(architecture: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Architecture of a backbone, as in its file, for ``times`` as many channels: all sub-kernels keep their shares."""
    layers = {
        name: [{kernel: times * count for kernel, count in split.items()} for split in layer]
        for name, layer in architecture["layers"].items()
    }
    return {**architecture, "layers": layers}


def measured_architectures(content: dict[str, Any], reference: str) -> dict[str, Any]:
    """For every row with a result the architecture of its first seed; None for a reference without one."""
    found: dict[str, Any] = {reference: None}
    for key, run in content["runs"].items():
        name = key.rpartition("/")[0]
        if found.get(name) is None:
            found[name] = run["architecture"]
    return found
