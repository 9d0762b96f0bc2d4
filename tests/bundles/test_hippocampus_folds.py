# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Cross-validation as a command of the bundle, killed and resumed on real trainings, and ensembles of its networks."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import Invertd, VoteEnsemble
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.architecture import Architecture
from cakes_monai.data import decathlon_fold
from cakes_monai.search import read_journal

TINY = {
    "init_filters": 4,
    "max_epochs": 1,
    "val_interval": 1,
    "batch_size": 1,
    "learning_rate": 0.1,
    "patch_size": [32, 32, 16],
}
DRIVER = {"num_folds": 3, "engine_options": {"threads_per_trial": 1}}

#: Runs configs of the bundle in this process.
Runner = Callable[..., ConfigWorkflow]


@pytest.fixture(scope="module")
def run(bundle: Path) -> Runner:
    """Runs configs of the bundle in this process."""

    def run(names: list[str], **options: Any) -> ConfigWorkflow:
        configs = [str(bundle / "configs" / name) for name in names]
        kind = "infer" if names[0] == "inference.json" else "train"
        options = {"bundle_root": str(bundle), **options}
        workflow = ConfigWorkflow(config_file=configs, logging_file=False, workflow_type=kind, **options)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    return run


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of four filters."""
    path = tmp_path_factory.mktemp("small") / "architecture.json"
    Architecture.published("cakes-manual-123d", 4).save(path)
    return str(path)


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with path.open() as stream:
        return list(csv.DictReader(stream))


def trials(folder: Path) -> tuple[Any, ...]:
    """What the journal says so far."""
    path = folder / "journal.jsonl"
    return read_journal(path).trials if path.exists() and path.stat().st_size else ()


@pytest.fixture(scope="module")
def killed(bundle: Path, small_task: Path, architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a cross-validation whose driver got SIGKILL while it was at its second fold."""
    folder = tmp_path_factory.mktemp("killed")
    given = {**TINY, **DRIVER, "architecture": architecture, "dataset_dir": small_task, "output_dir": folder}
    command = [sys.executable, "-m", "monai.bundle", "run", f"--bundle_root={bundle}"]
    command += ["--config_file", str(bundle / "configs" / "cross_validation.json")]
    command += [f"--{name}={value}" for name, value in given.items()]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and driver.poll() is None:
        if [trial.state for trial in trials(folder)] == ["finished", "running"]:
            break
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    return folder


@pytest.fixture(scope="module")
def status_when_killed(killed: Path) -> str:
    """What the status command says of the folder that the kill left."""
    return CliRunner().invoke(app, ["status", str(killed)]).output


@pytest.fixture(scope="module")
def before(killed: Path, status_when_killed: str) -> tuple[Any, ...]:
    """The trials when the driver was killed."""
    return trials(killed)


@pytest.fixture(scope="module")
def folds(killed: Path, before: tuple[Any, ...], run: Runner, small_task: Path, architecture: str) -> Path:
    """The same folder after it was resumed."""
    given = {**TINY, **DRIVER, "architecture": architecture, "dataset_dir": str(small_task)}
    run(["cross_validation.json"], output_dir=str(killed), resume=True, **given)
    return killed


def test_a_killed_driver_does_the_folds_that_are_left(before: tuple[Any, ...], folds: Path) -> None:
    """The finished fold keeps its result, the one that ran is run again, the third for the first time."""
    assert [trial.state for trial in before] == ["finished", "running"]
    after = trials(folds)
    assert after[0] == before[0]
    assert [(trial.proposal.candidate, trial.state, trial.starts) for trial in after] == [
        (0, "finished", 1),
        (1, "finished", 2),
        (2, "finished", 1),
    ]


def test_the_state_can_be_looked_at(status_when_killed: str, folds: Path) -> None:
    """The status command counts folds and gives the mean of those that are done."""
    head, first, second = status_when_killed.splitlines()
    assert re.match(r"1 of 3 finished, 1 running, 0 failed; mean 0\.\d{4}; about .* left$", head)
    assert re.match(r" +0 +0\.\d{4}  fold 0$", first)
    assert re.match(r" +1 +running  fold 1$", second)
    done = CliRunner().invoke(app, ["status", str(folds)]).output
    assert done.startswith("3 of 3 finished, 0 running, 0 failed; mean ")


