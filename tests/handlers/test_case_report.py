# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures that evaluation writes."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, MeanDice, from_engine
from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, LoadImaged

from cakes_monai.handlers.case_report import CaseReport, SpacedMetric, _best_median_worst, _summary

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:.*get_mask_edges.always_return_as_numpy:FutureWarning"),  # MONAI's own call
    pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class .* is all 0"),
]

NAMES = ["head", "tail"]
SPACING = (1.0, 2.0, 3.0)


class OneHot(torch.nn.Module):
    """Network whose prediction is the image itself: grey value n becomes label n."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(x == label).float() for label in range(3)], 1)


def save(folder: Path, case: str, pred: np.ndarray, label: np.ndarray) -> dict[str, str]:
    """Write a prediction as the image, and its label."""
    folder.mkdir(parents=True, exist_ok=True)
    item = {"image": str(folder / f"{case}.nii.gz"), "label": str(folder / f"{case}_label.nii.gz")}
    for key, values in (("image", pred), ("label", label)):
        nib.save(nib.Nifti1Image(values.astype(np.uint8), np.diag([*SPACING, 1.0])), item[key])
    return item


def block(head: slice, tail: slice | None) -> np.ndarray:
    """Label map of two bars along the first axis, 2 x 2 voxels thick."""
    labels = np.zeros((16, 10, 10), np.uint8)
    labels[head, 2:4, 2:4] = 1
    if tail is not None:
        labels[tail, 6:8, 6:8] = 2
    return labels


def cases(folder: Path) -> list[dict[str, str]]:
    """
    Three cases with Dice one can compute by hand.

    Case a: head 8 of 8 and tail 8 of 8 planes. Case b: head predicted 4..12, truth 2..10, 6 of 8 planes in common:
    Dice 0.75; tail right. Case c: head predicted 8..12, truth 0..4: Dice 0; tail neither predicted nor there: NaN.
    """
    right, eight = block(slice(2, 10), slice(2, 10)), slice(2, 10)
    return [
        save(folder, "b", block(slice(4, 12), eight), right),
        save(folder, "a", right, right),
        save(folder, "c", block(slice(8, 12), None), block(slice(0, 4), None)),
    ]


def evaluate(items: list[dict[str, str]], report: Any, **options: Any) -> SupervisedEvaluator:
    """Run an evaluator as an evaluation bundle does, with Dice, HD95 and surface Dice at 2 mm."""
    pair = from_engine(["pred", "label"])
    load = Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])])
    post = Compose([AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items, load), batch_size=options.pop("batch_size", 2)),
        network=OneHot(),
        postprocessing=post,
        key_val_metric={"val_mean_dice": MeanDice(include_background=False, output_transform=pair)},
        additional_metrics={
            "val_hd95": SpacedMetric(HausdorffDistanceMetric(percentile=95), output_transform=pair),
            "val_surface_dice": SpacedMetric(SurfaceDiceMetric([2.0, 2.0]), output_transform=pair),
        },
        val_handlers=[report],
        **options,
    )
    evaluator.run()
    return evaluator


def rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Rows of a CSV file by one of its columns."""
    with path.open() as stream:
        return {row[key]: row for row in csv.DictReader(stream)}


def test_every_case_is_a_row_and_every_structure_a_column(tmp_path: Path) -> None:
    """Dice, HD95 in mm and surface Dice of three cases are those of the hand calculation, sorted by case."""
    evaluate(cases(tmp_path / "data"), CaseReport(tmp_path / "out", NAMES))
    found = rows(tmp_path / "out" / "cases.csv", "case")
    headings = [f"{metric} {s}" for metric in ("Dice", "HD95 mm", "surface Dice") for s in ("head", "tail", "mean")]
    assert list(found["a"]) == ["case", "file", *headings]
    assert list(found) == ["a", "b", "c"]
    assert found["a"]["file"] == str(tmp_path / "data" / "a.nii.gz")
    assert [found[c][f"Dice {s}"] for c in "abc" for s in ("head", "tail", "mean")] == [
        *("1", "1", "1"),
        *("0.75", "1", "0.875"),
        *("0", "nan", "0"),
    ]
    # Shifted by two voxels of 1 mm: the far ends are 2 mm apart.
    assert [found[c]["HD95 mm head"] for c in "ab"] == ["0", "2"]
    assert [found[c]["surface Dice head"] for c in "ab"] == ["1", "1"]
    # Planes 8..11 against 0..3: nothing nearer than 5 mm.
    assert float(found["c"]["HD95 mm head"]) >= 5
    assert found["c"]["surface Dice head"] == "0"


