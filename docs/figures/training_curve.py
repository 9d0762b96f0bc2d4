# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Draw loss and validation Dice of a training from its TensorBoard files: ``training_curve.py eval curve.png``."""

from __future__ import annotations

from pathlib import Path

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cakes_monai.plots import save_figure


def points(folder: Path, tag: str) -> tuple[list[int], list[float]]:
    """Steps and values of one tag over all event files of a folder; of a repeated step the last one counts."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars(tag)}
    steps = sorted(found)
    return steps, [found[step] for step in steps]


def main(folder: Path, output: Path, dice: list[str] | None = None) -> None:
    """
    Draw the curve.

    Args:
        folder: output_dir of the training.
        output: the picture.
        dice: tags of the validation Dice.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps, losses = points(folder, "train_loss")
    window = max(1, len(losses) // 100)
    smooth = [
        sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1]) for i in range(len(losses))
    ]
    left.plot(steps, smooth, color="#0072B2")
    left.set(xlabel="iteration", ylabel=f"training loss, mean of {window}", yscale="log")
    for tag, color in zip(
        dice or ["anterior", "posterior", "val_mean_dice"], ("#56B4E9", "#E69F00", "#333333"), strict=False
    ):
        epochs, values = points(folder, tag)
        right.plot(epochs, values, color=color, marker="o", markersize=3, label=tag)
    right.set(xlabel="epoch", ylabel="Dice on the held-out fold")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, output)


if __name__ == "__main__":
    typer.run(main)
