# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation and inference of the bundle for videos: their numbers, recomputed by hand, and what is refused how."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.architectures import video_architecture
from cakes_video.resnet import VideoResNet

MEAN, STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


def decoded(path: Path) -> np.ndarray:
    """All frames of a video: (T, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def network(trained_video: Any) -> VideoResNet:
    """The network with the trained weights."""
    architecture = BackboneArchitecture.load(trained_video.options["architecture"])
    network = VideoResNet(architecture, 3, 4)
    network.load_state_dict(trained_video.model)
    return network.eval()


def by_hand(network: VideoResNet, frames: np.ndarray, num_clips: int = 1, num_crops: int = 1) -> np.ndarray:
    """Probabilities of frames of 32x48: four frames a view, columns at the centre or at three places, the mean."""
    parts = num_clips * 4
    places = [int((part + 0.5) * len(frames) / parts) for part in range(parts)]
    views = [
        frames[places[clip::num_clips], :, left : left + 32]
        for clip in range(num_clips)
        for left in ([8] if num_crops == 1 else [0, 8, 16])
    ]
    images = torch.tensor((np.stack(views) / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        return network(images).softmax(1).mean(0).numpy()


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a csv."""
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def evaluated(trained_video: Any, video_training: Any, tmp_path: Path) -> Any:
    """Makes a run in a copy of the trained one's folder and evaluates it; returns the report's folder."""

    def make(*args: Any, **options: Any) -> Path:
        shutil.copytree(trained_video.folder / "models", tmp_path / "run" / "models", dirs_exist_ok=True)
        video_training(tmp_path / "run", *args, **{"amp": False, **options}).here("evaluate.json")
        return tmp_path / "run" / "eval"

    return make


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (2, 3)])
def test_the_report_has_what_is_computed_by_hand(
    num_clips: int, num_crops: int, evaluated: Any, network: VideoResNet, video_task: Path
) -> None:
    """Probabilities, confusion and accuracies are those of the network on the frames, views averaged by video."""
    output = evaluated(num_clips=num_clips, num_crops=num_crops)
    names, listed = (video_task / "classes.txt").read_text().splitlines(), table(video_task / "validation.csv")
    confusion = np.zeros((3, 3), int)
    rows = {row["name"]: row for row in table(output / "clips.csv")}
    for clip in listed:
        expected = by_hand(network, decoded(video_task / "clips" / clip["path"]), num_clips, num_crops)
        row = rows.pop(clip["path"])
        found = {row[f"class {place}"]: float(row[f"probability {place}"]) for place in (1, 2, 3)}
        assert [found[name] for name in names] == pytest.approx(expected.tolist(), abs=2e-4)
        assert (row["label"], row["views"]) == (clip["label"], str(num_clips * num_crops))
        confusion[names.index(clip["label"]), names.index(row["predicted"])] += 1
        assert row["predicted"] == names[expected.argmax()]
    assert not rows
    assert [[int(row[name]) for name in names] for row in table(output / "confusion.csv")] == confusion.tolist()
    summary = json.loads((output / "summary.json").read_text())
    accuracies = confusion.diagonal() / confusion.sum(1)
    assert summary["top1"] == pytest.approx(np.trace(confusion) / 5)
    assert summary["mean_class_accuracy"] == pytest.approx(accuracies.mean(), abs=1e-5)
    assert (summary["videos"], summary["views"]) == (5, 5 * num_clips * num_crops)
    assert [float(row["accuracy"]) for row in table(output / "classes.csv")] == pytest.approx(accuracies.tolist())
    assert (output / "confusion.png").stat().st_size > 5000


def test_classes_in_another_order_are_matched_by_name(evaluated: Any, video_task: Path, tmp_path: Path) -> None:
    """A class list in another order, or with some of the classes only, gives the same classes for the same clips."""
    expected = {row["name"]: row["predicted"] for row in table(evaluated() / "clips.csv")}
    names = (video_task / "classes.txt").read_text().splitlines()
    (tmp_path / "classes.txt").write_text("\n".join(names[::-1]))
    found = table(evaluated(classes=str(tmp_path / "classes.txt")) / "clips.csv")
    assert {row["name"]: row["predicted"] for row in found} == expected
    assert {row["label"] for row in found} == set(names)
    (tmp_path / "classes.txt").write_text("\n".join(names[:0:-1]))
    lines = (video_task / "validation.csv").read_text().splitlines()
    (tmp_path / "list.csv").write_text("\n".join(line for line in lines if names[0] not in line))
    output = evaluated(classes=str(tmp_path / "classes.txt"), val_list=str(tmp_path / "list.csv"))
    assert len(table(output / "clips.csv")) == 3
    assert [row["true class"] for row in table(output / "confusion.csv")] == names[:0:-1]