def test_every_case_is_held_out_once(folds: Path, small_task: Path) -> None:
    """Each fold is measured on its own part of the data, and together they are all cases."""
    cases = table(folds / "cases.csv")
    assert sorted(case["case"] for case in cases) == [f"case_{number}" for number in range(10)]
    for fold in range(3):
        expected = [item["image"] for item in decathlon_fold(small_task, "validation", fold, 3)]
        assert [case["file"] for case in cases if case["fold"] == str(fold)] == expected


def test_the_summary_is_that_of_the_cases(folds: Path) -> None:
    """Average, max and min are over all ten cases; mean and deviation over the three means, which differ in weight."""
    cases, rows = table(folds / "cases.csv"), table(folds / "summary.csv")
    assert [(row["metric"], row["structure"]) for row in rows[:4]] == [
        *(("Dice", structure) for structure in ("anterior", "posterior", "mean")),
        ("HD95 mm", "anterior"),
    ]
    for row in rows[:3]:
        dice = np.array([float(case[f"Dice {row['structure']}"]) for case in cases])
        means = [dice[[case["fold"] == str(fold) for case in cases]].mean() for fold in range(3)]
        expected = [dice.mean(), dice.max(), dice.min(), np.mean(means), np.std(means), *means]
        columns = ["average_of_cases", "max_of_cases", "min_of_cases", "mean_of_folds", "std_of_folds"]
        columns += [f"fold_{fold}" for fold in range(3)]
        assert [float(row[column]) for column in columns] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    scores = {trial.proposal.candidate: trial.score for trial in trials(folds)}
    assert [float(rows[2][f"fold_{fold}"]) for fold in range(3)] == pytest.approx([scores[0], scores[1], scores[2]])


@pytest.mark.filterwarnings("ignore:the prediction of class")  # a class that nothing has learned yet
def test_a_fold_is_the_bundles_own_training_and_evaluation(
    folds: Path, run: Runner, small_task: Path, architecture: str, tmp_path: Path
) -> None:
    """evaluate.json with the weights of fold 1 gives the rows of fold 1; the weights are those of the last epoch."""
    weights = folds / "folds" / "1" / "models" / "model.pt"
    given = {**TINY, "architecture": architecture, "dataset_dir": str(small_task), "num_folds": 3, "fold": 1}
    run(["train.json", "evaluate.json"], weights=str(weights), output_dir=str(tmp_path), **given)
    ours = [{k: v for k, v in row.items() if k != "fold"} for row in table(folds / "cases.csv") if row["fold"] == "1"]
    assert table(tmp_path / "cases.csv") == ours
    last = torch.load(folds / "folds" / "1" / "checkpoint.pt", weights_only=True)
    saved = torch.load(weights, weights_only=True)
    assert last["epoch"] == 1
    assert all(torch.equal(saved[name], value) for name, value in last["objects"]["network"].items())


@pytest.mark.filterwarnings("ignore:the prediction of class")
def test_the_ensemble_of_the_folds(
    folds: Path, run: Runner, small_task: Path, architecture: str, tmp_path: Path
) -> None:
    """The weights are found in the folder of the cross-validation; inference and evaluation agree on the label map."""
    given = {"architecture": architecture, "init_filters": 4, "patch_size": [32, 32, 16], "folds_dir": str(folds)}
    images = {"dataset_dir": str(small_task / "imagesTr" / "case_0.nii.gz"), "output_dir": str(tmp_path / "out")}
    found = run(["inference.json", "ensemble.json"], ensemble="vote", **given, **images)
    weights = torch.load(folds / "folds" / "2" / "models" / "model.pt", weights_only=True)
    networks = found.parser.get_parsed_content("network")
    assert len(networks) == 3
    assert all(torch.equal(networks[2].state_dict()[name], value) for name, value in weights.items())

    own = {"dataset_dir": str(small_task), "output_dir": str(tmp_path / "eval"), "num_folds": 10, "fold": 0}
    run(["train.json", "evaluate.json", "ensemble_evaluate.json"], ensemble="vote", amp=False, **given, **own)
    (row,) = table(tmp_path / "eval" / "cases.csv")
    label = nib.load(small_task / "labelsTr" / "case_0.nii.gz").get_fdata()
    for name, value in (("anterior", 1), ("posterior", 2)):
        ours = nib.load(tmp_path / "out" / "case_0_seg.nii.gz").get_fdata() == value
        dice = 2 * np.sum(ours & (label == value)) / (np.sum(ours) + np.sum(label == value))
        assert float(row[f"Dice {name}"]) == pytest.approx(dice, abs=1e-5)