def test_summary_leaves_out_and_counts_what_is_not_a_number(tmp_path: Path) -> None:
    """Dice of head is 1, 0.75 and 0; of tail 1 and 1 with one case left out; means are those of the finite values."""
    evaluate(cases(tmp_path / "data"), CaseReport(tmp_path / "out", NAMES, {"val_mean_dice": "Dice"}))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    head, tail, mean = summary["summary"]
    assert summary["cases"] == 3
    assert (head["metric"], head["structure"], head["cases"], head["left_out"]) == ("Dice", "head", 3, 0)
    assert head["mean"] == pytest.approx(1.75 / 3, rel=1e-5)
    assert head["std"] == pytest.approx(math.sqrt((1 + 0.75**2) / 3 - (1.75 / 3) ** 2), rel=1e-5)
    assert (head["median"], head["min"], head["max"]) == (0.75, 0, 1)
    assert (tail["mean"], tail["std"], tail["left_out"]) == (1, 0, 1)
    assert mean["structure"] == "mean"
    assert mean["mean"] == pytest.approx((1 + 0.875 + 0) / 3, rel=1e-5)
    table = rows(tmp_path / "out" / "summary.csv", "structure")
    assert {k: float(v) for k, v in table["tail"].items() if k not in ("metric", "structure")} == {
        **{"cases": 3, "left_out": 1, "mean": 1, "std": 0, "median": 1, "min": 1, "max": 1}
    }


def test_summary_without_any_number_is_empty_but_valid_json() -> None:
    """Infinite and undefined distances give no statistics, and no NaN, which JSON does not know."""
    summary = _summary(np.array([np.inf, np.nan]))
    assert summary == {"cases": 2, "left_out": 2, **dict.fromkeys(("mean", "std", "median", "min", "max"))}


def test_best_median_and_worst_case_are_drawn(tmp_path: Path) -> None:
    """By mean Dice a is the best, b the median, c the worst; the summary names their pictures."""
    evaluate(cases(tmp_path / "data"), CaseReport(tmp_path / "out", NAMES))
    pictures = json.loads((tmp_path / "out" / "summary.json").read_text())["pictures"]
    assert pictures == {"best": "best_a.png", "median": "median_b.png", "worst": "worst_c.png"}
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == sorted(pictures.values())


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    """Without pictures there are the three tables and nothing else, and one-hot maps are not looked at."""
    evaluate(cases(tmp_path / "data"), CaseReport(tmp_path / "out", NAMES, pictures=False, pred_key="none"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cases.csv", "summary.csv", "summary.json"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, np.nan, 0.9, 0.1], {"best": 2, "worst": 3, "median": 0}),
        ([0.5, 0.9, 0.1, 0.7], {"best": 1, "worst": 2, "median": 0}),
        ([0.5, 0.9], {"best": 1, "worst": 0}),
        ([0.5], {"best": 0}),
        ([np.nan], {}),
    ],
)
def test_no_case_is_drawn_twice_and_none_without_a_score(scores: list[float], expected: dict[str, int]) -> None:
    """Of four cases the lower median is taken; of fewer than three the pictures that would repeat are left out."""
    assert _best_median_worst(np.array(scores)) == expected


def test_distances_are_in_millimetres_whatever_the_voxels_are(tmp_path: Path) -> None:
    """A shift by two voxels of 3 mm is 6 mm for SpacedMetric and 2 for MONAI's handler, which never gets a spacing."""
    one, other = (np.zeros((1, 3, 12, 12, 12)) for _ in range(2))
    one[:, 1, :, :, 2:6], other[:, 1, :, :, 4:8] = 1, 1
    one[:, 2, 0, 0, 0], other[:, 2, 0, 0, 0] = 1, 1
    label = MetaTensor(torch.from_numpy(other[0]), affine=torch.diag(torch.tensor([*SPACING, 1.0])))
    pair = [torch.from_numpy(one[0])], [label]
    found = []
    for handler in (SpacedMetric, IgniteMetricHandler):
        metric = handler(HausdorffDistanceMetric(), save_details=False)
        metric.reset()
        metric.update(pair)
        found.append(metric.metric_fn.get_buffer()[0, 0].item())
    assert found == [6.0, 2.0]
    metric = SpacedMetric(HausdorffDistanceMetric(), save_details=False)
    with pytest.raises(ValueError, match="label: a Tensor has no voxel size; allowed is a MetaTensor"):
        metric.update((pair[0], [label.as_tensor()]))


