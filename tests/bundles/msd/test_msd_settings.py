# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of the bundle for all tasks: the paper's, its two exceptions, and data that are downloaded."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from monai.apps import DecathlonDataset
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.metrics import compute_dice
from monai.transforms import AsDiscrete

from cakes_monai.data import DecathlonTask


def test_settings_of_the_paper(parsed: Any, brain_task: Path, tmp_path: Path) -> None:
    """C2FNAS, section 4.1: batch 8, two patches of 96^3 from a volume, 40000 iterations, 0.02 halved twice."""
    parser = parsed("train.json", dataset_dir=str(brain_task), output_dir=str(tmp_path), num_workers=0)
    trainer, optimizer = parser.get_parsed_content("train#trainer"), parser.get_parsed_content("optimizer")
    assert trainer.state.max_epochs * trainer.state.epoch_length == 40000
    assert (parser.get_parsed_content("train#volumes"), parser["patches_per_volume"]) == (4, 2)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.02, 0.9, 4e-5, False)
    schedule = parser.get_parsed_content("train#handlers")[1]
    rates = []
    for iteration in (1, 501, 1001, 16000, 16001, 32001, 40000):
        trainer.state.iteration = iteration
        schedule(trainer)
        rates.append(group["lr"])
    assert rates == pytest.approx([0.0025, 0.01125, 0.02, 0.02, 0.01, 0.005, 0.005])
    assert parser.get_parsed_content("network_def").architecture.cells[1].operation == "p3d"


def test_folds_share_the_preprocessed_volumes(msd_bundle: Path, tmp_path: Path) -> None:
    """All folds get one folder for them, which is not that of a fold."""
    parser = ConfigParser()
    parser.read_config(msd_bundle / "configs" / "cross_validation.json")
    parser["output_dir"] = str(tmp_path)
    assert parser.get_parsed_content("cross_validation#options")["cache_dir"] == str(tmp_path / "cache")


def test_overlay_of_the_hippocampus(parsed: Any, hippocampus: Path) -> None:
    """The whole volume is one patch of 96x96x96, so that a window covers it."""
    parser = parsed("train.json", "hippocampus.json", dataset_dir=str(hippocampus))
    assert list(parser.get_parsed_content("task").resampled_size) == parser["patch_size"] == [96, 96, 96]
    case = parser.get_parsed_content("train#dataset#data")[0]
    data = parser.get_parsed_content("validate#preprocessing")(case)
    assert data["image"].shape == data["label"].shape == (1, 96, 96, 96)


def test_a_perfect_prediction_at_the_networks_size_is_one_on_the_files_voxels(
    parsed: Any, hippocampus: Path, tmp_path: Path
) -> None:
    """A label that was up-sampled to 96x96x96 comes back through the evaluation with a Dice of almost 1."""
    task = DecathlonTask.load(hippocampus, resampled_size=[96, 96, 96])
    (tmp_path / "task.json").write_text(task.dumps())
    options = {"dataset_dir": str(hippocampus), "task_file": str(tmp_path / "task.json"), "device": "cpu"}
    training = parsed("train.json", "hippocampus.json", **options)
    evaluation = parsed("train.json", "evaluate.json", **options)
    case = evaluation.get_parsed_content("validate#dataset#data")[0]
    data = evaluation.get_parsed_content("validate#preprocessing")(case)
    label = training.get_parsed_content("validate#preprocessing")(case)["label"]
    one_hot = AsDiscrete(to_onehot=3)(label) * 20
    data["pred"] = MetaTensor(one_hot.as_tensor(), meta=data["image"].meta)
    result = evaluation.get_parsed_content("validate#postprocessing")(data)
    assert result["pred"].shape == result["label"].shape == (3, *nib.load(case["label"]).shape)
    dice = compute_dice(result["pred"][None].as_tensor(), result["label"][None].as_tensor(), include_background=False)
    assert dice.min() > 0.98


def test_overlay_of_the_prostate(parsed: Any, brain_task: Path) -> None:
    """128x128x32 moves by 16, 16 and 4 voxels in evaluation and inference, and is turned in the axial plane only."""
    for files in (("train.json", "evaluate.json"), ("inference.json",)):
        parser = parsed(*files, "prostate.json", dataset_dir=str(brain_task))
        inferer = parser.get_parsed_content("validate#inferer" if len(files) > 1 else "inferer").inferer
        assert inferer.roi_size == [128, 128, 32]
        steps = [int(size * (1 - overlap)) for size, overlap in zip(inferer.roi_size, inferer.overlap, strict=True)]
        assert steps == [16, 16, 4]
    parser = parsed("train.json", "prostate.json", dataset_dir=str(brain_task))
    rotations = parser.get_parsed_content("train#random_transforms")[2].transforms
    assert [turn.spatial_axes for turn in rotations] == [(0, 1)]


def test_a_task_is_downloaded(parsed: Any, brain_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--download true puts the task where dataset_dir says, and the data list is that of the task."""
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(brain_task, brain_task.name)
    monkeypatch.setitem(DecathlonDataset.resource, brain_task.name, archive.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, brain_task.name, hashlib.md5(archive.read_bytes()).hexdigest())
    place = tmp_path / "data" / brain_task.name
    parser = parsed("train.json", dataset_dir=str(place), download="true")
    cases = parser.get_parsed_content("train#dataset#data")
    assert [Path(case["image"]).name for case in cases] == [f"BRATS_{number:03}.nii.gz" for number in (1, 2, 3, 4)]
    assert all(Path(case["label"]).is_file() for case in cases)
