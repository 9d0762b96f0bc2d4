# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds as trials: which are run, what becomes of those that fail, what all add up to, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.architecture import Architecture
from cakes_monai.search import FoldList, Journal, Proposal, Trial, read_journal
from cakes_monai.workflows import CrossValidation, FoldSummary, fold_weights
from cakes_monai.workflows.fold_trial import run_fold

#: A training that in fold 1 needs a file, and an evaluation that writes what CaseReport would.
TRAIN = {
    "imports": ["$import json", "$from pathlib import Path"],
    "bundle_root": ".",
    "output_dir": "",
    "ckpt_dir": "",
    "fold": 0,
    "num_folds": 3,
    "dice": 0.25,
    "needed": "",
    "initialize": ["$Path(@ckpt_dir).mkdir(parents=True, exist_ok=True)"],
    "run": ["$Path(@needed).read_text() if @fold == 1 else 0", "$Path(@ckpt_dir, 'model.pt').write_text(str(@fold))"],
}
EVALUATE = {
    "weights": "",
    "score": "$str(@dice * (1 + int(Path(@weights).read_text())))",
    "summary": "$[{'metric': 'Dice', 'structure': s, 'mean': float(@score)} for s in ('head', 'mean')]",
    "row": "$','.join(['c', '/' + str(@fold), @score, @score])",
    "initialize": ["$Path(@output_dir).mkdir(parents=True, exist_ok=True)"],
    "run": [
        "$Path(@output_dir, 'summary.json').write_text(json.dumps({'cases': 1, 'summary': @summary}))",
        "$Path(@output_dir, 'summary.csv').write_text('metric,structure\\nDice,head\\nDice,mean\\n')",
        "$Path(@output_dir, 'cases.csv').write_text('case,file,Dice head,Dice mean\\n' + @row + '\\n')",
    ],
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose training and evaluation take no time."""
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    for name, content in (("train", TRAIN), ("evaluate", EVALUATE)):
        (configs / f"{name}.json").write_text(json.dumps(content))
    return configs.parent


def write_fold(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Tables of one fold with a structure and the mean, for Dice."""
    folder.mkdir(parents=True)
    lines = [
        "case,file,Dice head,Dice mean,HD95 mm head",
        *(",".join((row[0], f"/data/{row[0]}", *row[1:])) for row in rows),
    ]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "summary.csv").write_text("metric,structure,mean\nDice,head,0\nDice,mean,0\nHD95 mm,head,0\n")
    return folder


def test_statistics_by_hand(tmp_path: Path) -> None:
    """
    Three cases with Dice 0.5, 0.7 and 0.9 and one without, in folds of two: over the cases average 0.7, from 0.5 to
    0.9; the folds' means are 0.6 and 0.9, so their mean is 0.75 with a standard deviation of 0.15.
    """
    folders = {
        3: write_fold(tmp_path / "3", [("c", "0.9", "0.8", "2"), ("d", "nan", "0.4", "inf")]),
        0: write_fold(tmp_path / "0", [("a", "0.5", "0.5", "1"), ("b", "0.7", "0.7", "6")]),
    }
    summary = FoldSummary.of(folders)
    head, mean, distance = summary.rows
    assert head == {
        "metric": "Dice",
        "structure": "head",
        "cases": 4,
        "left_out": 1,
        "average_of_cases": pytest.approx(0.7),
        "max_of_cases": 0.9,
        "min_of_cases": 0.5,
        "folds": 2,
        "mean_of_folds": pytest.approx(0.75),
        "std_of_folds": pytest.approx(0.15),
        "fold_0": pytest.approx(0.6),
        "fold_3": pytest.approx(0.9),
    }
    assert (mean["average_of_cases"], mean["left_out"]) == (pytest.approx(0.6), 0)
    assert (distance["average_of_cases"], distance["max_of_cases"], distance["fold_3"]) == (3, 6, 2)
    summary.save(tmp_path)
    with (tmp_path / "cases.csv").open() as stream:
        cases = list(csv.DictReader(stream))
    assert [(case["fold"], case["case"], case["Dice head"]) for case in cases] == [
        ("0", "a", "0.5"),
        ("0", "b", "0.7"),
        ("3", "c", "0.9"),
        ("3", "d", "nan"),
    ]
    with (tmp_path / "summary.csv").open() as stream:
        assert next(csv.DictReader(stream))["mean_of_folds"] == "0.75"


def test_the_table_says_which_number_is_which(tmp_path: Path) -> None:
    """Over all cases stand average, max and min, over the folds mean and std; one fold has no deviation."""
    table = FoldSummary.of({2: write_fold(tmp_path / "2", [("a", "0.5", "0.5", "inf")])}).table()
    over, names, head, _, distance = table.splitlines()
    assert over.split() == ["over", "all", "1", "cases", "over", "the", "means", "of", "1", "folds"]
    assert names.split() == ["average", "max", "min", "left", "out", "mean", "std", "fold", "2"]
    assert head.split() == ["Dice", "head", "0.5000", "0.5000", "0.5000", "0", "0.5000", "-", "0.5000"]
    assert distance.split() == ["HD95", "mm", "head", "-", "-", "-", "1", "-", "-", "-"]


