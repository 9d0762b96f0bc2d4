# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A choice of operations is the operation that is chosen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from cakes_monai.architecture import OPERATIONS, SUB_KERNELS, KernelSplit
from cakes_monai.blocks import OperationChoice, SubKernelOperation

#: The convolutions of each operation on 8 channels; 8 = 2 + 1 + 1 + 1 + 1 + 1 + 1.
CONVOLUTIONS = {
    "2d": [{"3x3x1": 8}],
    "3d": [{"3x3x3": 8}],
    "p3d": [{"3x3x1": 8}, {"1x1x3": 8}],
    "cakes": [{name: 2 if name == "3x3x3" else 1 for name in SUB_KERNELS}],
}


def choice(norm="BATCH", operations=OPERATIONS) -> OperationChoice:
    """All operations on 8 channels, in float64."""
    torch.manual_seed(0)
    return OperationChoice(8, operations, norm, "RELU").double()


def image() -> Tensor:
    """Two random images of 8 channels."""
    return torch.randn(2, 8, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("norm", ["BATCH", ("INSTANCE", {"affine": True})], ids=str)
def test_it_is_the_chosen_operation(name: str, norm) -> None:
    """Output, gradients and running statistics are those of the operation alone, in training and in eval."""
    ours = choice(norm)
    splits = [KernelSplit.of(split) for split in CONVOLUTIONS[name]]
    alone = SubKernelOperation(8, splits, norm, "RELU").double()
    alone.load_state_dict(ours.choices[name].state_dict())
    ours.choose(name)
    for training in (True, False):
        ours.train(training), alone.train(training)
        torch.testing.assert_close(ours(image()), alone(image()), rtol=0, atol=0)
    ours.train()(image()).square().sum().backward()
    alone.train()(image()).square().sum().backward()
    for mine, other in zip(ours.choices[name].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)
    torch.testing.assert_close(ours.choices[name].state_dict(), alone.state_dict(), rtol=0, atol=0)


def test_the_others_have_gradients_of_zero() -> None:
    """Exactly zero and never None, also where a weight is infinite; their running statistics do not change."""
    ours = choice()
    with torch.no_grad():
        next(ours.choices["3d"].parameters()).fill_(float("inf"))
    before = copy.deepcopy(ours.state_dict())
    ours.choose("p3d")
    ours(image()).square().sum().backward()
    for name, operation in ours.choices.items():
        for parameter in operation.parameters():
            assert bool(parameter.grad.abs().sum() > 0) == (name == "p3d")
    changed = {key for key, value in ours.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"choices.p3d.adn.N.{s}" for s in ("running_mean", "running_var", "num_batches_tracked")}


def test_what_is_chosen_is_not_part_of_the_state() -> None:
    """The state names the operations, and another choice does not change it."""
    ours = choice()
    ours.choose("2d")
    assert {key.split(".")[1] for key in ours.state_dict()} == set(OPERATIONS)
    other = choice()
    other.load_state_dict(ours.state_dict())
    assert other.chosen is None


def test_errors_name_what_is_allowed() -> None:
    """No choice made, no choice of these, and operations that cannot be."""
    ours = choice(operations=("3d", "cakes"))
    with pytest.raises(ValueError, match=r"no operation is chosen; training needs .*OperationSampler"):
        ours(image())
    with pytest.raises(ValueError, match="operation 'p3d' is no choice, allowed are 3d, cakes"):
        ours.choose("p3d")
    for operations in ((), ("3d", "3d"), "3d"):
        with pytest.raises(ValueError, match="allowed are different ones of 2d, 3d, p3d, cakes"):
            choice(operations=operations)
    with pytest.raises(ValueError, match="unknown operation '4d', allowed are 2d, 3d, p3d, cakes"):
        choice(operations=("3d", "4d"))
