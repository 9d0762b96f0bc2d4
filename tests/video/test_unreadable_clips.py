# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips that cannot be read, in training and in evaluation."""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, partition_dataset
from monai.engines import SupervisedTrainer
from monai.transforms import Compose

from cakes_monai.handlers import EpochSeed
from cakes_video.clip_error import ClipError
from cakes_video.clip_transforms import LoadClipd, NormalizeClipd, RandLoadClipd
from cakes_video.readable_clips import ReadableClips
from cakes_video.unreadable_clips import UnreadableClips

BROKEN = (2, 3, 7)


@pytest.fixture
def clips(tmp_path: Path) -> list[dict[str, Any]]:
    """Ten clips, frame folders 0 to 9 of 8 frames whose red is the number of the clip; 2, 3 and 7 have no frames."""
    for number in range(10):
        folder = tmp_path / "clips" / str(number)
        folder.mkdir(parents=True)
        for frame in range(0 if number in BROKEN else 8):
            image = np.full((8, 8, 3), (number, frame, 0), np.uint8)
            matplotlib.image.imsave(folder / f"{frame:05d}.png", image)
    return [{"video": str(tmp_path / "clips" / str(n)), "label": n % 2, "name": str(n)} for n in range(10)]


def train(data: list[dict[str, Any]], handlers: list[Any], epochs: int = 2, **options: Any) -> SupervisedTrainer:
    """Train a network with one weight, as a bundle does."""
    dataset = ReadableClips(data, [RandLoadClipd(2), NormalizeClipd("image")])
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=5, shuffle=True, **options),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=handlers,
    )
    logging.getLogger("ignite.engine.engine.SupervisedTrainer").setLevel(logging.CRITICAL)
    trainer.run()
    return trainer


def test_the_next_clip_takes_the_place(clips: list[dict[str, Any]]) -> None:
    """An item that cannot be read is the next one that can, with its label and name, and says what was passed over."""
    dataset = ReadableClips(clips, LoadClipd(4))
    items = [dataset[index] for index in range(10)]
    assert [item["name"] for item in items] == ["0", "1", "4", "4", "4", "5", "6", "8", "8", "9"]
    assert [item["label"] for item in items] == [int(item["name"]) % 2 for item in items]
    assert [int(item["image"][0, 0, 0, 0]) for item in items] == [int(item["name"]) for item in items]
    passed = [[Path(path).name for path in item["unreadable"].split("\n") if path] for item in items]
    assert passed == [[], [], ["2", "3"], ["3"], [], [], [], ["7"], [], []]
    reasons = items[2]["unreadable_reason"].split("\n")
    assert len(reasons) == 2
    assert all(reason and not reason.startswith("/") for reason in reasons)


def test_after_the_last_comes_the_first(clips: list[dict[str, Any]]) -> None:
    """The clip after the last is the first."""
    assert ReadableClips(clips[4:8], LoadClipd(4))[3]["name"] == "4"


def test_too_many_in_a_row(clips: list[dict[str, Any]]) -> None:
    """A wrong drive ends the search soon, with the first clip and how many more were tried."""
    dataset = ReadableClips([clips[2], clips[3], clips[7], clips[0]], LoadClipd(4), max_tries=3)
    with pytest.raises(ClipError, match=r"/clips/2: .* The next 2 clips cannot be read either\.$"):
        dataset[0]
    assert dataset[1]["name"] == "0"
    with pytest.raises(ValueError, match=r"ReadableClips: max_tries is 0, allowed are 1 or more"):
        ReadableClips(clips, LoadClipd(4), max_tries=0)


