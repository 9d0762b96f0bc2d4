# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Small runs of the hippocampus bundle, whole or killed, and what they leave."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from cakes_monai.architecture import Architecture

#: Makes a run in a folder; options override the config.
RunMaker = Callable[..., "Run"]


class Run:
    """A small training or search in a folder of its own."""

    def __init__(self, bundle: Path, task: Path, folder: Path, file: str, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.bundle, self.folder, self.file = bundle, folder, file
        self.options = {
            "bundle_root": str(bundle),
            "dataset_dir": str(task),
            "output_dir": str(folder / "eval"),
            "init_filters": 4,
            "patch_size": [32, 32, 16],
            "max_epochs": 4,
            "val_interval": 1,
            "batch_size": 1,
            "learning_rate": 0.1,
        }
        if file == "train.json":
            Architecture.published("cakes-manual-123d", 4).save(folder / "architecture.json")
            self.options |= {"ckpt_dir": str(folder / "models"), "architecture": str(folder / "architecture.json")}
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
        """Run in another process and kill it, so many seconds after its first checkpoint."""
        process = subprocess.Popen(
            [sys.executable, *self.command()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while not self.checkpoint_file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert 1 <= self.checkpoint["epoch"] < self.options["max_epochs"], "the kill came too late to show anything"

    def messages(self) -> str:
        """All messages of the error that the run ends with: MONAI puts its own on top of the cause."""
        with pytest.raises(RuntimeError) as error:
            self.here()
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
def small_training(bundle: Path, small_task: Path) -> RunMaker:
    """Makes a small training of the bundle."""

    def make(folder: Path, task: Path = small_task, **options: Any) -> Run:
        return Run(bundle, task, folder, "train.json", **options)

    return make


@pytest.fixture(scope="session")
def small_search(bundle: Path, small_task: Path) -> RunMaker:
    """Makes a small kernel search of the bundle."""

    def make(folder: Path, task: Path = small_task, **options: Any) -> Run:
        return Run(bundle, task, folder, "search.json", **options)

    return make
