# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Small runs of the bundles, whole or killed, what they leave, and the small CTs and clips that they are run on."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from cakes_monai.architecture import Architecture
from cakes_video.architectures import video_architecture

#: Makes a run in a folder; options override the config.
RunMaker = Callable[..., "Run"]

#: Starts processes that have already imported what a run needs.
PROCESSES = multiprocessing.get_context("forkserver")

SMALL = {
    "init_filters": 4,
    "patch_size": [32, 32, 16],
    "max_epochs": 4,
    "val_interval": 1,
    "batch_size": 1,
    "learning_rate": 0.1,
}

SMALL_CT = {
    "architecture": "cakes-manual-123d",
    "init_filters": 4,
    "patch_size": [32, 32, 32],
    "stride": 32,
    "max_epochs": 4,
    "val_interval": 2,
    "batch_size": 2,
    "learning_rate": 0.1,
    "rotate90_prob": 0.2,
    "num_workers": 0,
    "amp": False,
}

SMALL_VIDEO = {
    "crop": [],
    "num_frames": 4,
    "short_side": 32,
    "size": 32,
    "width": 4,
    "max_epochs": 25,
    "warmup_epochs": 1,
    "val_interval": 1,
    "batch_size": 3,
    "val_batch_size": 2,
    "num_workers": 0,
}

#: Classes of the small clips: pixels down and right by which a square moves from frame to frame.
MOVES = {"upwards": (-2, 0), "from left to right": (0, 3), "from right to left": (0, -3)}


