# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures that evaluation writes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ignite.engine import Events
from monai.bundle import ConfigParser

from cakes_monai.handlers import CaseReport
from cakes_monai.handlers.case_report import _best_median_worst, _summary

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:.*get_mask_edges.always_return_as_numpy:FutureWarning"),  # MONAI's own call
    pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class .* is all 0"),
]


NAMES = ["head", "tail"]


def rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Rows of a CSV file by one of its columns."""
    with path.open() as stream:
        return {row[key]: row for row in csv.DictReader(stream)}


def test_every_case_is_a_row_and_every_structure_a_column(tmp_path: Path, three_cases: Any, evaluate: Any) -> None:
    """Dice, HD95 in mm and surface Dice of three cases are those of the hand calculation, sorted by case."""
    evaluate(three_cases, CaseReport(tmp_path / "out", NAMES))
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


def test_summary_leaves_out_and_counts_what_is_not_a_number(tmp_path: Path, three_cases: Any, evaluate: Any) -> None:
    """Dice of head is 1, 0.75 and 0; of tail 1 and 1 with one case left out; means are those of the finite values."""
    evaluate(three_cases, CaseReport(tmp_path / "out", NAMES, {"val_mean_dice": "Dice"}))
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


def test_best_median_and_worst_case_are_drawn(tmp_path: Path, three_cases: Any, evaluate: Any) -> None:
    """By mean Dice a is the best, b the median, c the worst; the summary names their pictures."""
    evaluate(three_cases, CaseReport(tmp_path / "out", NAMES))
    pictures = json.loads((tmp_path / "out" / "summary.json").read_text())["pictures"]
    assert pictures == {"best": "best_a.png", "median": "median_b.png", "worst": "worst_c.png"}
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == sorted(pictures.values())


def test_pictures_can_be_left_out(tmp_path: Path, three_cases: Any, evaluate: Any) -> None:
    """Without pictures there are the three tables and nothing else, and one-hot maps are not looked at."""
    evaluate(three_cases, CaseReport(tmp_path / "out", NAMES, pictures=False, pred_key="none"))
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


@pytest.mark.filterwarnings("ignore:.*:UserWarning:monai.bundle")  # MONAI's remark on every configuration
def test_report_is_made_from_json(tmp_path: Path) -> None:
    """A bundle's configuration names all that the report needs."""
    config = {
        "report": {
            "_target_": "cakes_monai.handlers.CaseReport",
            "output_dir": str(tmp_path),
            "names": NAMES,
            "metrics": {"val_surface_dice": "surface Dice"},
            "key_metric": "val_surface_dice",
        },
    }
    parser = ConfigParser(json.loads(json.dumps(config)))
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
def test_what_does_not_fit_the_evaluator_is_refused(
    tmp_path: Path, options: dict[str, Any], match: str, three_cases: Any, evaluate: Any
) -> None:
    """A metric the engine has not, or other structures than it measures, end the run with what is allowed."""
    with pytest.raises(ValueError, match=match):
        evaluate(three_cases, CaseReport(**{"output_dir": tmp_path / "out", "names": NAMES, **options}))


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


def test_nothing_is_kept_but_one_small_file_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, three_cases: Any, evaluate: Any
) -> None:
    """During the epoch the planes lie in a temporary folder, which is gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    report = CaseReport(tmp_path / "out", NAMES)
    seen: list[list[str]] = []

    def look(engine: Any) -> None:
        seen.append(sorted(p.name for p in (tmp_path / "temporary").rglob("*") if p.is_file()))

    evaluator = evaluate(three_cases, report, batch_size=1)
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
