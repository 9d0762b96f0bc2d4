# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of an inference over videos whose logits are given."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from cakes_video.handlers import RecognitionSaver

NAMES = ["wave", "jump", "run"]


def write_video(path: Path, frames: int = 6) -> str:
    """A grey video of 48 x 32 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for _ in range(frames):
            image = np.full((32, 48, 3), 128, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def view(name: str, video: str, probabilities: list[float], crop: int = 0) -> dict[str, Any]:
    """Item of a data set whose logits give ``probabilities``."""
    return {"image": torch.tensor(probabilities).log(), "name": name, "video": video, "crop": crop}


def infer(items: list[dict[str, Any]], saver: RecognitionSaver) -> None:
    """Run MONAI's evaluator over given logits, without labels."""
    loader = DataLoader(Dataset(items), batch_size=2)
    network = torch.nn.Identity()
    SupervisedEvaluator(torch.device("cpu"), loader, network, val_handlers=[saver]).run()


def test_results_of_videos_and_their_views(tmp_path: Path) -> None:
    """Views of a video are averaged, its classes are sorted, and each video has a file and a place in the table."""
    views = [("b", [0.2, 0.6, 0.2], 0), ("a", [0.1, 0.2, 0.7], 0), ("b", [0.6, 0.4, 0.0001], 2)]
    items = [view(name, f"/data/{name}.mp4", probabilities, crop) for name, probabilities, crop in views]
    infer(items, RecognitionSaver(tmp_path, NAMES, topk=2, model="cakes.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "results.csv", "results.json"]
    result = json.loads((tmp_path / "b.json").read_text())
    assert {key: result[key] for key in ("video", "model", "views")} == {
        **{"video": "/data/b.mp4", "model": "cakes.pt", "views": 2},
    }
    assert [(entry["class"], round(entry["probability"], 4)) for entry in result["top"]] == [
        ("jump", 0.5),
        ("wave", 0.4),
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    assert [entry["name"] for entry in results] == ["a", "b"]
    assert results[1] == result
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], row["class 1"], row["class 2"]) for row in rows] == [
        ("a.json", "run", "jump"),
        ("b.json", "jump", "wave"),
    ]


def test_no_two_videos_share_a_file(tmp_path: Path) -> None:
    """Equal file names in two folders, names of the tables, capitals, and paths that lead elsewhere have own files."""
    names = ["one/a", "two/a", "results", "A", "a", "../a", "/etc/a", ".."]
    infer(
        [view(name, f"/data/{i}", [0.5, 0.3, 0.2]) for i, name in enumerate(names)], RecognitionSaver(tmp_path, NAMES)
    )
    with (tmp_path / "results.csv").open(newline="") as stream:
        files = {row["name"]: row["file"] for row in csv.DictReader(stream)}
    assert files == {
        **{"one/a": "one/a.json", "two/a": "two/a.json", "results": "results_2.json", "..": "video.json"},
        **{"../a": "a.json", "A": "A_2.json", "a": "a_3.json", "/etc/a": "etc/a.json"},
    }
    assert {json.loads((tmp_path / file).read_text())["name"] for file in files.values()} == set(names)
    assert len(json.loads((tmp_path / "results.json").read_text())) == len(names)


def test_videos_are_drawn_on(tmp_path: Path) -> None:
    """With draw each video is written with its classes, and only the part the list gives; as "true" too."""
    items = [view(name, write_video(tmp_path / name / "v.mp4"), [0.1, 0.2, 0.7]) for name in ("a", "b")]
    clips = [{"name": "b", "video": items[1]["video"], "label": 0, "start": 1, "stop": 4}]
    infer(items, RecognitionSaver(tmp_path / "out", NAMES, draw="true", clips=clips))
    frames = {}
    for name in ("a", "b"):
        with av.open(str(tmp_path / "out" / f"{name}.mp4")) as container:
            frames[name] = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert {name: len(images) for name, images in frames.items()} == {"a": 6, "b": 3}
    image = frames["b"][1].astype(int)
    assert np.abs(image[:10] - 128).max() > 60  # white letters, dark box
    assert np.abs(image[-4:] - 128).max() < 10


def test_results_are_written_before_anything_is_drawn(tmp_path: Path) -> None:
    """A video that cannot be drawn is named, and the results of all videos are there."""
    items = [view("a", str(tmp_path / "absent.mp4"), [0.1, 0.2, 0.7])]
    with pytest.raises(ValueError, match=r"absent.mp4: cannot be decoded \(No such file or directory\)"):
        infer(items, RecognitionSaver(tmp_path / "out", NAMES, draw=True))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "results.csv", "results.json"]
    with pytest.raises(ValueError, match=r"^a: the batch has no 'video' to draw on; allowed is its file or folder\.$"):
        infer([{"image": torch.zeros(3), "name": "a"}], RecognitionSaver(tmp_path / "out", NAMES, draw=True))


def test_wrong_topk_is_refused(tmp_path: Path) -> None:
    """A number of classes below one is an error when the handler is made."""
    with pytest.raises(ValueError, match=r"^topk: 0; allowed is a whole number from 1\.$"):
        RecognitionSaver(tmp_path, NAMES, topk=0)
