# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Either of the papers' learning rates by one option."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from cakes_monai.handlers.polynomial_learning_rate import PolynomialLearningRate
from cakes_monai.handlers.step_learning_rate import StepLearningRate

__all__ = ["learning_rate_schedule"]


def learning_rate_schedule(
    optimizer: Optimizer,
    initial_lr: float,
    steps: Sequence[int] = (),
    factor: float = 0.5,
    power: float = 0.9,
    warmup: int = 0,
    warmup_lr: float = 0.0,
) -> PolynomialLearningRate | StepLearningRate:
    """
    Make the handler of CAKES' polynomial learning rate or, with steps, of C2FNAS' piecewise constant one.

    Args:
        optimizer: what the learning rate is set of.
        initial_lr: learning rate at the beginning, after the warm-up.
        steps: iterations after which it is multiplied by ``factor``; none for the polynomial.
        factor: 0.5 in C2FNAS, section 4.1.
        power: of the polynomial, 0.9 in CAKES.
        warmup: iterations over which it rises linearly; 1000 in C2FNAS.
        warmup_lr: learning rate of the first iteration of the warm-up; 0.0025 in C2FNAS.

    Raises:
        ValueError: as the handlers.
    """
    if steps:
        return StepLearningRate(optimizer, initial_lr, steps, factor, warmup, warmup_lr, in_iterations=True)
    return PolynomialLearningRate(optimizer, initial_lr, power, warmup, warmup_lr)
