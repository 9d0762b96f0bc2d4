# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
Networks trained on the hippocampus, shrunken in three ways and trained on for a tenth of the epochs; three seeds.

    python benchmarks/shrinking_hippocampus.py --dataset-dir Task04_Hippocampus    # goes on where it was
    python benchmarks/shrinking_hippocampus.py --table                             # prints what there is

All three ways use all seven sub-kernels and the same multiply-adds: "by hand" divides channels evenly, "least squares"
by what each layer loses on training volumes, "by search" by the gates of a super-network that starts from the trained
weights. All are trained on at a tenth of the learning rate, the dense network as well. Everything is run by copies of
the hippocampus bundle; weights are those of the last epoch, so the held-out fold chooses nothing.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from monai.bundle import ConfigParser
from seeded_rows import (
    ROOT,
    SEEDS,
    Column,
    Row,
    SeededTable,
    Times,
    fastest_times,
    read_results,
    run_bundle,
    run_folder,
    wider,
)
from torch import nn

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.conversion import ShrinkReport, network_cost, rebuild, shrink, shrink_bundle, to_supernet
from cakes_monai.data import decathlon_fold

BUNDLE = ROOT / "bundles" / "hippocampus_mr_c2fnas_cakes"
PATCH = (32, 48, 32)
TIMED = (1, 1, 64, 96, 64)  # eight patches
WIDER = 4  # times the channels, as networks for larger images have them
VOLUMES = 4
SLOWER = 10  # how much shorter, and at how much lower a rate, networks are trained on, as shrink_bundle has it
WIDTHS = ("filters", "channels", "init_filters")
KERNELS = "123d"
DENSE, HAND, LEAST_SQUARES, SEARCH = "dense", "by hand", "least squares", "by search"
INSTANCE = ["INSTANCE", {"affine": True}]
#: Definitions of networks of about the same width, as they stand in a bundle.
BACKBONES: dict[str, dict[str, Any]] = {
    "DynUNet": {
        "_target_": "DynUNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
        "filters": [8, 16, 32, 64],
        "norm_name": INSTANCE,
    },
    "SegResNet": {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "init_filters": 8,
        "blocks_down": [1, 2, 2, 2],
        "blocks_up": [1, 1, 1],
    },
    "UNet": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [8, 16, 32, 64],
        "strides": [2, 2, 2],
        "num_res_units": 2,
        "norm": INSTANCE,
    },
    "C2FNAS": {
        "_target_": "cakes_monai.nets.C2FNAS",
        "in_channels": 1,
        "out_channels": 3,
        "init_filters": 8,
        "architecture": {"_target_": "cakes_monai.architecture.Architecture.published", "name": "c2fnas-3d"},
    },
}

TABLE = SeededTable(
    rows=(Row(DENSE), Row(HAND), Row(LEAST_SQUARES), Row(SEARCH)),
    reference=DENSE,
    score=Column("Dice trained on, mean ± sd (%)", lambda run: run["tuned"], 2),
    columns=(
        Column("Dice before (%)", lambda run: 100 * run["before"], 2),
        Column("right after shrinking (%)", lambda run: 100 * run["shrunken"], 2),
        Column("params (M)", lambda run: run["params"] / 1e6),
        Column("multiply-adds (G)", lambda run: run["multiply_adds"] / 1e9),
        Column("of them replaced", lambda run: run["replaceable"], 2),
    ),
)