@pytest.mark.filterwarnings("ignore:.*:UserWarning:monai.bundle")  # MONAI's remark on every configuration
def test_handlers_are_made_from_json(tmp_path: Path) -> None:
    """A bundle's configuration names all that the report and the metric need."""
    config = {
        "metric": {
            "_target_": "cakes_monai.handlers.case_report.SpacedMetric",
            "metric_fn": {"_target_": "SurfaceDiceMetric", "class_thresholds": [1.0, 2.0]},
            "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
        },
        "report": {
            "_target_": "cakes_monai.handlers.case_report.CaseReport",
            "output_dir": str(tmp_path),
            "names": NAMES,
            "metrics": {"val_surface_dice": "surface Dice"},
            "key_metric": "val_surface_dice",
        },
        "imports": ["$import monai"],
    }
    parser = ConfigParser(json.loads(json.dumps(config)))
    assert parser.get_parsed_content("metric").metric_fn.class_thresholds == [1.0, 2.0]
    assert parser.get_parsed_content("report").metrics == {"val_surface_dice": "surface Dice"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"metrics": {"val_iou": "IoU"}, "key_metric": "val_iou"},
            "no details of 'val_iou'; allowed are val_mean_dice",
        ),
        ({"names": ["one"], "pictures": False}, r"values of shape \(3, 2\); 3 cases and 1 names allow \(3, 1\)"),
        ({"names": ["one"]}, r"b: pred has shape \(3, 16, 10, 10\); 1 names allow \(2, D, H, W\)"),
    ],
)
def test_what_does_not_fit_the_evaluator_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    """A metric the engine has not, or other structures than it measures, end the run with what is allowed."""
    items = cases(tmp_path / "data")
    with pytest.raises(ValueError, match=match):
        evaluate(items, CaseReport(**{"output_dir": tmp_path / "out", "names": NAMES, **options}))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key_metric": "dice"}, "key_metric: 'dice' is not reported; allowed are val_mean_dice, val_hd95"),
        ({"metrics": {"val_mean_dice": "Dice", "b": "Dice"}}, "every metric needs a heading of its own"),
    ],
)
def test_settings_that_contradict_are_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    """The key metric must be among the reported ones, and two metrics cannot share columns."""
    with pytest.raises(ValueError, match=match):
        CaseReport(tmp_path, NAMES, **options)


def test_nothing_is_kept_but_one_small_file_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During the epoch the planes lie in a temporary folder, which is gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    report = CaseReport(tmp_path / "out", NAMES)
    seen: list[list[str]] = []

    def look(engine: Any) -> None:
        seen.append(sorted(p.name for p in (tmp_path / "temporary").rglob("*") if p.is_file()))

    evaluator = evaluate(cases(tmp_path / "data"), report, batch_size=1)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, look)
    evaluator.run()
    assert seen == [["0"], ["0", "1"], ["0", "1", "2"]]
    assert list((tmp_path / "temporary").iterdir()) == []


SCRIPT = """
import sys
from pathlib import Path

import torch.distributed as dist
from monai.data import partition_dataset

sys.path.insert(0, sys.argv[1])
import test_case_report as case
from cakes_monai.handlers.case_report import CaseReport
from cakes_monai.handlers.volume_report import VolumeReport

dist.init_process_group("gloo")
items = case.cases(Path(sys.argv[2]) / f"data{dist.get_rank()}")  # a folder each, so that nothing is half written
items = [{k: v.replace(f"data{dist.get_rank()}", "data0") for k, v in item.items()} for item in items]
dist.barrier()
part = partition_dataset(items, num_partitions=2, even_divisible=True)[dist.get_rank()]
case.evaluate(part, CaseReport(Path(sys.argv[2]) / "two", case.NAMES))


class Volumes(VolumeReport):
    def _collect(self, engine):
        for output in engine.state.output:
            output["pred"] = output["pred"].argmax(0, keepdim=True)
        super()._collect(engine)


case.evaluate(part, Volumes(Path(sys.argv[2]) / "two", case.NAMES))
dist.destroy_process_group()
"""


def test_two_processes_write_the_report_of_one(tmp_path: Path) -> None:
    """With two processes and a sampler that repeats a case, tables and pictures are those of a single process."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    evaluate(cases(tmp_path / "data0"), CaseReport(tmp_path / "one", NAMES))
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(
        p.name for p in (tmp_path / "two").iterdir() if not p.name.startswith("volumes")
    )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    volumes = json.loads((tmp_path / "two" / "volumes.json").read_text())
    # Bars of 4 voxels a plane of 6 mm3: 8, 8 and 4 planes of head, 8, 8 and none of tail.
    assert [(v["case"], v["total"]["volume_ml"]) for v in volumes] == [("a", 0.384), ("b", 0.384), ("c", 0.096)]
