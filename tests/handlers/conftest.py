# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Three cases with metrics one can compute by hand, and their evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, LoadImaged

from cakes_monai.handlers import SpacedMetric

SPACING = (1.0, 2.0, 3.0)


class OneHot(torch.nn.Module):
    """Network whose prediction is the image itself: grey value n becomes label n."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(x == label).float() for label in range(3)], 1)


def save(folder: Path, case: str, pred: np.ndarray, label: np.ndarray) -> dict[str, str]:
    """Write a prediction as the image, and its label."""
    folder.mkdir(parents=True, exist_ok=True)
    item = {"image": str(folder / f"{case}.nii.gz"), "label": str(folder / f"{case}_label.nii.gz")}
    for key, values in (("image", pred), ("label", label)):
        nib.save(nib.Nifti1Image(values.astype(np.uint8), np.diag([*SPACING, 1.0])), item[key])
    return item


def block(head: slice, tail: slice | None) -> np.ndarray:
    """Label map of two bars along the first axis, 2 x 2 voxels thick."""
    labels = np.zeros((16, 10, 10), np.uint8)
    labels[head, 2:4, 2:4] = 1
    if tail is not None:
        labels[tail, 6:8, 6:8] = 2
    return labels


def write_cases(folder: Path) -> list[dict[str, str]]:
    """
    Write three cases with Dice one can compute by hand.

    Case a: head 8 of 8 and tail 8 of 8 planes. Case b: head predicted 4..12, truth 2..10, 6 of 8 planes in common:
    Dice 0.75; tail right. Case c: head predicted 8..12, truth 0..4: Dice 0; tail neither predicted nor there: NaN.
    """
    right, eight = block(slice(2, 10), slice(2, 10)), slice(2, 10)
    return [
        save(folder, "b", block(slice(4, 12), eight), right),
        save(folder, "a", right, right),
        save(folder, "c", block(slice(8, 12), None), block(slice(0, 4), None)),
    ]


def evaluate_cases(items: list[dict[str, str]], report: Any, **options: Any) -> SupervisedEvaluator:
    """Run an evaluator as an evaluation bundle does, with Dice, HD95 and surface Dice at 2 mm."""
    pair = from_engine(["pred", "label"])
    load = Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])])
    post = Compose([AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items, load), batch_size=options.pop("batch_size", 2)),
        network=OneHot(),
        postprocessing=post,
        key_val_metric={"val_mean_dice": MeanDice(include_background=False, output_transform=pair)},
        additional_metrics={
            "val_hd95": SpacedMetric(HausdorffDistanceMetric(percentile=95), output_transform=pair),
            "val_surface_dice": SpacedMetric(SurfaceDiceMetric([2.0, 2.0]), output_transform=pair),
        },
        val_handlers=[report],
        **options,
    )
    evaluator.run()
    return evaluator


@pytest.fixture
def three_cases(tmp_path: Path) -> list[dict[str, str]]:
    """Files of the three cases in the folder "data"."""
    return write_cases(tmp_path / "data")


@pytest.fixture
def evaluate() -> Callable[..., SupervisedEvaluator]:
    """Runs an evaluator over cases with a report: ``evaluate(cases, report, **options)``."""
    return evaluate_cases
