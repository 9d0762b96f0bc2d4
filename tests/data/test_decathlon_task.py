# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks read from dataset.json as the decathlon has it, and from what training writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.data import DecathlonTask, task_metadata

#: Entries of the decathlon's own dataset.json files; the order of labels is turned round, as JSON allows.
ENTRIES: dict[str, dict[str, Any]] = {
    "Task01_BrainTumour": {
        "name": "BRATS",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"3": "enhancing tumour", "0": "background", "2": "non-enhancing tumor", "1": "edema"},
    },
    "Task05_Prostate": {
        "name": "PROSTATE",
        "relase": "1.0 04/05/2018",
        "tensorImageSize": "4D",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    },
    "Task09_Spleen": {
        "name": "Spleen",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
    },
}


def written(folder: Path, entries: dict[str, Any], name: str = "dataset.json") -> Path:
    """A folder with dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(entries))
    return folder


def without(name: str) -> dict[str, Any]:
    """The spleen's entries without one of them."""
    return {key: value for key, value in ENTRIES["Task09_Spleen"].items() if key != name}


@pytest.mark.parametrize(
    ("folder", "channels", "classes", "modality", "structures"),
    [
        ("Task01_BrainTumour", 4, 4, "MR", ("edema", "non-enhancing tumor", "enhancing tumour")),
        ("Task05_Prostate", 2, 3, "MR", ("PZ", "TZ")),
        ("Task09_Spleen", 1, 2, "CT", ("spleen",)),
    ],
)
def test_tasks_of_the_decathlon(
    tmp_path: Path, folder: str, channels: int, classes: int, modality: str, structures: tuple[str, ...]
) -> None:
    """Channels and classes are counted, names follow their numbers, from the folder as from the file."""
    place = written(tmp_path / folder, ENTRIES[folder])
    task = DecathlonTask.load(place)
    assert (task.num_channels, task.num_classes, task.modality) == (channels, classes, modality)
    assert task.class_names == ("background", *structures)
    assert task.structures == structures
    assert task.modalities == tuple(ENTRIES[folder]["modality"].values())
    assert task.image_size == ENTRIES[folder]["tensorImageSize"]
    assert DecathlonTask.load(place / "dataset.json") == task


