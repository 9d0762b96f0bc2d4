# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
CAKES table 3 on small real videos: the same recipe for all rows, three runs each, that can be killed and resumed.

    python benchmarks/table3_video.py --dataset-dir grid/clips                   # spoken digits; goes on where it was
    python benchmarks/table3_video.py --dataset-dir fight --dataset fight        # differences of frames of fights
    python benchmarks/table3_video.py --dataset-dir fight --dataset fight-frames # the frames themselves
    python benchmarks/table3_video.py --table                                    # prints what there is

Every search and training is the video bundle's own command. Weights are those of the last epoch, so the test clips
choose nothing. The runs of a row are three seeds on one split of the digits, and three folds of the fights with a seed
each, so that every clip is tested once. Results are in benchmarks/results/table3_<dataset>.json after every training.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
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
    wider,
)

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.architectures import video_architecture
from cakes_video.cost import video_cost
from cakes_video.resnet import VideoResNet

BUNDLE = ROOT / "bundles" / "video_cakes_resnet50"
REFERENCE = "C3D"
WIDER = 4  # times the channels: 64 in the stem, as in the paper


@dataclass(frozen=True)
class ClipSet:
    """
    Clips of a table.

    Args:
        classes: how many.
        overlay: config of the bundle that goes with them.
        options: more options.
        folds: whether the runs of a row are folds of the bundle's lists.
    """

    classes: int
    overlay: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    folds: bool = False


CLIPS = {
    "digits": ClipSet(10),
    "fight": ClipSet(2, "fight.json", folds=True),
    "fight-frames": ClipSet(2, "fight.json", (("differences", False),), folds=True),
}
TABLE = SeededTable(
    rows=(
        Row("C2D", "c2d"),
        Row("C3D", "c3d"),
        Row("P3D", "p3d"),
        Row("CAKES manual 1,2D", "manual-12d"),
        Row("CAKES manual 1,2,3D", "manual-123d"),
        searched("CAKES P 1,2D", priority="performance", sub_kernels="12d"),
        searched("CAKES C 1,2D", priority="cost", sub_kernels="12d"),
    ),
    reference=REFERENCE,
    score=Column("top-1, mean ± sd (%)", lambda run: run["top1"], 2),
    columns=(
        Column("params (M)", lambda run: run["params"] / 1e6),
        Column("multiply-adds (G)", lambda run: run["multiply_adds"] / 1e9),
    ),
)


def main(
    dataset_dir: Annotated[Path | None, typer.Option(help="Folder of the clips.")] = None,
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(CLIPS)}.")] = "digits",
    runs: Annotated[Path, typer.Option(help="Folder of the runs, with their checkpoints.")] = ROOT
    / "benchmarks"
    / "runs",
    results: Annotated[Path | None, typer.Option(help="JSON file of the results.")] = None,
    backbone: Annotated[str, typer.Option(help="ResNet of all rows.")] = "resnet18",
    width: Annotated[int, typer.Option(min=1, help="Channels of the stem.")] = 16,
    size: Annotated[int, typer.Option(min=32, help="Rows and columns of a clip.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Of every search and of every training.")] = 120,
    minutes: Annotated[float, typer.Option(help="Start no further piece after this time.")] = math.inf,
    only: Annotated[str, typer.Option(help="Rows whose name contains this.")] = "",
    table: Annotated[bool, typer.Option("--table", help="Only print the table.")] = False,
) -> None:
    """Train what is missing, measure the time of a clip, print the table."""
    if dataset not in CLIPS:
        raise typer.BadParameter(f"{dataset!r}; allowed are {', '.join(CLIPS)}.", param_hint="--dataset")
    shown = replace(TABLE, folds=CLIPS[dataset].folds)
    path = results or ROOT / "benchmarks" / "results" / f"table3_{dataset.replace('-', '_')}.json"
    settings = {"dataset": dataset, "backbone": backbone, "width": width, "size": size, "epochs": epochs, "frames": 8}
    if shown.folds:
        settings["runs"] = "folds"
    if not table:
        if dataset_dir is None:
            raise typer.BadParameter("needed unless --table is given.", param_hint="--dataset-dir")
        data = dataset_dir.resolve()
        folder = runs / f"table3_{dataset}"
        shown.run(path, settings, lambda row, seed: _piece(row, seed, data, folder, settings), _times, minutes, only)
    typer.echo(shown.text(read_results(path, settings)))


def _piece(row: Row, seed: int, dataset_dir: Path, runs: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Search (if the row is searched), train and evaluate; each goes on from its checkpoint."""
    folder, clips, width = run_folder(runs, row, seed), CLIPS[settings["dataset"]], settings["width"]
    overlay = [clips.overlay] if clips.overlay else []
    common = {
        **dict(clips.options),
        "bundle_root": BUNDLE,
        "dataset_dir": dataset_dir,
        "width": width,
        "size": settings["size"],
        "max_epochs": settings["epochs"],
        "seed": seed,
        "val_interval": settings["epochs"],
        "num_workers": 0,
        "cache": True,
    }
    if clips.folds:
        common["fold"] = seed
    if row.published:
        architecture = folder / "architecture.json"
        video_architecture(row.published, settings["backbone"], width).save(architecture)
    else:
        architecture = folder / "search" / "architecture.json"
        if not architecture.exists():
            search = {**common, **dict(row.search), "backbone": settings["backbone"], "output_dir": folder / "search"}
            run_bundle(BUNDLE, folder, ["search.json", *overlay], **search, resume=True)
    train = {"architecture": architecture, "output_dir": folder / "train", "ckpt_dir": folder / "models"}
    if not (folder / "models" / "model.pt").exists():
        run_bundle(BUNDLE, folder, ["train.json", *overlay], **common, **train, select="last", resume=True)
    run_bundle(BUNDLE, folder, ["train.json", *overlay, "evaluate.json"], **common, **train)
    summary = json.loads((folder / "train" / "summary.json").read_text())
    found = BackboneArchitecture.load(architecture)
    cost = video_cost(found, clips.classes, width, (8, settings["size"], settings["size"]))
    return {
        "top1": summary["top1"],
        "mean_class_accuracy": summary["mean_class_accuracy"],
        "params": cost.params,
        "multiply_adds": cost.multiply_adds,
        "architecture": found.to_json(),
    }


def _times(content: dict[str, Any]) -> Times:
    settings = content["settings"]
    width, size = settings["width"], settings["size"]
    dense = video_architecture("c3d", settings["backbone"], width).to_json()
    found = {name: split or dense for name, split in measured_architectures(content, REFERENCE).items()}
    x = torch.randn(1, 3, settings["frames"], size, size)

    def networks(factor: int) -> dict[str, VideoResNet]:
        architectures = {name: BackboneArchitecture.from_json(wider(split, factor)) for name, split in found.items()}
        classes = CLIPS[settings["dataset"]].classes
        return {name: VideoResNet(a, classes, factor * width).eval() for name, a in architectures.items()}

    return times_at_two_widths(networks(1), networks(WIDER), x, REFERENCE, f"{WIDER} times wider")


if __name__ == "__main__":
    typer.run(main)
