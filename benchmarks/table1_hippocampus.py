# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
CAKES table 1 on the hippocampus: the same recipe for all rows, three seeds, in pieces that can be killed and resumed.

    python benchmarks/table1_hippocampus.py --dataset-dir Task04_Hippocampus           # goes on where it was
    python benchmarks/table1_hippocampus.py --dataset-dir Task04_Hippocampus --table   # prints what there is

Every search and training is the hippocampus bundle's own command. Weights are those of the last epoch, so the held-out
fold chooses nothing. Results are in benchmarks/results/table1_hippocampus.json after every training.
"""

from __future__ import annotations

import json
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import monai
import torch
import typer
from scipy.stats import ttest_ind

from cakes_monai.architecture import Architecture
from cakes_monai.atomic_file import written_whole
from cakes_monai.cost import c2fnas_cost
from cakes_monai.nets import C2FNAS

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "hippocampus_mr_c2fnas_cakes"
RESULTS = ROOT / "benchmarks" / "results" / "table1_hippocampus.json"
SEEDS = (0, 1, 2)
OUT_CHANNELS = 3
PATCH = (32, 48, 32)
REFERENCE = "3D"


@dataclass(frozen=True)
class Row:
    """
    A row of the table.

    Args:
        name: the row.
        published: name of the published architecture; None when it is searched.
        search: options of search.json.
    """

    name: str
    published: str | None = None
    search: tuple[tuple[str, Any], ...] = ()


def searched(name: str, **options: Any) -> Row:
    """A row whose architecture is searched, anew for every seed."""
    return Row(name, None, tuple(options.items()))


ROWS = (
    Row("2D", "c2fnas-2d"),
    Row("3D", "c2fnas-3d"),
    Row("P3D", "c2fnas-p3d"),
    Row("CAKES manual 1D", "cakes-manual-1d"),
    Row("CAKES manual 2D", "cakes-manual-2d"),
    Row("CAKES manual 1,2,3D", "cakes-manual-123d"),
    searched("CAKES P 1D", priority="performance", sub_kernels="1d"),
    searched("CAKES P 2D", priority="performance", sub_kernels="2d"),
    searched("CAKES P 1,2,3D", priority="performance", sub_kernels="123d"),
    searched("CAKES C 1,2,3D", priority="cost", sub_kernels="123d"),
    searched("ours: C 1,2,3D, latency, granularity 16", priority="cost", beta="latency", granularity=16),
)


def main(
    dataset_dir: Annotated[Path | None, typer.Option(help="Folder of task 4 with dataset.json.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs, with their checkpoints.")] = ROOT
    / "benchmarks"
    / "runs",
    results: Annotated[Path, typer.Option(help="JSON file of the results.")] = RESULTS,
    init_filters: Annotated[int, typer.Option(min=8, help="Width; 16 channels at level 0 need 8.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Of every search and of every training.")] = 10,
    minutes: Annotated[float, typer.Option(help="Start no further piece after this time.")] = math.inf,
    only: Annotated[str, typer.Option(help="Rows whose name contains this.")] = "",
    table: Annotated[bool, typer.Option("--table", help="Only print the table.")] = False,
) -> None:
    """Train what is missing, measure latency, print the table."""
    settings = {"init_filters": init_filters, "epochs": epochs, "patch": list(PATCH)}
    content = _read(results, settings)
    if not table:
        if dataset_dir is None:
            raise typer.BadParameter("needed unless --table is given.", param_hint="--dataset-dir")
        deadline = time.monotonic() + 60 * minutes
        rows = [row for row in ROWS if only in row.name]
        for seed in SEEDS:  # all rows with the first seed come first
            for row in rows:
                if time.monotonic() < deadline and f"{row.name}/{seed}" not in content["runs"]:
                    content["runs"][f"{row.name}/{seed}"] = _piece(row, seed, dataset_dir.resolve(), runs, settings)
                    _write(results, content)
        content["latency"] = _latency(content)
        _write(results, content)
    typer.echo(_table(content))


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "monai": monai.__version__}
    if not path.exists():
        return {"settings": settings, "versions": versions, "runs": {}, "latency": {}}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["settings"] != settings:
        raise SystemExit(f"{path}: has results with {content['settings']}, this is {settings}; use --results.")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _piece(row: Row, seed: int, dataset_dir: Path, runs: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Search (if the row is searched), train and evaluate; each goes on from its checkpoint."""
    folder = (runs / re.sub(r"\W+", "_", row.name) / str(seed)).resolve()
    common = {
        "bundle_root": BUNDLE,
        "dataset_dir": dataset_dir,
        "init_filters": settings["init_filters"],
        "max_epochs": settings["epochs"],
        "seed": seed,
        "val_interval": settings["epochs"],
    }
    if row.published:
        architecture = folder / "architecture.json"
        Architecture.published(row.published, settings["init_filters"]).save(architecture)
    else:
        architecture = folder / "search" / "architecture.json"
        if not architecture.exists():
            _bundle(folder, ["search.json"], **common, **dict(row.search), output_dir=folder / "search", resume=True)
    train = {"architecture": architecture, "output_dir": folder / "train", "ckpt_dir": folder / "models"}
    if not (folder / "models" / "model.pt").exists():
        _bundle(folder, ["train.json"], **common, **train, select="last", resume=True)
    _bundle(folder, ["train.json", "evaluate.json"], **common, **train)
    summary = json.loads((folder / "train" / "summary.json").read_text())["summary"]
    found = Architecture.load(architecture)
    cost = c2fnas_cost(found, 1, OUT_CHANNELS, settings["init_filters"], PATCH)
    dice = {line["structure"]: line["mean"] for line in summary if line["metric"] == "Dice"}
    return {"dice": dice, "params": cost.params, "paper_flops": cost.paper_flops, "architecture": found.to_json()}