def test_a_class_the_weights_do_not_know_is_refused(
    trained_video: Any, video_training: Any, video_task: Path, tmp_path: Path
) -> None:
    """One line names the weights, the class and what is allowed; there is no report."""
    (tmp_path / "classes.txt").write_text((video_task / "classes.txt").read_text() + "downwards\n")
    weights = trained_video.folder / "models" / "model.pt"
    run = video_training(tmp_path / "run", classes=str(tmp_path / "classes.txt"), weights=str(weights))
    line = next(line for line in run.messages("evaluate.json").splitlines() if "downwards" in line)
    assert line.startswith(f"{weights}: these are no weights of this network: ")
    assert "1 of the 4 classes of the data are unknown to the checkpoint: 'downwards'; allowed are its 3" in line
    assert not (tmp_path / "run" / "eval" / "clips.csv").exists()


def test_evaluation_names_a_clip_it_cannot_read(evaluated: Any, video_task: Path, tmp_path: Path) -> None:
    """It leaves none out, and the report of the evaluation before stays as it was."""
    task = Path(shutil.copytree(video_task, tmp_path / "task"))
    output = evaluated(task)
    before = {path.name: path.read_bytes() for path in output.glob("*.*")}
    (task / "clips" / "validation_1.mp4").write_bytes(b"no video")
    with pytest.raises(RuntimeError) as error:
        evaluated(task)
    assert any("validation_1.mp4: " in message for message in causes(error.value))
    assert {path.name: path.read_bytes() for path in output.glob("*.*") if path.name in before} == before


def causes(error: BaseException | None) -> list[str]:
    """Messages of an error and of those that it came from."""
    return [str(error), *causes(error.__cause__)] if error else []