def main(
    dataset_dir: Annotated[Path | None, typer.Option(help="Folder of task 4 with dataset.json.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the bundles.")] = ROOT / "benchmarks" / "runs" / "shrinking",
    results: Annotated[Path, typer.Option(help="Folder of the results, a JSON file for each network.")] = ROOT
    / "benchmarks"
    / "results",
    backbones: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(BACKBONES),
    epochs: Annotated[int, typer.Option(min=1, help="Of training; a tenth follows the shrinking.")] = 10,
    search_epochs: Annotated[int, typer.Option(min=1, help="Of the search, from the trained weights.")] = 4,
    minutes: Annotated[float, typer.Option(help="Start no further piece after this time.")] = math.inf,
    table: Annotated[bool, typer.Option("--table", help="Only print the tables.")] = False,
) -> None:
    """Train what is missing, measure times, print the tables."""
    if unknown := set(backbones.split(",")) - BACKBONES.keys():
        raise typer.BadParameter(f"unknown {unknown}, allowed are {', '.join(BACKBONES)}.", param_hint="--backbones")
    chosen = [name for name in BACKBONES if name in backbones.split(",")]
    files = {name: results / f"shrinking_{name.lower()}.json" for name in chosen}
    lengths = {"epochs": epochs, "search_epochs": search_epochs, "slower": SLOWER}
    settings = {name: {"network": BACKBONES[name], **lengths} for name in chosen}
    if not table:
        if dataset_dir is None:
            raise typer.BadParameter("needed unless --table is given.", param_hint="--dataset-dir")
        data, deadline = dataset_dir.resolve(), time.monotonic() + 60 * minutes
        for seed, name in itertools.product(SEEDS, chosen):
            pieces = Pieces(name, data, runs, epochs, search_epochs)
            left = (deadline - time.monotonic()) / 60
            TABLE.run(files[name], settings[name], pieces.piece, _times, left, seeds=(seed,))
    for name in chosen:
        typer.echo(f"\n{name}:\n\n{TABLE.text(read_results(files[name], settings[name]))}")


class Pieces:
    """
    Trainings of one network.

    Args:
        backbone: name of the network.
        dataset_dir: the data.
        runs: folder of the bundles.
        epochs: of training.
        search_epochs: of the search.
    """

    def __init__(self, backbone: str, dataset_dir: Path, runs: Path, epochs: int, search_epochs: int) -> None:
        self.backbone, self.dataset_dir, self.runs = backbone, dataset_dir, runs / backbone
        self.epochs, self.search_epochs = epochs, search_epochs

    def piece(self, row: Row, seed: int) -> dict[str, Any]:
        """Train the network unless it is, shrink it, train it on; Dice after each and what it costs."""
        dense, here = run_folder(self.runs, Row(DENSE), seed), run_folder(self.runs, row, seed)
        bundle = here / "bundle"
        if not (dense / "bundle" / "models" / "model.pt").exists():
            if not (dense / "bundle").exists():
                _copy_with_network(BACKBONES[self.backbone], dense / "bundle", self.epochs)
            self._run(dense, "train", seed)
        before = self._dice(dense, "evaluated", seed)
        if not bundle.exists():
            self._shrink(row.name, dense, bundle, seed)
        shrunken = self._dice(here, "evaluated", seed)
        if not (here / "tuned" / "model.pt").exists():
            self._run(here, "tuned", seed, "finetune.json", ckpt_dir=here / "tuned")
        splits = _splits(bundle)
        cost = network_cost(build(self.backbone, splits), (1, 1, *PATCH))
        return {
            "before": before,
            "shrunken": shrunken,
            "tuned": self._dice(here, "tuned_evaluated", seed, ckpt_dir=here / "tuned"),
            "params": cost.params,
            "multiply_adds": cost.multiply_adds,
            "replaceable": _replaceable(self.backbone),
            "architecture": splits,
        }

    def _shrink(self, name: str, dense: Path, bundle: Path, seed: int) -> None:
        cases = decathlon_fold(self.dataset_dir, "training")[:VOLUMES]
        options: dict[str, Any] = {"images": [case["image"] for case in cases], "size": PATCH}
        if name == HAND:
            shrink_bundle(dense / "bundle", bundle, KERNELS, **options)
        elif name == LEAST_SQUARES:
            budget = {"limit": even_division(self.backbone).after.multiply_adds, "unit": "multiply_adds"}
            shrink_bundle(dense / "bundle", bundle, KERNELS, division="best", budget=budget, **options)
        else:
            found = dense / "search" / "architecture.json"
            searched = to_supernet(build(self.backbone, None), KERNELS, input_shape=(1, 1, *PATCH)).norms
            limit = even_division(self.backbone, tuple(searched)).after.multiply_adds
            budget = {"limit": limit, "unit": "multiply_adds", "size": list(PATCH)}
            self._bundle(dense, ["search.json"], seed, found.parent, max_epochs=self.search_epochs, budget=budget)
            shrink_bundle(dense / "bundle", bundle, BackboneArchitecture.load(found), **options)

    def _run(self, folder: Path, output: str, seed: int, *overlays: str, **options: Any) -> None:
        self._bundle(folder, ["train.json", *overlays], seed, folder / output, select="last", **options)

    def _dice(self, folder: Path, output: str, seed: int, **options: Any) -> float:
        """Mean Dice of the held-out fold."""
        summary = folder / output / "summary.json"
        if not summary.exists():
            files = ["train.json", "evaluate.json"]
            self._bundle(folder, files, seed, summary.parent, resume=False, engine="torch", **options)
        lines = json.loads(summary.read_text(encoding="utf-8"))["summary"]
        return next(float(line["mean"]) for line in lines if (line["metric"], line["structure"]) == ("Dice", "mean"))

    def _bundle(self, folder: Path, files: list[str], seed: int, output: Path, **options: Any) -> None:
        """Run configs of a bundle; what it writes lies beside it, for it is copied."""
        places = {"bundle_root": folder / "bundle", "dataset_dir": self.dataset_dir, "output_dir": output}
        common = {"seed": seed, "val_interval": 1000, "resume": True}
        run_bundle(folder / "bundle", output, files, **places, **common | options)


