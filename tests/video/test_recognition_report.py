# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracies and reports of videos whose logits are given, on one process and on two."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib.image import imread
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from cakes_monai.handlers import ModelSaver
from cakes_video.handlers import RecognitionAccuracy, RecognitionReport, RecognitionSaver, logits_and_labels

NAMES = ["wave", "jump, high", "run", "sit"]


class Shift(torch.nn.Module):
    """Network that adds a number to the first logit of its input, which are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + self.shift * torch.eye(logits.shape[-1])[0]


def view(name: str, label: int, probabilities: list[float], **place: int) -> dict[str, Any]:
    """Item of a data set whose logits give ``probabilities``."""
    logits = torch.tensor(probabilities).log()
    return {"image": logits, "label": label, "name": name, "video": f"/data/{name}.mp4", "clip": 0, "crop": 0, **place}


def five_views() -> list[dict[str, Any]]:
    """
    Views of four videos; two of video b, whose averages are 0.32 for its class 0 and 0.48 for class 1.

    Their geometric means are in the ratio sqrt(0.6 * 0.04) : sqrt(0.02 * 0.94) = 0.155 : 0.137: class 0 by logits.
    Video a is right, c has its class third, d is class 3 taken for 0; class 1 has no video.
    """
    return [
        view("b", 0, [0.6, 0.02, 0.19, 0.19]),
        view("a", 0, [0.7, 0.1, 0.1, 0.1]),
        view("c", 2, [0.25, 0.5, 0.15, 0.1]),
        view("b", 0, [0.04, 0.94, 0.01, 0.01], clip=1),
        view("d", 3, [0.9, 0.05, 0.03, 0.02]),
    ]


def evaluate(items: list[dict[str, Any]], *handlers: Any, **options: Any) -> SupervisedEvaluator:
    """Run MONAI's evaluator over given logits."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=options.pop("batch_size", 2)),
        network=options.pop("network", None) or Shift(),
        val_handlers=list(handlers),
        **options,
    )
    evaluator.run()
    return evaluator


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("views", "top1", "top2", "mean_class"), [("probability", 1 / 4, 2 / 4, 1 / 6), ("logit", 2 / 4, 2 / 4, 1 / 3)]
)
def test_metrics_by_hand(views: str, top1: float, top2: float, mean_class: float) -> None:
    """
    Accuracies are those of whole videos; top-5 of four classes is 1; the class without videos does not count.

    By probability a alone is right, b second. Mean class accuracy (1/2 + 0 + 0) / 3; by logits (1 + 0 + 0) / 3.
    """
    metrics = evaluate(five_views(), RecognitionReport(None, NAMES, (1, 2, 5), views, "test")).state.metrics
    expected = {"test_top1": top1, "test_top2": top2, "test_top5": 1, "test_mean_class_accuracy": mean_class}
    assert metrics == pytest.approx(expected)


def test_the_files_of_a_report(tmp_path: Path) -> None:
    """Tables have every video and class, names with commas included, and the summary names the classes left out."""
    evaluate(five_views(), RecognitionReport(tmp_path, NAMES))
    files = ["classes.csv", "clips.csv", "confusion.csv", "confusion.png", "summary.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    rows = {row["name"]: row for row in read(tmp_path / "clips.csv")}
    assert list(rows) == ["a", "b", "c", "d"]
    b = ["b", "/data/b.mp4", "2", "wave", "jump, high", "0", "0.48", "2", "jump, high", "0.48", "wave", "0.32"]
    assert list(rows["b"].values()) == [*b, "run", "0.1", "sit", "0.1"]
    assert [rows[name]["rank"] for name in "acd"] == ["1", "3", "4"]
    assert list(rows["a"])[8:10] == ["class 1", "probability 1"]
    confusion = [list(row.values()) for row in read(tmp_path / "confusion.csv")]
    assert confusion == [["wave", *"1100"], ["jump, high", *"0000"], ["run", *"0100"], ["sit", *"1000"]]
    classes = {row.pop("class"): list(row.values()) for row in read(tmp_path / "classes.csv")}
    assert classes["wave"] == ["2", "1", "0.5", "jump, high", "1"]
    assert classes["jump, high"] == ["0", "0", "", "", ""]
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        **{"videos": 4, "views": 5, "average_of_views": "probability", "top1": 0.25, "top5": 1.0},
        **{"mean_class_accuracy": 0.166667, "classes": 4, "classes_without_videos": ["jump, high"]},
    }
    assert np.ptp(imread(tmp_path / "confusion.png")[..., :3]) > 0.5


def test_order_batches_and_decollation_change_nothing(tmp_path: Path) -> None:
    """The same files from views in another order, in one batch that is not decollated, with a view repeated."""
    evaluate(five_views(), RecognitionReport(tmp_path / "one", NAMES))
    items = [*reversed(five_views()), five_views()[0]]
    evaluate(items, RecognitionReport(tmp_path / "two", NAMES), decollate=False, batch_size=6)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_every_run_starts_anew() -> None:
    """A validation in the middle of a training does not count the videos of the one before."""
    evaluator = evaluate(five_views(), RecognitionReport(None, NAMES))
    evaluator.network.shift.data += 100.0  # everything is class 0
    evaluator.run()
    assert evaluator.state.metrics["val_top1"] == 0.5


