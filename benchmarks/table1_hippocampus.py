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
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from seeded_rows import (
    ROOT,
    Column,
    Row,
    SeededTable,
    Times,
    measured_architectures,
    read_results,
    run_bundle,
    run_folder,
    searched,
    times_at_two_widths,
)

from cakes_monai.architecture import Architecture
from cakes_monai.cost import c2fnas_cost
from cakes_monai.nets import C2FNAS

BUNDLE = ROOT / "bundles" / "hippocampus_mr_c2fnas_cakes"
RESULTS = ROOT / "benchmarks" / "results" / "table1_hippocampus.json"
OUT_CHANNELS = 3
PATCH = (32, 48, 32)
REFERENCE = "3D"
WIDTH = 32  # filters in the papers

TABLE = SeededTable(
    rows=(
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
        searched(
            "ours: C 1,2,3D, latency, granularity 16",
            priority="cost",
            sub_kernels="123d",
            beta="latency",
            granularity=16,
        ),
    ),
    reference=REFERENCE,
    score=Column("Dice, mean ± sd (%)", lambda run: run["dice"]["mean"], 2),
    columns=(
        Column("params (M)", lambda run: run["params"] / 1e6),
        Column("FLOPs (G)", lambda run: run["paper_flops"] / 1e9),
    ),
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
    if not table:
        if dataset_dir is None:
            raise typer.BadParameter("needed unless --table is given.", param_hint="--dataset-dir")
        data = dataset_dir.resolve()
        TABLE.run(results, settings, lambda row, seed: _piece(row, seed, data, runs, settings), _times, minutes, only)
    typer.echo(TABLE.text(read_results(results, settings)))


def _piece(row: Row, seed: int, dataset_dir: Path, runs: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Search (if the row is searched), train and evaluate; each goes on from its checkpoint."""
    folder = run_folder(runs, row, seed)
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
            search = {**common, **dict(row.search), "output_dir": folder / "search", "resume": True}
            run_bundle(BUNDLE, folder, ["search.json"], **search)
    train = {"architecture": architecture, "output_dir": folder / "train", "ckpt_dir": folder / "models"}
    if not (folder / "models" / "model.pt").exists():
        run_bundle(BUNDLE, folder, ["train.json"], **common, **train, select="last", resume=True)
    run_bundle(BUNDLE, folder, ["train.json", "evaluate.json"], **common, **train)
    summary = json.loads((folder / "train" / "summary.json").read_text())["summary"]
    found = Architecture.load(architecture)
    cost = c2fnas_cost(found, 1, OUT_CHANNELS, settings["init_filters"], PATCH)
    dice = {line["structure"]: line["mean"] for line in summary if line["metric"] == "Dice"}
    return {"dice": dice, "params": cost.params, "paper_flops": cost.paper_flops, "architecture": found.to_json()}


def _times(content: dict[str, Any]) -> Times:
    found = measured_architectures(content, REFERENCE)
    filters, x = content["settings"]["init_filters"], torch.randn(1, 1, *PATCH)

    def networks(width: int) -> dict[str, C2FNAS]:
        dense = Architecture.published("c2fnas-3d", filters)
        architectures = {name: Architecture.from_json(a) if a else dense for name, a in found.items()}
        return {name: C2FNAS(1, OUT_CHANNELS, a.scaled(width), width).eval() for name, a in architectures.items()}

    return times_at_two_widths(networks(filters), networks(WIDTH), x, REFERENCE, f"{WIDTH} filters")


if __name__ == "__main__":
    typer.run(main)