def _copy_with_network(network: dict[str, Any], folder: Path, epochs: int) -> None:
    """The hippocampus bundle with another network, which is searched and trained on from its trained weights."""
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models", "eval", "sample_data"))
    for name in ("train.json", "inference.json", "search.json"):
        file = folder / "configs" / name
        content = json.loads(file.read_text(encoding="utf-8")) | {"network_def": network}
        if name == "train.json":
            content["max_epochs"] = epochs
            rate = content["learning_rate"] / SLOWER
            checkpoint = next(h for h in content["train"]["handlers"] if "TrainingCheckpoint" in h["_target_"])
            checkpoint["identity"]["architecture"] = network["_target_"]
        if name == "search.json":
            trained = "$(@backbone, @backbone.load_state_dict(torch.load(@bundle_root + '/models/model.pt')))[0]"
            supernet = {"_target_": "cakes_monai.conversion.to_supernet", "network": trained, "kernels": KERNELS}
            content |= {"backbone": network, "network_def": supernet}
        file.write_text(json.dumps(content, indent=4), encoding="utf-8")
    loaded = "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt'))"
    initialize = json.loads((folder / "configs" / "train.json").read_text())["initialize"]
    tuning = {"max_epochs": math.ceil(epochs / SLOWER), "learning_rate": rate, "initialize": [*initialize, loaded]}
    (folder / "configs" / "finetune.json").write_text(json.dumps(tuning, indent=4), encoding="utf-8")


def _splits(bundle: Path) -> dict[str, Any] | None:
    file = bundle / "configs" / "shrunken.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def build(backbone: str, splits: dict[str, Any] | None, times: int = 1) -> nn.Module:
    """A network with new weights, and ``times`` as many channels."""
    definition = {key: _scaled(value, times) if key in WIDTHS else value for key, value in BACKBONES[backbone].items()}
    network: nn.Module = ConfigParser({"network": definition}).get_parsed_content("network")
    if splits is None:
        return network.eval()
    return rebuild(network, wider(splits, times)).eval()


def _scaled(value: Any, times: int) -> Any:
    return [times * item for item in value] if isinstance(value, list) else times * value


def even_division(backbone: str, include: tuple[str, ...] | str = "*") -> ShrinkReport:
    """What a network costs before and after the even division."""
    network, shape = build(backbone, None), (1, 1, *PATCH)
    return shrink(network, KERNELS, init="slice", include=include, input_shape=shape)[1]


def _replaceable(backbone: str) -> float:
    """Share of a network's multiply-adds in the layers that are replaced."""
    report = even_division(backbone)
    return sum(layer.before.multiply_adds for layer in report.layers) / report.before.multiply_adds


def _times(content: dict[str, Any]) -> Times:
    """Time of each row over the dense network, with these channels and with ``WIDER`` times as many."""
    found = {row.name: content["runs"].get(f"{row.name}/{SEEDS[0]}") for row in TABLE.rows}
    if None in found.values():
        return {}
    backbone = next(name for name, network in BACKBONES.items() if network == content["settings"]["network"])
    x, measured = torch.randn(TIMED), {}
    for title, factor in ((f"time / {DENSE}", 1), (f"time / {DENSE}, {WIDER} times wider", WIDER)):
        networks = {name: build(backbone, run["architecture"], factor) for name, run in found.items()}
        measured[title] = fastest_times(networks, x, DENSE)
    return measured


if __name__ == "__main__":
    typer.run(main)
