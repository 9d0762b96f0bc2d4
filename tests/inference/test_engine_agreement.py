# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""When an engine's result counts as the network's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cakes_monai.inference.engines import disagreement


def logits(*labels: int, classes: int = 3) -> Tensor:
    """Logits 1 for the label of each voxel and 0 for the others."""
    return torch.nn.functional.one_hot(torch.tensor([labels]), classes).movedim(2, 1).float()


def test_float32() -> None:
    """A logit may be off by a thousandth of the largest; a label in a thousand may be another one."""
    reference = logits(*[0, 1] * 1000)
    assert disagreement(reference, reference) is None
    assert disagreement(reference + 0.9e-3, reference) is None
    message = r"a logit is off by 0.0011 of the largest one, allowed is 0.001"
    assert disagreement(reference + 1.1e-3, reference) == message
    near = reference.clone()
    near[0, :2, :10] = torch.tensor([[0.5], [0.4999]])  # the first ten voxels are on the border
    over = near.clone()
    over[0, 0, :2] -= 2e-4
    assert disagreement(over, near) is None
    over[0, 0, :3] = 0.4997
    assert disagreement(over, near) == "99.85 % of the labels are those of torch, at least 99.9 % must be"


def test_bfloat16() -> None:
    """Every class needs a Dice of 0.995."""
    reference = logits(*[1] * 300, *[0] * 700)
    reference[0, 0, :300] = 0.99
    near = reference.clone()
    near[0, 0, :2] = 1.01  # 298 of 300 voxels: Dice 596 / 598
    assert disagreement(near, reference, reference) is None
    near[0, 0, :4] = 1.01
    message = f"a class has Dice {592 / 596:.4f} with that of torch, allowed is 0.9950"
    assert disagreement(near, reference, reference) == message
    assert disagreement(1.1 * reference, reference, reference) == "the logits are off by 10.0 %, allowed is 5.0 %"


def test_bfloat16_is_judged_by_that_of_torch() -> None:
    """Where bfloat16 itself costs labels, an engine may cost twice as many."""
    values = torch.linspace(-1, 1, 1000)
    reference = torch.stack([torch.zeros(1000), values])[None]
    moved = {shift: reference + torch.tensor([0.0, shift])[None, :, None] for shift in (0.008, 0.012, 0.02)}
    assert disagreement(moved[0.012], reference, reference) is not None
    assert disagreement(moved[0.012], reference, moved[0.008]) is None
    assert disagreement(moved[0.02], reference, moved[0.008]) is not None


@pytest.mark.parametrize("reduced", [False, True])
def test_numbers_that_are_none(reduced: bool) -> None:
    """NaN, infinity and other shapes disagree in both types, zeros agree with zeros."""
    reference = logits(0, 1)
    others = (reference,) if reduced else ()
    assert "not finite" in str(disagreement(reference * float("nan"), reference, *others))
    assert "not finite" in str(disagreement(reference / 0, reference, *others))
    assert "its result is (1, 2, 2)" in str(disagreement(reference[:, :2], reference, *others))
    zeros = torch.zeros(1, 3, 4)
    assert disagreement(zeros, zeros, *((zeros,) if reduced else ())) is None


def test_one_channel() -> None:
    """A single logit says by its sign what the voxel is."""
    reference = torch.tensor([[[1.0, -1.0, 1e-4, 1.0]]])
    assert disagreement(reference, reference) is None
    assert "75.00 % of the labels" in str(disagreement(reference - 2e-4, reference))
