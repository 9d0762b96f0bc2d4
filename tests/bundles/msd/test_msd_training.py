# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation of the bundle for all tasks: on four channels of MR, on CT, on real MR, and on bad data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out

STRUCTURES = ["edema", "non-enhancing tumor", "enhancing tumour"]


def rows(run: Any) -> list[dict[str, str]]:
    """Rows of the table of cases."""
    with (run.folder / "eval" / "cases.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def real_task(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes of the real task, in its layout."""
    folder = tmp_path_factory.mktemp("decathlon") / "Task04_Hippocampus"
    content = json.loads((hippocampus / "dataset.json").read_text())
    content["training"] = content["training"][:6]
    for case in content["training"]:
        for path in case.values():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(hippocampus / path)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_the_task_says_what_the_network_has(trained_brain: Any) -> None:
    """From dataset.json alone the network has four channels and four classes, and it learns."""
    weights = list(trained_brain.model.values())
    assert weights[0].shape[1] == 4
    assert len(weights[-1]) == 4
    assert (trained_brain.checkpoint["epoch"], trained_brain.checkpoint["iteration"]) == (3, 24)
    assert trained_brain.checkpoint["best_metric"] > 0.3


def test_what_lies_beside_the_weights(trained_brain: Any) -> None:
    """Names of channels and classes, in the order of their numbers, and how images were prepared."""
    models = trained_brain.folder / "models"
    assert {path.name for path in models.iterdir()} == {"model.pt", "task.json", "metadata.json"}
    task = json.loads((models / "task.json").read_text())
    assert list(task["labels"].values()) == ["background", *STRUCTURES]
    assert (task["modality"]["2"], task["hu_window"], task["resampled_size"]) == ("t1gd", [-175, 250], None)


@pytest.mark.filterwarnings("ignore:No hash value provided")
def test_metadata_of_the_training_fit_its_network(trained_brain: Any, msd_bundle: Path, repository: Path) -> None:
    """The metadata written beside the weights keep MONAI's schema and describe the network that inference builds."""
    models = trained_brain.folder / "models"
    pytest.importorskip("jsonschema")
    schema = shutil.copy(repository / "tests" / "bundles" / "meta_schema.json", trained_brain.folder)
    verify_metadata(str(models / "metadata.json"), filepath=schema)
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(models / "metadata.json"),
        config_file=str(msd_bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(msd_bundle),
        weights=str(models / "model.pt"),
        architecture=trained_brain.options["architecture"],
        init_filters=4,
    )


def test_killed_and_resumed_it_ends_with_the_same_bits(
    trained_brain: Any, msd_training: Any, brain_task: Path, tmp_path: Path, same_bits: Any
) -> None:
    """After a SIGKILL in the middle, --resume true ends with the same checkpoint and model, bit by bit."""
    run = msd_training(tmp_path, brain_task, resume=True)
    run.killed()
    run.here()
    same_bits(run.checkpoint, trained_brain.checkpoint)
    same_bits(run.model, trained_brain.model)


def test_images_prepared_in_another_way_are_another_training(
    trained_brain: Any, msd_training: Any, brain_task: Path, tmp_path: Path
) -> None:
    """A checkpoint is not resumed with images of another size."""
    shutil.copytree(trained_brain.folder, tmp_path, dirs_exist_ok=True)
    run = msd_training(tmp_path, brain_task, resume=True, resampled_size=[24, 24, 24])
    assert "checkpoint.pt: was written with task " in run.messages()


@pytest.mark.filterwarnings("ignore:the prediction of class")  # MONAI's remark on a structure that was missed
def test_evaluation(trained_brain: Any, msd_training: Any, brain_task: Path, tmp_path: Path) -> None:
    """The table has a column for each structure of the task; the best of the training's Dice is met."""
    shutil.copytree(trained_brain.folder, tmp_path, dirs_exist_ok=True)
    run = msd_training(tmp_path, brain_task, stride=[8, 8, 8])
    run.here("evaluate.json")
    (row,) = rows(run)
    assert row["case"] == "BRATS_000"
    assert [name for name in row if name.startswith("Dice ")] == [f"Dice {name}" for name in [*STRUCTURES, "mean"]]
    assert float(row["Dice mean"]) == pytest.approx(trained_brain.checkpoint["best_metric"], abs=0.05)


@pytest.mark.filterwarnings("ignore:the prediction of class")
def test_ct_with_thick_slices(msd_training: Any, ct_task: Path, tmp_path: Path) -> None:
    """CT of other axes and spacing is trained at 1 mm and scaled by its window, and evaluated on the file's voxels."""
    run = msd_training(tmp_path, ct_task, max_epochs=2, batch_size=2, hu_window=[-200, 300], stride=[16, 16, 16])
    run.here()
    assert json.loads((tmp_path / "models" / "task.json").read_text())["hu_window"] == [-200, 300]
    cached = [torch.load(path) for path in Path(run.options["cache_dir"]).glob("*.pt")]
    (image,) = {item["image"].shape for item in cached if item["image"].shape[0] == 1}
    assert image == (1, 40, 39, 38), "50 x 0.8, 48 x 0.8 and 16 x 2.5 mm"
    assert all(item["image"].min() >= 0 and item["image"].max() <= 1 for item in cached if len(item["image"]) == 1)
    run.here("evaluate.json")
    assert [row["case"] for row in rows(run)] == ["pancreas_000", "pancreas_001"]


@pytest.mark.filterwarnings("ignore:the prediction of class")
def test_the_real_task_up_sampled_as_in_the_paper(
    msd_training: Any, real_task: Path, segment: Any, tmp_path: Path
) -> None:
    """With hippocampus.json volumes of all sizes become one for the network; results are in their own geometry."""
    run = msd_training(tmp_path, real_task, max_epochs=1, patch_size=[48, 48, 48], resampled_size=[48, 48, 48])
    run.here("hippocampus.json")
    assert json.loads((tmp_path / "models" / "task.json").read_text())["resampled_size"] == [48, 48, 48]
    run.here("evaluate.json")
    assert [row["case"] for row in rows(run)] == ["hippocampus_001", "hippocampus_003"]
    image = nib.load(real_task / "imagesTr" / "hippocampus_003.nii.gz")
    segment(run, Path(image.get_filename()), tmp_path / "out", patch_size=[48, 48, 48], stride=48)
    result = nib.load(tmp_path / "out" / "hippocampus_003_seg.nii.gz")
    assert result.shape == image.shape
    np.testing.assert_allclose(result.affine, image.affine, atol=1e-5)


def test_a_search_finds_an_architecture_for_the_task(msd_training: Any, brain_task: Path, tmp_path: Path) -> None:
    """search.json runs on four channels and writes an architecture that training takes."""
    search = msd_training(tmp_path, brain_task, "search.json", max_epochs=1, iterations_per_epoch=2)
    search.here()
    found = str(tmp_path / "eval" / "architecture.json")
    run = msd_training(tmp_path, brain_task, max_epochs=1, iterations_per_epoch=1, architecture=found)
    run.here()
    assert next(iter(run.model.values())).shape[1] == 4


@pytest.fixture
def task(brain_task: Path, tmp_path: Path) -> Path:
    """A copy of the brain's task that a test may spoil."""
    return Path(shutil.copytree(brain_task, tmp_path / brain_task.name))


def rewritten(task: Path, **entries: Any) -> Path:
    """The task with other entries in dataset.json; None takes one away."""
    content = json.loads((task / "dataset.json").read_text()) | entries
    content = {name: value for name, value in content.items() if value is not None}
    (task / "dataset.json").write_text(json.dumps(content))
    return task


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": None}, r"dataset.json: has no 'labels'"),
        ({"modality": None}, r"dataset.json: has no 'modality'"),
        ({"modality": {"0": "FLAIR"}}, "multi-channel image of shape 30x26x22 with 4 channel"),
        ({"labels": {"0": "background", "1": "edema"}}, "label values 2, 3; allowed: the integers 0 to 1"),
    ],
)
def test_descriptions_that_do_not_fit(
    msd_training: Any, task: Path, tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    """No labels, no modality, fewer channels or classes than the files have: one line, before anything is trained."""
    messages = msd_training(tmp_path, rewritten(task, **entries)).messages()
    assert message in messages
    assert not (tmp_path / "models").exists()


def test_folders_that_are_no_task(msd_training: Any, task: Path, tmp_path: Path) -> None:
    """A folder without dataset.json, one that does not exist, and one whose files are missing are named."""
    (tmp_path / "empty").mkdir()
    assert (
        "empty/dataset.json: no such file; allowed: a folder" in msd_training(tmp_path, tmp_path / "empty").messages()
    )
    assert "none/dataset.json: no such file; allowed: a folder" in msd_training(tmp_path, tmp_path / "none").messages()
    for number in (1, 2):
        (task / "labelsTr" / f"BRATS_{number:03}.nii.gz").unlink()
    messages = msd_training(tmp_path, task).messages()
    assert "2 missing files: " in messages
    assert "BRATS_002.nii.gz" in messages


def test_weights_of_another_task(
    trained_brain: Any, msd_training: Any, ct_task: Path, brain_task: Path, tmp_path: Path
) -> None:
    """Evaluation refuses weights that were trained for other labels, and a description that is not theirs."""
    shutil.copytree(trained_brain.folder, tmp_path, dirs_exist_ok=True)
    messages = msd_training(tmp_path, ct_task).messages("evaluate.json")
    assert "background, pancreas, cancer; allowed: background, edema, non-enhancing tumor" in messages
    run = msd_training(tmp_path, ct_task, task_file=str(ct_task / "dataset.json"))
    messages = run.messages("evaluate.json")
    assert "model.pt: these are no weights of this network: " in messages
    assert "size mismatch" in messages


def test_weights_without_their_description(
    trained_brain: Any, msd_training: Any, brain_task: Path, tmp_path: Path
) -> None:
    """Weights alone are refused; with a description that is given they are taken; without any one must train first."""
    shutil.copytree(trained_brain.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "models" / "task.json").unlink()
    assert "task.json: no such file; allowed" in msd_training(tmp_path, brain_task).messages("evaluate.json")
    (tmp_path / "models" / "model.pt").unlink()
    assert "model.pt: no such file; train first" in msd_training(tmp_path, brain_task).messages("evaluate.json")