def causes(error: BaseException | None) -> str:
    """All messages below what MONAI puts on top."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": [0, 3]}, "folds: 3 is no fold, allowed are 0 to 2."),
        ({"folds": 7}, "folds: 7 is no fold, allowed are 0 to 2."),
        ({"files": ["train.json", "nih.json"]}, "configs/nih.json: no such file; a trial runs configs of a bundle."),
        ({"more_options": {"max_epoch": 1}}, "options: 'max_epoch' is in none of train.json, evaluate.json"),
        ({"max_epochs": 2, "resume": True}, "options.max_epochs is 1 in the file and 2 here"),
        ({}, "there is a cross-validation already; use --resume True, or another output_dir."),
    ],
)
def test_wrong_settings(
    options: dict[str, Any], message: str, folds: Path, run: Runner, small_task: Path, architecture: str
) -> None:
    """One line each, and what there is stays."""
    journal = (folds / "journal.jsonl").read_bytes()
    given = {**TINY, **DRIVER, "architecture": architecture, "dataset_dir": str(small_task), "output_dir": str(folds)}
    with pytest.raises(RuntimeError) as error:
        run(["cross_validation.json"], **{**given, **options})
    assert message in causes(error.value)
    assert (folds / "journal.jsonl").read_bytes() == journal


@pytest.fixture(scope="module")
def made(run: Runner, bundle: Path, architecture: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Weights of three networks that were never trained, so that they rarely agree."""
    folder, files = tmp_path_factory.mktemp("made"), []
    for seed in range(3):
        torch.manual_seed(seed)
        options = {"bundle_root": str(bundle), "architecture": architecture, "init_filters": 4}
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / "inference.json"), logging_file=False, workflow_type="infer", **options
        )
        workflow.initialize()
        files.append(str(folder / f"{seed}.pt"))
        torch.save(workflow.network_def.state_dict(), files[-1])
    return files


