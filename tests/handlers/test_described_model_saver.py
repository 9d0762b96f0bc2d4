# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts that are written together with weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator

from cakes_monai.data import DecathlonTask
from cakes_monai.handlers import DescribedModelSaver

TASK = DecathlonTask("Spleen", ("CT",), ("background", "spleen"))


@pytest.fixture
def validator() -> SupervisedEvaluator:
    """An evaluator that is not run."""
    return SupervisedEvaluator("cpu", [torch.zeros(1)], torch.nn.Identity())


def saved(folder: Path, validator: SupervisedEvaluator, select: str) -> list[str]:
    """Names of what a training of one epoch without validation leaves, in the order of their making."""
    saver = DescribedModelSaver(
        folder / "model.pt", torch.nn.Linear(2, 2), validator, select, {"task.json": TASK, "note.txt": "of mine"}
    )
    trainer = Engine(lambda engine, batch: None)
    saver.attach(trainer)
    trainer.run([0], max_epochs=1)
    return sorted((path.name for path in folder.iterdir()), key=lambda name: (folder / name).stat().st_mtime_ns)


@pytest.mark.parametrize("select", ["best", "last"])
def test_texts_come_with_the_weights(tmp_path: Path, validator: SupervisedEvaluator, select: str) -> None:
    """All files lie there when the weights do, with their texts; a task's is what reads it again."""
    assert saved(tmp_path, validator, select) == ["task.json", "note.txt", "model.pt"]
    assert (tmp_path / "note.txt").read_text() == "of mine"
    assert DecathlonTask.load(tmp_path / "task.json") == TASK


def test_without_weights_there_are_no_texts(tmp_path: Path, validator: SupervisedEvaluator) -> None:
    """A training that breaks off before it has weights leaves the description of older ones alone."""
    (tmp_path / "task.json").write_text("older")
    saver = DescribedModelSaver(tmp_path / "model.pt", torch.nn.Linear(2, 2), validator, "last", {"task.json": TASK})
    trainer = Engine(lambda engine, batch: 1 // 0)
    saver.attach(trainer)
    with pytest.raises(ZeroDivisionError):
        trainer.run([0], max_epochs=1)
    assert (tmp_path / "task.json").read_text() == "older"