def test_the_real_task(hippocampus: Path) -> None:
    """The hippocampus is one channel of MR with two structures."""
    task = DecathlonTask.load(hippocampus)
    assert (task.modality, task.num_channels, task.structures) == ("MR", 1, ("Anterior", "Posterior"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """The text of a task, how its images are prepared included, gives the same task."""
    place = written(tmp_path, ENTRIES["Task01_BrainTumour"])
    task = DecathlonTask.load(place, hu_window=[-100, 240], resampled_size=[96, 96, 96])
    (tmp_path / "task.json").write_text(task.dumps())
    assert DecathlonTask.load(tmp_path / "task.json") == task
    assert task.hu_window == (-100.0, 240.0)
    assert DecathlonTask.load(place).hu_window == (-175.0, 250.0)


def test_the_first_path_that_exists(tmp_path: Path) -> None:
    """Of several paths the first one that is there counts, and one that is there is not passed over for its faults."""
    spleen, empty = written(tmp_path / "spleen", ENTRIES["Task09_Spleen"]), tmp_path / "empty"
    assert DecathlonTask.load([tmp_path / "none", spleen]).name == "Spleen"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty/dataset.json: no such file"):
        DecathlonTask.load([empty, spleen])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (without("labels"), "has no 'labels'"),
        (without("modality"), "has no 'modality'"),
        (without("labels") | {"labels": {"0": "background", "2": "spleen"}}, "labels are .*without gaps"),
        (without("modality") | {"modality": {"1": "CT"}}, "modality are .*without gaps"),
        (without("labels") | {"labels": {"0": "background"}}, "labels: background; allowed: two or more"),
        (without("labels") | {"labels": {"0": "tumour", "1": "Tumour"}}, "labels: tumour, Tumour; allowed"),
        (ENTRIES["Task09_Spleen"] | {"hu_window": [250, -175]}, "hu_window: 250.0, -175.0; allowed: a lower"),
        (ENTRIES["Task09_Spleen"] | {"resampled_size": [96, 96]}, "resampled_size: 96, 96; allowed: three"),
    ],
)
def test_bad_entries(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    """The file is named, what is wrong, and what is allowed, in one line."""
    with pytest.raises(ValueError, match=rf"dataset\.json: {message}") as error:
        DecathlonTask.load(written(tmp_path, entries))
    assert "\n" not in str(error.value)


def test_the_task_of_weights_lies_beside_them(tmp_path: Path) -> None:
    """A file that is given is taken before it, and a default only as long as there are no weights."""
    spleen = written(tmp_path / "spleen", ENTRIES["Task09_Spleen"])
    prostate = written(tmp_path / "prostate", ENTRIES["Task05_Prostate"])
    weights = tmp_path / "models" / "model.pt"
    assert DecathlonTask.of_weights(weights, default=spleen).name == "Spleen"
    written(weights.parent, ENTRIES["Task05_Prostate"], "task.json")
    assert DecathlonTask.of_weights(weights, default=spleen).name == "PROSTATE"
    assert DecathlonTask.of_weights(weights, task_file=prostate).name == "PROSTATE"
    weights.touch()
    (weights.parent / "task.json").unlink()
    with pytest.raises(
        ValueError, match=r"models/task.json: no such file; allowed: the task.json that training writes"
    ):
        DecathlonTask.of_weights(weights, default=spleen)
    with pytest.raises(ValueError, match=r"other\.json: no such file"):
        DecathlonTask.of_weights(weights, task_file=tmp_path / "other.json", default=spleen)


def test_weights_of_one_ensemble_are_of_one_task(tmp_path: Path) -> None:
    """Weights of two tasks are refused, of the same task in two folders not."""
    weights = [tmp_path / fold / "model.pt" for fold in ("a", "b")]
    for path in weights:
        written(path.parent, ENTRIES["Task09_Spleen"], "task.json")
    assert DecathlonTask.of_weights(weights).name == "Spleen"
    written(weights[1].parent, ENTRIES["Task05_Prostate"], "task.json")
    with pytest.raises(ValueError, match="are of different tasks"):
        DecathlonTask.of_weights(weights)


def test_metadata_of_a_task(tmp_path: Path, repository: Path) -> None:
    """Channels, classes and size are the task's; version and licence stay the bundle's."""
    template = repository / "bundles" / "msd_c2fnas_cakes" / "configs" / "metadata.json"
    task = DecathlonTask.load(written(tmp_path, ENTRIES["Task01_BrainTumour"]))
    metadata = json.loads(task_metadata(task, template, (128, 128, 32)))
    image, pred = (
        metadata["network_data_format"][side][name] for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    assert (image["num_channels"], image["modality"], image["spatial_shape"]) == (4, "MR", [128, 128, 32])
    assert image["channel_def"] == ENTRIES["Task01_BrainTumour"]["modality"]
    assert pred["channel_def"] == dict(sorted(ENTRIES["Task01_BrainTumour"]["labels"].items()))
    assert metadata["version"] == json.loads(template.read_text())["version"]
    assert metadata["label_classes"].endswith("2 is non-enhancing tumor, 3 is enhancing tumour")


def test_the_default_of_the_bundle_is_one_task(repository: Path) -> None:
    """What the bundle says in metadata.json is what it says in task.json."""
    configs = repository / "bundles" / "msd_c2fnas_cakes" / "configs"
    filled = json.loads(task_metadata(DecathlonTask.load(configs / "task.json"), configs / "metadata.json", [96] * 3))
    shipped = json.loads((configs / "metadata.json").read_text())
    assert {**filled, "description": ""} == {**shipped, "description": ""}