def test_the_best_weights_are_those_of_the_best_accuracy(tmp_path: Path) -> None:
    """With RecognitionAccuracy as key metric ModelSaver keeps the weights of the epoch that recognised most videos."""
    network = Shift()
    accuracy = {"val_top1": RecognitionAccuracy(NAMES)}
    more = {
        "val_mean": RecognitionAccuracy(NAMES, "mean_class_accuracy"),
        "val_top3": RecognitionAccuracy(NAMES, "top3"),
    }
    report = RecognitionReport(None, NAMES)
    options: dict[str, Any] = {"network": network, "key_val_metric": accuracy, "additional_metrics": more}
    evaluator = evaluate(five_views(), report, **options)
    assert evaluator.state.metrics["val_top1"] == evaluator.state.best_metric == 0.25
    assert evaluator.state.metrics["val_mean"] == evaluator.state.metrics["val_mean_class_accuracy"]
    assert evaluator.state.metrics["val_top3"] == 0.75
    ModelSaver(tmp_path / "model.pt", network, evaluator).attach(Engine(lambda trainer, batch: None))
    for epoch, shift in enumerate((0.0, 100.0, -100.0), start=2):
        network.shift.data.fill_(shift)
        evaluator.run(epoch)
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (0.5, 3)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["shift"] == 100


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": torch.tensor([0.0, float("nan"), 0, 0])}, r"^c: the network gives logits that are not finite"),
        ({"image": torch.zeros(5)}, r"^c: logits of shape \(5,\); the class names allow \(4,\)\.$"),
        ({"label": 4}, r"^c: label 4; allowed is a whole number from 0 to 3\.$"),
        ({"label": 0.5}, r"^c: label 0.5; allowed is a whole number from 0 to 3\.$"),
        ({"label": None}, r"^c: neither output nor batch has 'label'\.$"),
        ({"name": None}, r"^engine: neither output nor batch has 'name'\.$"),
        (
            {"name": "a", "clip": 1},
            r"^a: has video /data/a.mp4 and /data/c.mp4; every video needs a name of its own\.$",
        ),
        ({"name": "a"}, r"^a: clip 0, crop 0 came twice with different logits; every view of a video needs its own"),
    ],
)
def test_items_that_cannot_be_averaged_are_named(changed: dict[str, Any], message: str) -> None:
    """Logits that are not finite or fit no class names, labels that are none, and mixed up views end the run."""
    items = [{**item, **changed} if item["name"] == "c" else item for item in five_views()]
    items = [{key: value for key, value in item.items() if value is not None} for item in items]
    with pytest.raises(ValueError, match=message):
        evaluate(items, RecognitionReport(None, NAMES), batch_size=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": "wave"}, r"^class_names: 'wave'; allowed is a list of different names"),
        ({"class_names": ["a", "a"]}, r"^class_names: 'a' stands there 2 times"),
        ({"topk": (0,)}, r"^topk: \(0,\); allowed is a list of whole numbers from 1\.$"),
        ({"views": "max"}, r"^views: 'max'; allowed are 'probability', 'logit'\.$"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """A setting that means nothing is an error when the handler is made, not after hours."""
    with pytest.raises(ValueError, match=message):
        RecognitionReport(**{"output_dir": None, "class_names": NAMES, **arguments})


def test_unknown_metric_is_refused() -> None:
    """The key metric is one that exists."""
    with pytest.raises(ValueError, match=r"^metric: 'top0'; allowed are 'top1', 'top5' and so on, and"):
        RecognitionAccuracy(NAMES, "top0")


SCRIPT = """
import sys
from pathlib import Path

import torch.distributed as dist
from ignite.engine import Engine
from torch.multiprocessing.spawn import start_processes

sys.path.insert(0, sys.argv[1])
import test_recognition_report as case
from cakes_video.handlers import RecognitionAccuracy, RecognitionReport, RecognitionSaver, logits_and_labels


def evaluate(rank, folder):
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=2)
    items = case.five_views()
    part = [[items[4], items[0], items[1]], [items[3], items[2], items[4], items[0]]][rank]  # d and a view of b twice
    handlers = [RecognitionReport(folder / "two", case.NAMES), RecognitionSaver(folder / "two_saved", case.NAMES)]
    key = {"key": RecognitionAccuracy(case.NAMES)}
    metrics = case.evaluate(part, *handlers, key_val_metric=key).state.metrics
    assert metrics["key"] == metrics["val_top1"] == 0.25, metrics
    report = RecognitionReport(folder / "first", case.NAMES)
    if rank == 0:
        case.evaluate(items, report)
    else:
        report(Engine(lambda engine, batch: None))  # a process that had no video
    dist.barrier()
    dist.destroy_process_group()


start_processes(evaluate, (Path(sys.argv[2]),), nprocs=2, start_method="fork")  # what is imported is imported once
"""


def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    """
    Two processes with three and four views write what one process writes, and both have its metrics.

    The views of a video lie on both, two views are repeated; and a process may have no view at all.
    """
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    evaluate(five_views(), RecognitionReport(tmp_path / "one", NAMES), RecognitionSaver(tmp_path / "one_saved", NAMES))
    assert contents(tmp_path / "two") == contents(tmp_path / "first") == contents(tmp_path / "one")
    assert contents(tmp_path / "two_saved") == contents(tmp_path / "one_saved")


def test_what_metrics_of_ignite_take() -> None:
    """Items that were taken apart are put together: logits in rows, labels in their order."""
    items = [
        {"pred": torch.tensor([0.0, 1.0]), "label": torch.tensor(1)},
        {"pred": torch.tensor([3.0, 2.0]), "label": 0},
    ]
    logits, labels = logits_and_labels(items)
    assert logits.tolist() == [[0.0, 1.0], [3.0, 2.0]]
    assert labels.tolist() == [1, 0]
