# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of the bundle for videos: killed and resumed, longer, from 2D weights, on bad clips, on two processes."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from cakes_video.architectures import video_architecture
from cakes_video.inflation import inflated_kernel


@pytest.fixture
def copied(trained_video: Any, video_training: Any, tmp_path: Path) -> Any:
    """Makes a run, with other options, in a copy of the uninterrupted one's folder."""

    def make(**options: Any) -> Any:
        shutil.copytree(trained_video.folder, tmp_path, dirs_exist_ok=True)
        return video_training(tmp_path, **options)

    return make


@pytest.fixture
def task(video_task: Path, tmp_path: Path) -> Path:
    """A copy of the small clips and lists that a test may spoil."""
    return Path(shutil.copytree(video_task, tmp_path / "task"))


def one_line(run: Any, pattern: str) -> str:
    """The line of the messages that a run ends with in which the pattern is."""
    lines = [line for line in run.messages().splitlines() if re.search(pattern, line)]
    assert lines, run.messages()
    return lines[0]


def test_it_learns(trained_video: Any) -> None:
    """Of three directions of a moving square most are recognised after 25 epochs."""
    assert trained_video.checkpoint["epoch"] == 25
    assert trained_video.checkpoint["best_metric"] >= 0.8


def test_killed_and_resumed_it_ends_with_the_same_bits(
    trained_video: Any, video_training: Any, tmp_path: Path, same_bits: Any
) -> None:
    """After three SIGKILLs at any moment, --resume true ends with the same checkpoint and model, bit by bit."""
    run = video_training(tmp_path, resume=True)
    for seconds in (0.0, 0.07, 0.2):
        run.killed(seconds)
    run.here()
    same_bits(run.checkpoint, trained_video.checkpoint)
    same_bits(run.model, trained_video.model)


def descendants(process: int | str = "self") -> list[str]:
    """Processes that this one has started, and those they have started, where the system lists them."""
    found = []
    with contextlib.suppress(OSError):  # it has ended
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            found += children.read_text().split()
    return found + [other for child in found for other in descendants(child)]