def test_other_errors_are_errors(clips: list[dict[str, Any]]) -> None:
    """Only what is wrong with a clip is borne, not what is wrong with the transforms."""
    dataset = ReadableClips(clips, Compose([LoadClipd(4), NormalizeClipd("picture")]))
    with pytest.raises(RuntimeError, match="applying transform"):
        dataset[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_skips_nothing(clips: list[dict[str, Any]], num_workers: int) -> None:
    """MONAI's data set, which evaluations use, ends with an error that names the clip, with worker processes too."""
    loader = DataLoader(Dataset(clips, LoadClipd(4)), batch_size=2, num_workers=num_workers)
    with pytest.raises(RuntimeError) as raised:
        list(loader)
    assert f"{clips[2]['video']}: " in str(raised.value) + str(raised.value.__cause__)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_report(tmp_path: Path, clips: list[dict[str, Any]], caplog: Any, num_workers: int) -> None:
    """Every clip is logged once with its reason and stands in the table, whichever process met it and how often."""
    caplog.set_level(logging.WARNING, "cakes_video")
    report = UnreadableClips(max_share=0.3, path=tmp_path / "eval" / "unreadable.csv")
    train(clips, [EpochSeed(), report], epochs=3, num_workers=num_workers)
    broken = [clips[number]["video"] for number in BROKEN]
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("cakes_video")]
    assert sorted(message.split(": not used for training: ")[0] for message in messages) == broken
    with (tmp_path / "eval" / "unreadable.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == broken
    assert {f"{row['path']}: not used for training: {row['reason']}" for row in rows} == set(messages)


def test_too_large_a_share(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    """Above the share the training ends, and the error names a clip, the numbers and the table, which is written."""
    report = UnreadableClips(max_share=0.2, path=tmp_path / "unreadable.csv")
    message = (
        r"/clips/\d: .* 3 of 10 clips cannot be read, see .*/unreadable.csv; allowed is a share of 0.2 \(max_share\)"
    )
    with pytest.raises(ClipError, match=message) as raised:
        train(clips, [report])
    assert "\n" not in str(raised.value)
    assert len((tmp_path / "unreadable.csv").read_text().splitlines()) == 4


def test_nothing_to_report(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    """With sound clips a share of 0 is allowed, and an empty table replaces that of an earlier run."""
    (tmp_path / "unreadable.csv").write_text("path,reason\n/old,broken\n")
    good = [clip for number, clip in enumerate(clips) if number not in BROKEN]
    train(good, [UnreadableClips(0, tmp_path / "unreadable.csv")], epochs=1)
    assert (tmp_path / "unreadable.csv").read_text() == "path,reason\n"


def test_what_is_refused() -> None:
    """A share that is none, and batches of another data set, are errors."""
    with pytest.raises(ValueError, match=r"UnreadableClips: max_share is 1.5, allowed are 0 to 1"):
        UnreadableClips(1.5)
    engine = Engine(lambda engine, batch: None)
    logging.getLogger("ignite.engine.engine.Engine").setLevel(logging.CRITICAL)
    UnreadableClips().attach(engine)
    with pytest.raises(ValueError, match=r"the batch has no 'unreadable'; allowed: batches of ReadableClips"):
        engine.run([{"image": 0}])


def test_resumed_training_takes_the_same_clips(clips: list[dict[str, Any]]) -> None:
    """What stands in for unreadable clips is a function of seed and epoch: epoch 2 is the same after a resume."""

    def run(done: int) -> list[torch.Tensor]:
        images: list[torch.Tensor] = []
        engine = Engine(lambda engine, batch: images.append(batch["image"]))
        EpochSeed(3).attach(engine)
        engine.load_state_dict({"epoch": done, "max_epochs": 2, "epoch_length": 2})
        engine.run(DataLoader(ReadableClips(clips, RandLoadClipd(2)), batch_size=5, shuffle=True))
        return images

    whole, resumed = run(0), run(1)
    assert (len(whole), len(resumed)) == (4, 2)
    assert all(torch.equal(one, other) for one, other in zip(whole[2:], resumed, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(whole[:2], resumed, strict=True))


def run_rank(rank: int, folder: Path, clips: list[dict[str, Any]]) -> None:
    """One of two processes that see half of the clips each, twice."""
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logging.getLogger("cakes_video").addHandler(logging.FileHandler(folder / f"{rank}.log"))
    engine, report = Engine(lambda engine, batch: None), UnreadableClips(0.9, folder / "unreadable.csv")
    report.attach(engine)
    part = partition_dataset(clips, num_partitions=2)[rank]
    engine.run(DataLoader(ReadableClips(part, LoadClipd(2)), batch_size=5), max_epochs=2)
    dist.destroy_process_group()
    os._exit(0 if len(report.reasons) == 3 else 1)  # without what pytest does at the end of its process


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    """Both processes know what either met, the table has each clip once, and only the first process logs it."""
    context = multiprocessing.get_context("fork")  # importing MONAI twice more would take longer than all other tests
    ranks = [context.Process(target=run_rank, args=(rank, tmp_path, clips)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    broken = [clips[number]["video"] for number in BROKEN]
    with (tmp_path / "unreadable.csv").open() as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == broken
    logged = (tmp_path / "0.log").read_text().splitlines()
    assert sorted(line.split(": not used for training: ")[0] for line in logged) == broken
    assert (tmp_path / "1.log").read_text() == ""