@pytest.fixture
def recognise(trained_video: Any, tmp_path: Path) -> Any:
    """Runs inference.json with the trained weights in this process and returns the folder of the results."""

    def run(path: Path, **options: Any) -> Path:
        shared = ("bundle_root", "architecture", "crop", "num_frames", "short_side", "size", "width")
        workflow = ConfigWorkflow(
            config_file=str(trained_video.bundle / "configs" / "inference.json"),
            meta_file=str(trained_video.bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            dataset_dir=str(path),
            **{name: trained_video.options[name] for name in shared},
            **{
                "weights": str(trained_video.folder / "models" / "model.pt"),
                "output_dir": str(tmp_path / "out"),
                "amp": False,
                **options,
            },
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return Path(tmp_path / "out")

    return run


def refused(recognise: Any, path: Path, **options: Any) -> list[str]:
    """Lines of the messages that an inference ends with."""
    with pytest.raises(RuntimeError) as error:
        recognise(path, **options)
    return [line for message in causes(error.value) for line in message.splitlines()]


def assert_recognised(result: dict[str, Any], frames: np.ndarray, network: VideoResNet, names: list[str]) -> None:
    """All classes with the probabilities computed by hand, the most likely first."""
    expected = by_hand(network, frames)
    order = np.argsort(-expected)
    assert [entry["class"] for entry in result["top"]] == [names[label] for label in order]
    probabilities = [entry["probability"] for entry in result["top"]]
    assert probabilities == pytest.approx(expected[order].tolist(), abs=2e-4)
    assert sum(probabilities) <= 1 + 1e-5


def test_one_video(recognise: Any, video_task: Path, network: VideoResNet) -> None:
    """A json for it, results.json and results.csv with the same, and nothing else."""
    path = video_task / "clips" / "validation_2.mp4"
    output = recognise(path)
    names = (video_task / "classes.txt").read_text().splitlines()
    assert sorted(path.name for path in output.iterdir()) == ["results.csv", "results.json", "validation_2.mp4.json"]
    result = json.loads((output / "validation_2.mp4.json").read_text())
    assert_recognised(result, decoded(path), network, names)
    assert result["video"] == str(path)
    assert [result] == json.loads((output / "results.json").read_text())
    (row,) = table(output / "results.csv")
    assert row["class 1"] == result["top"][0]["class"]


def test_a_folder_of_videos_and_frame_folders(
    recognise: Any, make_clip: Any, video_task: Path, network: VideoResNet, tmp_path: Path
) -> None:
    """Clips at any depth and of both kinds are found, and their results lie as they do; topk limits the classes."""
    folder = tmp_path / "clips"
    frames = {name: decoded(make_clip(folder / name, "from left to right")) for name in ("a.mp4", "deep/b.webm")}
    frames["deep/frames"] = decoded(make_clip(tmp_path / "c.mp4", "upwards"))
    (folder / "deep" / "frames").mkdir()
    for number, image in enumerate(frames["deep/frames"]):
        Image.fromarray(image).save(folder / "deep" / "frames" / f"img_{number:05d}.png")
    output = recognise(folder)
    names = (video_task / "classes.txt").read_text().splitlines()
    for name, images in frames.items():
        assert_recognised(json.loads((output / f"{name}.json").read_text()), images, network, names)
    assert {result["name"] for result in json.loads((output / "results.json").read_text())} == set(frames)
    recognise(folder, topk=1)
    assert len(json.loads((output / "a.mp4.json").read_text())["top"]) == 1


def test_a_list_with_frame_ranges_and_drawing(
    recognise: Any, video_task: Path, network: VideoResNet, tmp_path: Path
) -> None:
    """Only the frames of the range are recognised and drawn; the drawn video has the classes in its upper left."""
    source = video_task / "clips" / "validation_0.mp4"
    (tmp_path / "list.csv").write_text(f"path,label,start,stop\n{source},upwards,3,9\n{source},upwards,0,12\n")
    output = recognise(tmp_path / "list.csv", draw=True)
    names, frames = (video_task / "classes.txt").read_text().splitlines(), decoded(source)
    for result in json.loads((output / "results.json").read_text()):
        first, last = map(int, result["name"].rpartition("#")[2].split("-"))
        assert_recognised(result, frames[first:last], network, names)
        drawn = decoded(output / f"{result['name'].lstrip('/')}.mp4")
        assert drawn.shape == (last - first, 32, 48, 3)
        difference = np.abs(drawn.astype(int) - frames[first:last])
        assert difference[:, :10, :20].mean() > 3 * difference[:, -8:].mean()


def test_weights_that_are_refused(recognise: Any, trained_video: Any, video_task: Path, tmp_path: Path) -> None:
    """Missing ones, ones without names of classes and ones of another architecture: a line that names the file."""
    path, file = video_task / "clips" / "validation_2.mp4", tmp_path / "model.pt"
    allowed = "no such file; train first, or give the weights' path."
    assert f"{file}: {allowed}" in refused(recognise, path, weights=str(file))
    nameless = VideoResNet(BackboneArchitecture.load(trained_video.options["architecture"]), 3, 4)
    torch.save(nameless.state_dict(), file)
    lines = refused(recognise, path, weights=str(file))
    assert f"{file}: the weights were saved without class names; give the names." in lines
    other = VideoResNet(video_architecture("c2d", "resnet18", 4), ["a", "b"], 4)
    torch.save(other.state_dict(), file)
    lines = refused(recognise, path, weights=str(file))
    assert any(line.startswith(f"{file}: these are no weights of this network: ") for line in lines)
    file.write_text("no weights")
    assert f"{file}: these are no weights with class names." in refused(recognise, path, weights=str(file))
    assert not (tmp_path / "out").exists()


def test_a_failing_run_overwrites_nothing(recognise: Any, make_clip: Any, tmp_path: Path) -> None:
    """With a clip that cannot be read, or none at all, the results of the run before stay."""
    make_clip(tmp_path / "clips" / "a.mp4", "upwards")
    output = recognise(tmp_path / "clips", draw=True)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    make_clip(tmp_path / "clips" / "a.mp4", "from left to right")
    (tmp_path / "clips" / "b.mp4").write_bytes(b"no video")
    assert any(line.startswith(f"{tmp_path / 'clips' / 'b.mp4'}: ") for line in refused(recognise, tmp_path / "clips"))
    assert any("no such file or folder" in line for line in refused(recognise, tmp_path / "nowhere"))
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_the_samples_from_another_folder(video_bundle: Path, tmp_path: Path) -> None:
    """The documented command, run elsewhere, gives the documented digits, draws them and exits with status 0."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
    command += [str(video_bundle / "configs" / "inference.json"), "--bundle_root", str(video_bundle)]
    result = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out"), "--draw", "True"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    documented = {row["name"]: row for row in table(video_bundle / "docs" / "results" / "clips.csv")}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results) == len(table(video_bundle / "sample_data" / "clips.csv")) == 3
    for found in results:
        row, best = documented[found["name"]], found["top"][0]
        assert best["class"] == row["predicted"]
        assert best["probability"] == pytest.approx(float(row["probability"]), abs=0.05)  # bfloat16, or float32
        first, last = map(int, found["name"].rpartition("#")[2].split("-"))
        assert len(decoded(tmp_path / "out" / f"{found['name']}.mp4")) == last - first


def test_the_weights_recognise_the_held_out_digits(video_bundle: Path, data_root: Path, tmp_path: Path) -> None:
    """Evaluation of the shipped weights gives the documented accuracy, up to a clip or two at the edge of a class."""
    workflow = ConfigWorkflow(
        config_file=[str(video_bundle / "configs" / name) for name in ("train.json", "evaluate.json")],
        meta_file=str(video_bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(video_bundle),
        dataset_dir=str(data_root / "video" / "grid" / "clips"),
        output_dir=str(tmp_path),
        num_workers=0,
    )
    workflow.initialize()
    workflow.run()
    summary = json.loads((tmp_path / "summary.json").read_text())
    documented = json.loads((video_bundle / "docs" / "results" / "summary.json").read_text())
    metadata = json.loads((video_bundle / "configs" / "metadata.json").read_text())
    assert documented["top1"] == metadata["eval_metrics"]["top1"]
    assert summary["top1"] == pytest.approx(documented["top1"], abs=0.04)
    assert summary["videos"] == documented["videos"] == 50
