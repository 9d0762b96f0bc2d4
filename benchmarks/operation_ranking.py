# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
How well the super-network of the fine stage ranks candidates: some are trained from scratch, and the orders compared.

    python benchmarks/operation_ranking.py --dataset-dir Task04_Hippocampus --search eval/operations  # goes on
    python benchmarks/operation_ranking.py --search eval/operations --report                          # prints what is

Candidates are spread evenly over the ranking that search_operations.json of the hippocampus bundle left. Every training
is the bundle's own command. Weights are those of the last epoch, so the held-out fold chooses nothing. Results are in
benchmarks/results/operation_ranking.json after every training, with the figure beside it.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from seeded_rows import ROOT, read_results, run_bundle, write_results

from cakes_monai.architecture import Architecture, Topology
from cakes_monai.nets import operation_cells
from cakes_monai.plots import draw_rank_correlation, save_figure
from cakes_monai.search import rank_correlation
from cakes_monai.search.trial import digest

BUNDLE = ROOT / "bundles" / "hippocampus_mr_c2fnas_cakes"
RESULTS = ROOT / "benchmarks" / "results" / "operation_ranking.json"


def main(
    search: Annotated[Path, typer.Option(help="Folder of the search, with candidates.json.")],
    dataset_dir: Annotated[Path | None, typer.Option(help="Folder of task 4 with dataset.json.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the trainings.")] = ROOT / "benchmarks" / "runs",
    results: Annotated[Path, typer.Option(help="JSON file of the results.")] = RESULTS,
    count: Annotated[int, typer.Option(min=2, help="Candidates to train.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, with different seeds.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Of every training.")] = 80,
    fold: Annotated[int, typer.Option(min=0, help="The search's fold.")] = 0,
    minutes: Annotated[float, typer.Option(help="Start no further training after this time.")] = math.inf,
    report: Annotated[bool, typer.Option("--report", help="Only print what there is.")] = False,
) -> None:
    """Train what is missing, compare the orders, draw them."""
    table = json.loads((search / "candidates.json").read_text(encoding="utf-8"))
    settings = {"search": digest(table), "init_filters": table["init_filters"], "epochs": epochs, "fold": fold}
    content = read_results(results, settings)
    rows = spread([row for row in table["candidates"] if row["score"] is not None], count)
    if not report:
        if dataset_dir is None:
            raise typer.BadParameter("needed unless --report is given.", param_hint="--dataset-dir")
        folder, deadline = runs.resolve() / f"operation_ranking_{settings['search']}", time.monotonic() + 60 * minutes
        for seed in range(seeds):
            for row in rows:
                if run_name(row, seed) not in content["runs"] and time.monotonic() < deadline:
                    piece = folder / run_name(row, seed)
                    content["runs"][run_name(row, seed)] = _trained(row, seed, table, settings, dataset_dir, piece)
                    write_results(results, content)
    lines, estimated, trained = comparison(rows, content["runs"])
    typer.echo("\n".join(lines))
    if len(trained) > 1 and min(np.ptp(estimated), np.ptp(trained)) > 0:
        names = [str(row["rank"]) for row in rows if scores(row, content["runs"])]
        save_figure(draw_rank_correlation(estimated, trained, names), results.with_suffix(".png"))


def spread(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """``count`` of the rows from the first to the last, at even distances."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def run_name(row: Mapping[str, Any], seed: int) -> str:
    """Name of a training."""
    return f"{'_'.join(row['operations'])}/{seed}"


def scores(row: Mapping[str, Any], trained: Mapping[str, Any]) -> list[float]:
    """Dice of the trainings of a candidate so far."""
    name = run_name(row, 0).rpartition("/")[0]
    return [run["dice"]["mean"] for key, run in trained.items() if key.rpartition("/")[0] == name]


def comparison(
    rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Any]
) -> tuple[list[str], list[float], list[float]]:
    """Lines that compare both scores of the candidates trained so far, and the scores, in per cent."""
    lines = ["| rank | operations | super-network (%) | trained (%) | trainings |", "|---|---|---|---|---|"]
    estimated, trained = [], []
    for row in rows:
        dice = [100 * value for value in scores(row, runs)]
        mean = f"{statistics.mean(dice):.2f}" if dice else "unfinished"
        lines.append(
            f"| {row['rank']} | {' '.join(row['operations'])} | {100 * row['score']:.2f} | {mean} | {len(dice)} |"
        )
        if dice:
            estimated.append(100 * row["score"])
            trained.append(statistics.mean(dice))
    try:
        found = rank_correlation(estimated, trained)
    except ValueError as error:
        lines += ["", f"no correlation: {error}"]
    else:
        tau = f"Kendall's tau {found.kendall:.2f} (p {found.p_value:.2f})"
        lines += ["", f"{tau}, Spearman's rho {found.spearman:.2f}, N = {found.count}"]
    return lines, estimated, trained


def _trained(
    row: Mapping[str, Any],
    seed: int,
    table: Mapping[str, Any],
    settings: Mapping[str, Any],
    dataset_dir: Path,
    folder: Path,
) -> dict[str, Any]:
    """Train and evaluate a candidate; both go on from where they were."""
    topology = Topology(tuple(table["topology"]))
    architecture = Architecture(
        topology,
        operation_cells(topology, row["operations"], table["init_filters"]),
        {"search": settings["search"], "rank": row["rank"], "score": row["score"]},
    )
    architecture.save(folder / "architecture.json")
    options = {
        "bundle_root": BUNDLE,
        "dataset_dir": dataset_dir.resolve(),
        "architecture": folder / "architecture.json",
        "output_dir": folder / "train",
        "ckpt_dir": folder / "models",
        "init_filters": table["init_filters"],
        "max_epochs": settings["epochs"],
        "val_interval": settings["epochs"],
        "fold": settings["fold"],
        "seed": seed,
    }
    if not (folder / "models" / "model.pt").exists():
        run_bundle(BUNDLE, folder, ["train.json"], **options, select="last", resume=True)
    run_bundle(BUNDLE, folder, ["train.json", "evaluate.json"], **options)
    summary = json.loads((folder / "train" / "summary.json").read_text())["summary"]
    return {"dice": {line["structure"]: line["mean"] for line in summary if line["metric"] == "Dice"}}


if __name__ == "__main__":
    typer.run(main)