@pytest.fixture(scope="module")
def scan(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real volume whose voxels are declared uneven and stored in another order."""
    image = nib.load(hippocampus / "imagesTr" / "hippocampus_007.nii.gz")
    uneven = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine @ np.diag([1.2, 0.9, 1.1, 1]))
    orientation = nib.orientations.axcodes2ornt(("P", "S", "L"), (("L", "R"), ("P", "A"), ("I", "S")))
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(uneven.as_reoriented(orientation), path)
    return path


@pytest.fixture(scope="module")
def segment(run: Runner, scan: Path, architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Label map of the scan with some weights: by an ensemble, or without a word by the bundle's inference."""

    def segment(weights: Any, ensemble: str | None = None) -> np.ndarray:
        folder = tmp_path_factory.mktemp("labels")
        given = {"architecture": architecture, "init_filters": 4, "patch_size": [32, 32, 16], "weights": weights}
        files, more = (
            (["inference.json", "ensemble.json"], {"ensemble": ensemble}) if ensemble else (["inference.json"], {})
        )
        run(files, dataset_dir=str(scan), output_dir=str(folder), **given, **more)
        result, source = nib.load(folder / "scan_seg.nii.gz"), nib.load(scan)
        np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
        assert result.shape == source.shape
        return np.asarray(result.dataobj)

    return segment


@pytest.fixture(scope="module")
def single(segment: Any, made: list[str]) -> list[np.ndarray]:
    """Label maps of the three networks alone."""
    return [segment(file) for file in made]


def test_the_vote_of_three_by_hand(segment: Any, single: list[np.ndarray], made: list[str]) -> None:
    """Two that agree win; where all three differ the lowest class does, as in MONAI's vote of label maps."""
    votes = np.stack([np.sum([labels == value for labels in single], axis=0) for value in range(3)])
    expected = np.where(votes.max(0) >= 2, votes.argmax(0), 0)
    assert (votes.max(0) == 1).mean() > 0.01, "some voxels must be seen in three ways"
    assert len(np.unique(expected)) == 3
    found = segment(made, "vote")
    assert np.array_equal(found, expected)
    theirs = VoteEnsemble(num_classes=3)([torch.from_numpy(labels.astype(np.int64))[None] for labels in single])
    assert np.array_equal(found, theirs[0].numpy())


def test_the_mean_of_three(
    segment: Any, run: Runner, made: list[str], scan: Path, bundle: Path, architecture: str, tmp_path: Path
) -> None:
    """It is the argmax of the mean of the probabilities that each network alone has in the geometry of the input."""
    given = {"architecture": architecture, "init_filters": 4, "patch_size": [32, 32, 16], "weights": made[0]}
    workflow = run(["inference.json"], dataset_dir=str(scan), output_dir=str(tmp_path), **given)
    item = workflow.dataset[0]
    invert = Invertd("pred", workflow.preprocessing, "image", nearest_interp=False)
    probabilities = []
    for file in made:
        workflow.network_def.load_state_dict(torch.load(file, weights_only=True))
        with torch.no_grad():
            logits = workflow.inferer(item["image"][None], workflow.network_def.eval())[0]
        probabilities.append(invert({**item, "pred": logits.softmax(0)})["pred"].as_tensor().double().numpy())
    expected = np.mean(probabilities, axis=0).argmax(0)
    found = segment(made, "mean")
    assert len(np.unique(expected)) == 3
    assert (found != expected).mean() < 1e-4, "float32 and float64 may differ where two classes are equal"


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_networks_that_agree_are_as_one(ensemble: str, segment: Any, single: list[np.ndarray], made: list[str]) -> None:
    """An ensemble of one network, given as a word, and one of it three times, give its label map."""
    assert np.array_equal(segment(made[1], ensemble), single[1])
    assert np.array_equal(segment([made[1]] * 3, ensemble), single[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "/none: has no cross-validation; run cross_validation.json, or give --folds_dir or --weights."),
        ({"weights": []}, "weights: 0 files; allowed are 1 to 255, one for each network."),
        ({"weights": ["{made}", "/none.pt"]}, "/none.pt: no such file"),
        (
            {"weights": ["{made}"], "architecture": "{other}"},
            "0.pt: these are no weights of",
        ),
        ({"weights": ["{made}"], "ensemble": "median"}, "ensemble is 'median', allowed are mean and vote."),
    ],
)
def test_what_is_no_ensemble(
    options: dict[str, Any],
    message: str,
    run: Runner,
    made: list[str],
    architecture: str,
    tmp_path: Path,
) -> None:
    """One line names the file, what is wrong and what is allowed; no label map is written."""
    Architecture.published("cakes-manual-1d", 4).save(tmp_path / "other.json")
    text = json.dumps(options).replace("{made}", made[0]).replace("{other}", str(tmp_path / "other.json"))
    given = {"architecture": architecture, "init_filters": 4, "output_dir": str(tmp_path), "folds_dir": "/none"}
    with pytest.raises(RuntimeError) as error:
        run(["inference.json", "ensemble.json"], **given | json.loads(text))
    assert message in causes(error.value)
    assert not list(tmp_path.glob("*.nii.gz"))


def test_one_network_is_not_given_many_weights(run: Runner, made: list[str], architecture: str, tmp_path: Path) -> None:
    """Weights of an ensemble without its config are refused in one line."""
    with pytest.raises(RuntimeError) as error:
        run(["inference.json"], architecture=architecture, init_filters=4, output_dir=str(tmp_path), weights=made)
    assert "weights: 3 files for 1 networks; allowed is one each." in causes(error.value)


@pytest.mark.parametrize("name", ["hippocampus_mr_c2fnas_cakes", "pancreas_ct_c2fnas_cakes", "msd_c2fnas_cakes"])
def test_every_bundle_says_the_same(name: str, bundle: Path) -> None:
    """The ensemble's configs are the same files everywhere; options of the folds are those of the bundle's training."""
    ours, theirs = bundle / "configs", bundle.parent / name / "configs"
    for file in ("ensemble.json", "ensemble_evaluate.json"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
    known = {key for file in ("train.json", "evaluate.json") for key in json.loads((theirs / file).read_text())}
    content = json.loads((theirs / "cross_validation.json").read_text())
    assert set(content["cross_validation"]["options"]) <= known
    network = json.loads((theirs / "train.json").read_text())["network"]
    assert json.loads((theirs / "ensemble.json").read_text())["network"]["network"] == network
