# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips and lists that the bundle for videos takes: spoiled ones, missing ones, those of Something-Something."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from cakes_video.clip_lists import read_clips

MOVES = {
    "Moving something up": "upwards",
    "Pulling something from left to right": "from left to right",
    "Pulling something from right to left": "from right to left",
}


@pytest.fixture
def task(video_task: Path, tmp_path: Path) -> Path:
    """A copy of the small clips and lists that a test may spoil."""
    return Path(shutil.copytree(video_task, tmp_path / "task"))


def one_line(run: Any, pattern: str) -> str:
    """The line of the messages that a run ends with in which the pattern is."""
    lines = [line for line in run.messages().splitlines() if re.search(pattern, line)]
    assert lines, run.messages()
    return lines[0]


def spoil(task: Path, name: str) -> Path:
    """Cut off the end of a clip, where an mp4 has what is needed to read it."""
    path = task / "clips" / name
    path.write_bytes(path.read_bytes()[:200])
    return path


def test_unreadable_clips_are_passed_over_and_named(video_training: Any, task: Path, tmp_path: Path) -> None:
    """Below the allowed share the training goes on without them, and the table says which and why."""
    path = spoil(task, "training_4.mp4")
    run = video_training(tmp_path, task, max_unreadable=0.2, max_epochs=2)
    run.here()
    assert run.checkpoint["epoch"] == 2
    with (tmp_path / "eval" / "unreadable.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["path"] == str(path)
    assert "cannot be" in row["reason"]


def test_too_many_unreadable_clips_end_the_training(video_training: Any, task: Path, tmp_path: Path) -> None:
    """Above the allowed share it is an error with the first clip, the number of them and where they are listed."""
    paths = [spoil(task, f"training_{number}.mp4") for number in (2, 4, 7)]
    run = video_training(tmp_path, task, max_unreadable=0.2, max_epochs=2)
    line = one_line(run, r"clips cannot be read, see .*unreadable\.csv; allowed is a share of 0\.2")
    assert any(str(path) in line for path in paths)
    assert not run.checkpoint_file.exists()


def test_an_unreadable_clip_for_validation_is_an_error(video_training: Any, task: Path, tmp_path: Path) -> None:
    """An accuracy without it would be another one, so the clip is named instead."""
    path = spoil(task, "validation_3.mp4")
    run = video_training(tmp_path, task, max_unreadable=1.0, max_epochs=1)
    assert one_line(run, r"validation_3\.mp4").startswith(str(path))


def test_a_wrong_folder_is_known_at_the_start(video_training: Any, tmp_path: Path) -> None:
    """One line names the first path that is missing and how many are; nothing is written."""
    run = video_training(tmp_path / "run", dataset_dir=str(tmp_path / "nowhere"))
    line = one_line(run, "does not exist")
    assert f"{tmp_path / 'nowhere' / 'training_0.mp4'} does not exist" in line
    assert "9 of 9 clips are missing" in line
    assert not run.folder.exists()


def test_an_unknown_class_and_a_clip_listed_twice(video_training: Any, task: Path, tmp_path: Path) -> None:
    """Each is a line with file and line number, at the start."""
    path = task / "training.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "validation_0.mp4,sideways"]))
    line = one_line(video_training(tmp_path / "run", task), "sideways")
    assert line == f"{path}:11: label 'sideways' is no class; allowed: the 3 names of class_names."
    path.write_text("\n".join([*lines, lines[4]]))
    assert one_line(video_training(tmp_path / "run", task), "is there already").startswith(f"{path}:11: ")
    assert not (tmp_path / "run").exists()


def something(run: Any, folder: Path, **options: Any) -> Any:
    """The run with the options of something_something.json but for its sizes, on data in a folder."""
    for name in ("train_list", "val_list", "classes", "crop"):
        del run.options[name]
    run.options |= {"dataset_dir": str(folder), "init_weights": None, "max_epochs": 2, "learning_rate": 0.02} | options
    return run


def evaluated(run: Any) -> dict[str, str]:
    """Train and evaluate with the overlay; the class of every held-out clip."""
    run.here("something_something.json")
    assert run.checkpoint["epoch"] == 2
    assert run.checkpoint["identity"]["class_names"] == list(MOVES)
    run.here("something_something.json", "evaluate.json")
    with (run.folder / "eval" / "clips.csv").open() as stream:
        return {row["name"]: row["label"] for row in csv.DictReader(stream)}


def numbered(start: int, count: int) -> list[tuple[str, str]]:
    """Ids and classes of clips."""
    return [(str(1000 + number), list(MOVES)[number % 3]) for number in range(start, start + count)]


def test_something_something_v1(video_training: Any, make_clip: Any, tmp_path: Path) -> None:
    """The layout as it is distributed is all that the overlay needs: frame folders, id;label, labels beside them."""
    root = tmp_path / "20bn-something-something-v1"
    for part, clips in {"train": numbered(0, 8), "validation": numbered(8, 4)}.items():
        lines = [f"{number};{label}\n" for number, label in clips]
        (tmp_path / f"something-something-v1-{part}.csv").write_text("".join(lines))
        for number, label in clips:
            (root / number).mkdir(parents=True)
            with av.open(str(make_clip(tmp_path / f"{number}.mp4", MOVES[label]))) as container:
                for index, frame in enumerate(container.decode(video=0), 1):
                    frame.to_image().save(root / number / f"{index:05d}.jpg")
    (tmp_path / "something-something-v1-labels.csv").write_text("".join(f"{name}\n" for name in MOVES))
    run = something(video_training(tmp_path / "run"), root)
    assert evaluated(run) == dict(numbered(8, 4))


def v2_list(path: Path, clips: Sequence[tuple[str, str]]) -> str:
    """A list of version 2, whose templates have brackets."""
    entries = [{"id": number, "template": label.replace("something", "[something]")} for number, label in clips]
    path.write_text(json.dumps(entries))
    return str(path)


def test_something_something_v2(video_training: Any, make_clip: Any, tmp_path: Path) -> None:
    """Version 2 needs the paths of its lists: webm files, JSON with templates, JSON with labels."""
    for number, label in numbered(0, 12):
        make_clip(tmp_path / "webm" / f"{number}.webm", MOVES[label])
    (tmp_path / "labels.json").write_text(json.dumps({name: str(label) for label, name in enumerate(MOVES)}))
    run = something(
        video_training(tmp_path / "run"),
        tmp_path / "webm",
        train_list=v2_list(tmp_path / "train.json", numbered(0, 8)),
        val_list=v2_list(tmp_path / "validation.json", numbered(8, 4)),
        classes=str(tmp_path / "labels.json"),
    )
    assert evaluated(run) == dict(numbered(8, 4))


@pytest.mark.parametrize(
    ("name", "folder"),
    [("digits", "grid/clips"), ("fight_0", "fight"), ("fight_1", "fight"), ("fight_2", "fight")],
)
def test_lists_of_the_bundle(name: str, folder: str, video_bundle: Path, data_root: Path) -> None:
    """All their clips exist, every class is in both parts, and none of the test clips is in the training."""
    lists, root = video_bundle / "lists", data_root / "video" / folder
    classes = lists / f"{name.partition('_')[0]}.txt"
    training, test = (read_clips(lists / f"{name}_{part}.csv", root, classes) for part in ("training", "test"))
    for clips in (training, test):
        assert {clip["label"] for clip in clips.clips} == set(range(len(clips.class_names)))
    assert not {clip["video"] for clip in training.clips} & {clip["video"] for clip in test.clips}


def test_folds_of_fights_share_no_scene(video_bundle: Path) -> None:
    """They are those of scikit-learn for the scenes, most of which have clips of one class only."""

    def rows(name: str) -> list[dict[str, str]]:
        with (video_bundle / "lists" / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    clips = rows("fight_scenes")
    labels, scenes = ([clip[column] for clip in clips] for column in ("label", "scene"))
    assert len(clips) == 100
    folds = StratifiedGroupKFold(3).split(clips, labels, scenes)
    for fold, parts in enumerate(folds):
        for part, chosen in zip(("training", "test"), parts, strict=True):
            expected = [{"path": clips[i]["path"], "label": labels[i]} for i in chosen]
            assert rows(f"fight_{fold}_{part}") == expected
        assert not {scenes[i] for i in parts[0]} & {scenes[i] for i in parts[1]}