def test_folds_that_do_not_belong_together(tmp_path: Path) -> None:
    """A case that two folds hold out, other columns, and a table that is gone are each refused by name."""
    row = ("a", "0.5", "0.5", "1")
    first, second = (write_fold(tmp_path / name, [row]) for name in "01")
    with pytest.raises(ValueError, match=r"/data/a: is held out in folds 0 and 1\."):
        FoldSummary.of({0: first, 1: second})
    (second / "summary.csv").write_text("metric,structure\nDice,tail\n")
    with pytest.raises(
        ValueError, match=r"1/summary\.csv: has \[\('Dice', 'tail'\)\]; allowed is what other folds have"
    ):
        FoldSummary.of({0: first, 1: second})
    with pytest.raises(ValueError, match=r"2/summary\.csv: cannot be read \(No such file"):
        FoldSummary.of({2: tmp_path / "2"})


def test_folds_are_listed_once() -> None:
    """All in order, or those asked for; what was proposed and not ended comes again under its index."""
    folds = FoldList(None, 3)
    assert [folds.ask().candidate for _ in range(3)] == [0, 1, 2]
    assert folds.ask() is None
    assert not folds.done
    folds.tell(0, 0.5)
    again = FoldList([2, 0], 3, folds.trials)
    assert [again.ask() for _ in range(3)] == [folds.trials[1].proposal, folds.trials[2].proposal, None]


def test_failed_folds_are_tried_once_more_in_every_run() -> None:
    """In the run in which it failed a fold is not proposed again, in the next it is, once."""
    first = FoldList(None, 2)
    first.ask(), first.ask()
    first.fail(0, "disk full")
    first.tell(1, 0.5)
    assert first.ask() is None
    second = FoldList(None, 2, first.trials)
    assert second.ask() == Proposal(2, 0, "it failed before")
    second.fail(2, "disk full")
    assert second.ask() is None
    assert second.done
    assert FoldList(None, 2, second.trials).ask().index == 3


@pytest.mark.parametrize(
    ("folds", "num_folds", "message"),
    [
        ([0, 5], 5, r"folds: 5 is no fold, allowed are 0 to 4\."),
        ([-1], 5, r"folds: -1 is no fold, allowed are 0 to 4\."),
        (["0"], 5, r"folds: '0' is no fold"),
        ([1, 2, 1], 5, r"folds: 1 is given twice\."),
        ([], 5, r"folds: there are none"),
        (None, 1, r"num_folds is 1, allowed is a number from 2 on\."),
        (None, "@n", r"num_folds is '@n'"),
    ],
)
def test_folds_that_are_none(folds: Any, num_folds: Any, message: str) -> None:
    """Out of range, given twice, none at all: one line."""
    with pytest.raises(ValueError, match=message):
        FoldList(folds, num_folds)


def test_trials_of_something_else() -> None:
    """Trials that are no folds, and two results for a fold, are refused."""
    with pytest.raises(ValueError, match=r"trial 0: \(0, 1\) is no fold of 5\."):
        FoldList(None, 5, [Trial(Proposal(0, (0, 1), ""))])
    with pytest.raises(ValueError, match=r"trial 1: fold 2 has a trial already\."):
        FoldList(None, 5, [Trial(Proposal(0, 2, "")), Trial(Proposal(1, 2, ""))])


def scores(folder: Path) -> dict[str, str]:
    """Dice of the case of each fold."""
    with (folder / "cases.csv").open() as stream:
        return {row["fold"]: row["Dice head"] for row in csv.DictReader(stream)}