def test_also_with_worker_processes(video_training: Any, tmp_path: Path, same_bits: Any) -> None:
    """Workers draw what they would have drawn: the same bits again; and those of a killed training end with it."""
    whole = video_training(tmp_path / "whole", num_workers=2, max_epochs=6)
    whole.here()
    run, before = video_training(tmp_path / "killed", num_workers=2, max_epochs=6, resume=True), set(descendants())
    run.killed()
    deadline = time.monotonic() + 30
    while set(descendants()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(descendants()) - before
    run.here()
    same_bits(run.checkpoint, whole.checkpoint)
    same_bits(run.model, whole.model)


def test_seeds(video_training: Any, tmp_path: Path, same_bits: Any) -> None:
    """Trainings with the same seed are equal bit by bit, with frames kept in memory or not; another seed differs."""
    options = ({"seed": 0}, {"seed": 0, "cache": True}, {"seed": 1})
    runs = [video_training(tmp_path / str(n), max_epochs=2, **given) for n, given in enumerate(options)]
    for run in runs:
        run.here()
    same_bits(runs[0].checkpoint, runs[1].checkpoint)
    same_bits(runs[0].model, runs[1].model)
    assert not torch.equal(runs[0].model["fc.weight"], runs[2].model["fc.weight"])


def test_resumed_with_more_epochs_it_follows_the_longer_schedule(
    copied: Any, trained_video: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 35 epochs those up to the 30th have a tenth of the learning rate, those after a hundredth; biases twice it."""
    run = copied(resume=True, max_epochs=35)
    with caplog.at_level(logging.INFO, "cakes_monai.handlers.epoch_log"):
        run.here()
    rates = re.findall(r"epoch (\d+)/35: .* learning rate ([\d.e-]+)", caplog.text)
    assert [(int(epoch), float(rate)) for epoch, rate in rates] == [
        (epoch, pytest.approx(0.002 if epoch <= 30 else 0.0002)) for epoch in range(26, 36)
    ]
    weights, biases, _ = run.checkpoint["objects"]["optimizer"]["param_groups"]
    assert biases["lr"] == 2 * weights["lr"]
    assert run.checkpoint["iteration"] == 35 * 3
    assert run.checkpoint["best_metric"] >= trained_video.checkpoint["best_metric"]


def test_resuming_a_finished_training_changes_nothing(copied: Any, trained_video: Any, same_bits: Any) -> None:
    """There is no epoch left: checkpoint and model stay as they are."""
    run = copied(resume=True)
    run.here()
    same_bits(run.checkpoint, trained_video.checkpoint)
    same_bits(run.model, trained_video.model)


def test_a_worse_epoch_after_a_resume_does_not_replace_the_best(
    trained_video: Any, copied: Any, same_bits: Any
) -> None:
    """With a best metric that cannot be reached, model.pt stays as it is."""
    run = copied(resume=True, max_epochs=26)
    torch.save(run.checkpoint | {"best_metric": 1.5}, run.checkpoint_file)
    run.here()
    assert run.checkpoint["epoch"] == 26
    same_bits(run.model, trained_video.model)


def other_classes(task: Path) -> dict[str, Any]:
    """The first class has another name."""
    for path in task.glob("*.*"):
        path.write_text(path.read_text().replace("upwards", "to the top"))
    return {"classes": str(task / "classes.txt"), "train_list": str(task / "training.csv")}


def other_clips(task: Path) -> dict[str, Any]:
    """The list has a clip less."""
    path = task / "training.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return {"train_list": str(path)}


def other_architecture(task: Path) -> dict[str, Any]:
    """All channels in space."""
    video_architecture("c2d", "resnet18", 4).save(task / "architecture.json")
    return {"architecture": str(task / "architecture.json")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_classes, "was written with class_names ['upwards', .*this training has ['to the top', "),
        (other_clips, "was written with data "),
        (other_architecture, "was written with architecture "),
        (lambda task: {"seed": 1}, "was written with seed 0, this training has 1"),
    ],
    ids=["classes", "clips", "architecture", "seed"],
)
def test_a_checkpoint_of_another_training_is_refused(
    change: Any, message: str, copied: Any, task: Path, trained_video: Any, same_bits: Any
) -> None:
    """Resuming with other classes, clips, architecture or seed is one line, and the checkpoint stays as it is."""
    run = copied(resume=True, val_list=str(task / "validation.csv"), **change(task))
    line = one_line(run, r"checkpoint\.pt: " + message.replace("[", r"\["))
    assert line.endswith("resume with the same or start anew with --resume false.")
    assert len(line) < 400
    same_bits(run.checkpoint, trained_video.checkpoint)


def test_booleans_of_the_command_line(copied: Any) -> None:
    """``--resume false`` arrives as a text and starts anew; a text that is neither is refused."""
    run = copied(resume="false", max_epochs=1)
    run.here()
    assert run.checkpoint["epoch"] == 1
    assert "maybe" in copied(resume="maybe").messages()


def test_early_stop_and_last_weights(video_training: Any, tmp_path: Path, same_bits: Any) -> None:
    """A training that does not get better ends before its time; with --select last its last weights are the model."""
    run = video_training(tmp_path, early_stop_patience=1, learning_rate=1e-12, select="last")
    run.here()
    assert run.checkpoint["epoch"] - run.checkpoint["best_metric_epoch"] == 1
    assert run.checkpoint["epoch"] < 25
    same_bits(run.model, run.checkpoint["objects"]["network"])


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Weights of a ResNet-18 for images with a 16th of the channels, and the file that they are in."""
    torch.manual_seed(5)
    weights = {
        name: value[tuple(slice(None) if n in (3, 7) or n < 4 else slice(n // 16) for n in value.shape)].clone()
        for name, value in resnet18().state_dict().items()
    }
    path = tmp_path_factory.mktemp("images") / "resnet18.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    return weights | {"path": str(path)}


@pytest.mark.parametrize("rule", ["mean", "sum"])
def test_image_weights_are_the_start(rule: str, video_training: Any, image_weights: Any, tmp_path: Path) -> None:
    """With a learning rate of 0 the trained network has the inflated weights, cut by position, in its first stage."""
    run = video_training(
        tmp_path, init_weights=image_weights["path"], time_rule=rule, learning_rate=0.0, warmup_lr=0.0, max_epochs=1
    )
    run.here()
    model, kernel = run.model, image_weights["layer1.0.conv1.weight"]
    assert torch.equal(model["conv1.weight"], image_weights["conv1.weight"][:, :, None])
    parts = [value for name, value in model.items() if re.fullmatch(r"layer1\.0\.conv1\..*conv.*weight", name)]
    assert torch.equal(parts[0], inflated_kernel(kernel[:2], "1x3x3", rule))
    assert torch.equal(parts[1], inflated_kernel(kernel[2:], "3x1x1", rule))
    assert parts[1].shape == (2, 4, 3, 1, 1)


def test_a_resumed_training_does_not_start_again_from_image_weights(
    copied: Any, trained_video: Any, image_weights: Any, same_bits: Any
) -> None:
    """The checkpoint wins over init_weights."""
    options = {"init_weights": image_weights["path"], "learning_rate": 0.0, "warmup_lr": 0.0}
    run = copied(resume=True, max_epochs=26, **options)
    run.here()
    ours, theirs = (r.checkpoint["objects"]["network"] for r in (run, trained_video))
    learned = [name for name in ours if name.endswith(("weight", "bias"))]
    same_bits({name: ours[name] for name in learned}, {name: theirs[name] for name in learned})


def test_image_weights_that_do_not_fit(video_training: Any, image_weights: Any, tmp_path: Path) -> None:
    """A file that is none, weights of another width and an unknown rule are one line each, before the training."""
    assert (
        "none.pt: cannot be read as weights"
        in video_training(tmp_path, init_weights=str(tmp_path / "none.pt")).messages()
    )
    torch.save(resnet18().state_dict(), tmp_path / "wide.pt")
    run = video_training(tmp_path, init_weights=str(tmp_path / "wide.pt"))
    assert "conv1.weight: the weights give 64x3x1x7x7, the network has 4x3x1x7x7." in run.messages()
    run = video_training(tmp_path, init_weights=image_weights["path"], time_rule="max")
    assert "unknown rule 'max', allowed are mean, sum." in run.messages()
    assert not (tmp_path / "eval").exists()