class Run:
    """A small training or search of a bundle in a folder of its own; options override the config."""

    def __init__(self, bundle: Path, folder: Path, file: str, options: dict[str, Any]) -> None:
        self.bundle, self.folder, self.file = bundle, folder, file
        self.options = {"bundle_root": str(bundle), "output_dir": str(folder / "eval")}
        if file == "train.json":
            self.options["ckpt_dir"] = str(folder / "models")
        self.options |= options

    def here(self, *overlays: str) -> None:
        """Run in this process."""
        workflow = ConfigWorkflow(
            config_file=[str(self.bundle / "configs" / name) for name in (self.file, *overlays)],
            meta_file=str(self.bundle / "configs" / "metadata.json"),
            logging_file=False,
            **self.options,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    def command(self, *overlays: str) -> list[str]:
        """Arguments of python that do the same."""
        paths = [str(self.bundle / "configs" / name) for name in (self.file, *overlays)]
        options = [f"--{name}={value}" for name, value in self.options.items()]
        return ["-m", "monai.bundle", "run", "--config_file", str(paths), *options]

    def killed(self, seconds: float = 0.2) -> None:
        """Run in another process and kill it, so many seconds after it has written a checkpoint."""
        files, before = [str(self.bundle / "configs" / self.file)], self._last_written()
        process = PROCESSES.Process(target=monai.bundle.run, kwargs={"config_file": files, **self.options})
        process.start()
        deadline = time.monotonic() + 900
        while self._last_written() == before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        process.join()
        assert 1 <= self.checkpoint["epoch"] < self.options["max_epochs"], "the kill came too late to show anything"

    def _last_written(self) -> int:
        return self.checkpoint_file.stat().st_mtime_ns if self.checkpoint_file.exists() else 0

    def on_two_processes(self, *overlays: str) -> None:
        """Run with torchrun and gloo."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, *self.command(*overlays)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr[-3000:]

    def on_two_ranks(self, *overlays: str) -> list[int | None]:
        """Run as torchrun does, with gloo, but in processes that have imported everything; their exit codes."""
        files = [str(self.bundle / "configs" / name) for name in (self.file, *overlays)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            told = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
        code = "import os, monai.bundle; os.environ.update(told); monai.bundle.run(config_file=files, **options)"
        processes = []
        for rank in ("0", "1"):
            given = {"told": told | {"RANK": rank, "LOCAL_RANK": rank}, "files": files, "options": self.options}
            processes.append(PROCESSES.Process(target=exec, args=(code, given)))
            processes[-1].start()
        for process in processes:
            process.join(300)
        return [process.exitcode for process in processes]

    def messages(self, *overlays: str) -> str:
        """All messages of the error that the run ends with: MONAI puts its own on top of the cause."""
        with pytest.raises(RuntimeError) as error:
            self.here(*overlays)
        messages: list[str] = []
        cause: BaseException | None = error.value
        while cause is not None:
            messages.append(str(cause))
            cause = cause.__cause__
        return "\n".join(messages)

    @property
    def checkpoint_file(self) -> Path:
        """Where the state after each epoch is."""
        return self.folder / "eval" / ("checkpoint.pt" if self.file == "train.json" else "search_checkpoint.pt")

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The state after the last epoch."""
        return torch.load(self.checkpoint_file, weights_only=True)

    @property
    def model(self) -> dict[str, torch.Tensor]:
        """The weights that were chosen."""
        return torch.load(self.folder / "models" / "model.pt", weights_only=True)


def assert_same(ours: Any, theirs: Any, place: str = "") -> None:
    """Equal to the last bit, at any depth."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), place
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), place
        for key in ours:
            assert_same(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(ours, list):
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{place}.{number}")
    else:
        assert ours == theirs, place


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Any, Any], None]:
    """Compares two states bit by bit."""
    return assert_same


@pytest.fixture(scope="session")
def make_run() -> type[Run]:
    """Makes a run of any bundle."""
    return Run


@pytest.fixture(scope="session")
def small_training(bundle: Path, small_task: Path, tmp_path_factory: pytest.TempPathFactory) -> RunMaker:
    """Makes a small training of the hippocampus bundle."""
    architecture = tmp_path_factory.mktemp("small") / "architecture.json"
    Architecture.published("cakes-manual-123d", 4).save(architecture)

    def make(folder: Path, task: Path = small_task, **options: Any) -> Run:
        options = {"architecture": str(architecture), **options}
        return Run(bundle, folder, "train.json", SMALL | {"dataset_dir": str(task)} | options)

    return make


@pytest.fixture(scope="session")
def small_search(bundle: Path, small_task: Path) -> RunMaker:
    """Makes a small kernel search of the hippocampus bundle."""

    def make(folder: Path, task: Path = small_task, **options: Any) -> Run:
        return Run(bundle, folder, "search.json", SMALL | {"dataset_dir": str(task)} | options)

    return make


@pytest.fixture(scope="session")
def pancreas_bundle(repository: Path) -> Path:
    """The bundle for the pancreas in CT."""
    return repository / "bundles" / "pancreas_ct_c2fnas_cakes"


@pytest.fixture(scope="session")
def ct_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decathlon task of ten small CTs as task 7 is: 16 bit HU, thick slices, axes other than RAS, organ and lump."""
    folder = tmp_path_factory.mktemp("Task07_Pancreas")
    cases = []
    for number in range(10):
        image, label = made_ct(number)
        case = {"image": f"./imagesTr/pancreas_{number:03}.nii.gz", "label": f"./labelsTr/pancreas_{number:03}.nii.gz"}
        for key, voxels in (("image", image), ("label", label)):
            (folder / case[key]).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, CT_AFFINE), folder / case[key])
        cases.append(case)
    labels = {"0": "background", "1": "pancreas", "2": "cancer"}
    content = {"name": "Pancreas", "labels": labels, "modality": {"0": "CT"}, "numTraining": 10, "training": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


#: Axes to the left, to the back and up (LPS), voxels of 0.8 x 0.8 x 2.5 mm.
CT_AFFINE = np.array([[-0.8, 0, 0, 31], [0, -0.8, 0, -12], [0, 0, 2.5, 104], [0, 0, 0, 1.0]])


def made_ct(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Air, a body of fat, in it an organ with a lump: HU in 16 bits, and the labels 0, 1 and 2."""
    generator = np.random.default_rng(number)
    shape = (50, 48, 16)  # about 40 mm along each axis
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    body = (places[:2] ** 2).sum(0) < 0.9
    center = generator.uniform(-0.2, 0.2, 3)[:, None, None, None]
    organ = (((places - center) / np.array([0.7, 0.65, 0.7])[:, None, None, None]) ** 2).sum(0) < 1
    lump = (((places - center - 0.1) / 0.4) ** 2).sum(0) < 1
    label = (organ.astype(np.uint8) + (organ & lump)).astype(np.uint8)
    image = np.where(body, -80, -1000) + np.array([0, 250, 120])[label]
    return (image + generator.normal(0, 15, shape)).astype(np.int16), label


@pytest.fixture(scope="session")
def ct_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where small runs on CT keep their preprocessed volumes."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ct_training(pancreas_bundle: Path, ct_task: Path, ct_cache: Path) -> RunMaker:
    """Makes a small run of a config of the pancreas bundle, by default a training."""

    def make(folder: Path, task: Path = ct_task, file: str = "train.json", **options: Any) -> Run:
        given = SMALL_CT | {"dataset_dir": str(task), "cache_dir": str(ct_cache)} | options
        return Run(pancreas_bundle, folder, file, given)

    return make


@pytest.fixture(scope="session")
def trained_ct(ct_training: RunMaker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small training on CT that ran from beginning to end."""
    run = ct_training(tmp_path_factory.mktemp("trained_ct"))
    run.here()
    return run


@pytest.fixture(scope="session")
def video_bundle(repository: Path) -> Path:
    """The bundle for recognition in videos."""
    return repository / "bundles" / "video_cakes_resnet50"


@pytest.fixture(scope="session")
def video_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists and clips of 12 frames in which a bright square moves up, right or left: 9 for training, 5 held out."""
    pytest.importorskip("av", reason="videos are read with PyAV: pip install cakes-monai[video]")
    folder = tmp_path_factory.mktemp("moving")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in MOVES))
    generator = np.random.default_rng(0)
    for part, count in (("training", 9), ("validation", 5)):
        lines = ["path,label"]
        for number in range(count):
            move = list(MOVES)[number % 3]
            write_clip(folder / "clips" / f"{part}_{number}.mp4", moving_square(*MOVES[move], generator))
            lines.append(f"{part}_{number}.mp4,{move}")
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


def moving_square(down: int, right: int, generator: np.random.Generator) -> np.ndarray:
    """Frames ``(12, 32, 48, 3)`` in which a square moves by so many pixels a frame, from wherever there is room."""
    frames = generator.integers(0, 10, (12, 32, 48, 3)).astype(np.uint8)
    top, left = (generator.integers(8, 15) if step == 0 else 22 if step < 0 else 0 for step in (down, right))
    left += 15 * (right < 0)
    for number, frame in enumerate(frames):
        row, column = top + number * down, left + number * right
        frame[max(0, row) : row + 10, max(0, column) : column + 10] = generator.integers(180, 256, 3)
    return frames


@pytest.fixture(scope="session")
def make_clip() -> Callable[[Path, str], Path]:
    """Writes another clip of one of the moves, the same for the same name."""

    def make(path: Path, move: str) -> Path:
        write_clip(path, moving_square(*MOVES[move], np.random.default_rng(list(path.name.encode()))))
        return path

    return make


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Write frames as a video whose container and codec the suffix tells."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        h264 = ("libx264", {"preset": "ultrafast"})  # others look ahead, and at so few pixels not always the same
        codec, options = ("libvpx", {}) if path.suffix == ".webm" else h264
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def of_task(task: Path) -> dict[str, Any]:
    """Options of a small run on the clips and lists in a folder."""
    lists = {"train_list": "training.csv", "val_list": "validation.csv", "classes": "classes.txt"}
    return SMALL_VIDEO | {option: str(task / name) for option, name in {"dataset_dir": "clips", **lists}.items()}


@pytest.fixture(scope="session")
def video_training(video_bundle: Path, video_task: Path, tmp_path_factory: pytest.TempPathFactory) -> RunMaker:
    """Makes a small training of the bundle for videos: half of the channels in space, half in time."""
    architecture = tmp_path_factory.mktemp("small") / "architecture.json"
    video_architecture("manual-12d", "resnet18", 4).save(architecture)

    def make(folder: Path, task: Path = video_task, **options: Any) -> Run:
        return Run(video_bundle, folder, "train.json", of_task(task) | {"architecture": str(architecture)} | options)

    return make


@pytest.fixture(scope="session")
def trained_video(video_training: RunMaker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small training on videos that ran from beginning to end."""
    run = video_training(tmp_path_factory.mktemp("trained"))
    run.here()
    return run


@pytest.fixture(scope="session")
def video_search(video_bundle: Path, video_task: Path) -> RunMaker:
    """Makes a small kernel search of the bundle for videos."""

    def make(folder: Path, task: Path = video_task, **options: Any) -> Run:
        return Run(video_bundle, folder, "search.json", of_task(task) | {"backbone": "resnet18"} | options)

    return make