def _bundle(folder: Path, files: list[str], **options: Any) -> None:
    configs = str([str(BUNDLE / "configs" / name) for name in files])
    arguments = [f"--{name}={value}" for name, value in options.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{files[-1]}.log").open("a") as log:
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs, *arguments]
        subprocess.run(command, stdout=log, stderr=log, check=True)


def _latency(content: dict[str, Any], rounds: int = 9) -> dict[str, float]:
    """Time of a forward pass over that of the dense network, all measured in turns in this process; medians."""
    names = sorted({key.rpartition("/")[0] for key in content["runs"]} | {REFERENCE})
    filters = content["settings"]["init_filters"]
    dense = Architecture.published("c2fnas-3d", filters)
    networks = {}
    for name in names:
        first = next((run for key, run in content["runs"].items() if key.rpartition("/")[0] == name), None)
        architecture = dense if first is None else Architecture.from_json(first["architecture"])
        networks[name] = C2FNAS(1, OUT_CHANNELS, architecture, filters).eval()
    image = torch.randn(1, 1, *PATCH)
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for round_number in range(rounds + 2):
            for name, network in networks.items():
                start = time.perf_counter()
                network(image)
                if round_number >= 2:  # the first ones choose algorithms
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: medians[name] / medians[REFERENCE] for name in names}


def _table(content: dict[str, Any]) -> str:
    lines = [
        "| row | seeds | Dice, mean ± sd (%) | difference to 3D (p) | params (M) | FLOPs (G) | time / dense 3D |",
        "|---|---|---|---|---|---|---|",
    ]
    scores = {row.name: _scores(content, row) for row in ROWS}
    for row in ROWS:
        runs = [content["runs"][key] for seed in SEEDS if (key := f"{row.name}/{seed}") in content["runs"]]
        if not runs:
            lines.append(f"| {row.name} | 0 of {len(SEEDS)}, unfinished | | | | | |")
            continue
        values, reference = scores[row.name], scores[REFERENCE]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        lines.append(
            f"| {row.name} | {len(runs)} of {len(SEEDS)}{'' if len(runs) == len(SEEDS) else ', unfinished'} "
            f"| {statistics.mean(values):.2f}{spread} | {_difference(values, reference)} "
            f"| {statistics.mean(run['params'] for run in runs) / 1e6:.3f} "
            f"| {statistics.mean(run['paper_flops'] for run in runs) / 1e9:.3f} "
            f"| {content['latency'].get(row.name, math.nan):.2f} |"
        )
    return "\n".join(lines)


def _scores(content: dict[str, Any], row: Row) -> list[float]:
    runs = content["runs"]
    return [100 * runs[f"{row.name}/{seed}"]["dice"]["mean"] for seed in SEEDS if f"{row.name}/{seed}" in runs]


def _difference(values: list[float], reference: list[float]) -> str:
    """Difference of the means and p of Welch's t-test over seeds, where both have at least two."""
    if values is reference or not reference:
        return ""
    difference = f"{statistics.mean(values) - statistics.mean(reference):+.2f}"
    if min(len(values), len(reference)) < 2:
        return difference
    return f"{difference} (p {ttest_ind(values, reference, equal_var=False).pvalue:.2f})"


if __name__ == "__main__":
    typer.run(main)