def test_a_fold_that_fails_does_not_stop_the_others(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Fold 1 fails: the other gets a result and the end names fold and reason. A later run does fold 1 alone, and then the
    table is whole.
    """
    needed, folder = tmp_path / "needed.txt", tmp_path / "cv"
    engine = {"slots": 2, "engine_options": {"max_retries": 0, "threads_per_trial": 1, "num_gpus": 0}}
    given: dict[str, Any] = {
        "bundle": bundle,
        "folds": [0, 1],
        "options": {"needed": str(needed), "dice": None},
        **engine,
    }
    with pytest.raises(ValueError, match=r"folds 1 failed, fold 1 because of FileNotFoundError.*needed\.txt.*--resume"):
        CrossValidation(folder, **given).run()
    assert scores(folder) == {"0": "0.25"}
    with pytest.raises(ValueError, match=r"there is a cross-validation already; use --resume True"):
        CrossValidation(folder, **given).run()
    with pytest.raises(ValueError, match=r"1 of 2 folds have a result \(0\); end the cross-validation"):
        fold_weights(folder)
    status = CliRunner().invoke(app, ["status", str(folder)])
    assert status.output.startswith("1 of 2 finished, 0 running, 1 failed; mean 0.2500\n")
    assert re.search(r"failed  fold 1  FileNotFoundError: .*needed\.txt", status.output)

    needed.write_text("now")
    caplog.set_level(logging.INFO, "cakes_monai")
    summary = CrossValidation(folder, resume="true", **given).run()
    assert scores(folder) == {"0": "0.25", "1": "0.5"}
    assert [trial.proposal.candidate for trial in read_journal(folder / "journal.jsonl").trials] == [0, 1, 1]
    assert summary.rows[0]["std_of_folds"] == 0.125
    assert summary.table() in caplog.text
    assert fold_weights(folder) == [str(folder / "folds" / str(fold) / "models" / "model.pt") for fold in (0, 1)]


def test_a_fold_without_any_dice_has_failed(bundle: Path, tmp_path: Path) -> None:
    """A summary without a mean Dice, or with none that is a number, is no score."""
    (tmp_path / "models").mkdir()
    options = {"dice": float("nan")}
    with pytest.raises(FloatingPointError, match=r"summary\.json: no held-out case has a Dice"):
        run_fold(tmp_path, str(bundle), 0, ["train.json"], ["train.json", "evaluate.json"], options, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": [3]}, r"folds: 3 is no fold, allowed are 0 to 2\."),
        ({"folds": 0, "num_folds": 1}, r"num_folds is 1"),
        ({"files": []}, r"files: \[\], it must be a list"),
        ({"files": "train.json"}, r"files: 'train.json', it must be a list"),
        ({"files": ["train.json", "nih.json"]}, r"configs/nih\.json: no such file"),
        ({"evaluation_files": ["evaluation.json"]}, r"configs/evaluation\.json: no such file"),
        ({"architecture": "none.json"}, r"none\.json: cannot be read"),
        ({"more_options": {"max_epoch": 3}}, r"options: 'max_epoch' is in none of train\.json, evaluate\.json"),
        ({"more_options": {"fold": 3}}, r"options: 'fold' is set by the cross-validation itself\."),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str, bundle: Path, tmp_path: Path) -> None:
    """One clear line before anything is started."""
    with pytest.raises(ValueError, match=message):
        CrossValidation(tmp_path / "cv", bundle, {}, **options)
    assert not (tmp_path / "cv").exists()


def test_what_is_run_for_a_fold(bundle: Path, tmp_path: Path) -> None:
    """Overlays lie over train.json and over evaluate.json; options that are None are left to them; a file is frozen."""
    (bundle / "configs" / "overlay.json").write_text(json.dumps({"num_folds": 4}))
    found = Architecture.published("cakes-manual-123d", 4)
    found.save(tmp_path / "architecture.json")
    arguments = {"files": ["train.json", "overlay.json"], "architecture": tmp_path / "architecture.json"}
    validation = CrossValidation(tmp_path / "cv", bundle, {"dice": 0.5, "needed": None}, {"summary": []}, **arguments)
    (tmp_path / "architecture.json").unlink()
    task = validation.task(Proposal(0, 3, "listed"))
    assert task.folder == tmp_path / "cv" / "folds" / "3"
    assert task.arguments == {
        "bundle": str(bundle),
        "fold": 3,
        "training": ["train.json", "overlay.json"],
        "evaluation": ["train.json", "evaluate.json", "overlay.json"],
        "options": {"dice": 0.5, "summary": [], "num_folds": 4},
        "architecture": found.to_json(),
    }
    named = CrossValidation(tmp_path / "cv", bundle, {}, architecture="c2fnas-panc")
    assert named.task(Proposal(0, 0, "listed")).arguments["architecture"] == "c2fnas-panc"


def test_results_of_other_settings_are_not_mixed(bundle: Path, tmp_path: Path) -> None:
    """Other options or another number of folds are refused by what differs; other folds and another place are not."""
    validation = CrossValidation(tmp_path, bundle, {"dice": 0.5})
    settings = {**validation.proposer(()).settings, **validation.settings}
    Journal(tmp_path / "journal.jsonl", "cross-validation", settings).close()
    other = CrossValidation(tmp_path, bundle, {"dice": 0.75}, resume=True)
    with pytest.raises(ValueError, match=r"options\.dice is 0\.5 in the file and 0\.75 here"):
        other.run()
    other = CrossValidation(tmp_path, bundle, {"dice": 0.5}, num_folds=5, resume=True)
    with pytest.raises(ValueError, match=r"num_folds is 3 in the file and 5 here"):
        other.run()
    moved = CrossValidation(tmp_path, bundle, {"dice": 0.5, "dataset_dir": None}, folds=[1], resume=True)
    assert {**moved.proposer(()).settings, **moved.settings} == settings


def test_weights_of_no_cross_validation(tmp_path: Path) -> None:
    """An empty folder and one of a search are named."""
    with pytest.raises(ValueError, match=r"has no cross-validation; run cross_validation\.json, or give --folds_dir"):
        fold_weights(tmp_path)
    Journal(tmp_path / "journal.jsonl", "width", {}).close()
    with pytest.raises(ValueError, match=r"has a search of kind 'width', allowed is a cross-validation\."):
        fold_weights(tmp_path)
