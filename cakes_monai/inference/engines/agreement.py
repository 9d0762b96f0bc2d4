# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an engine's result is the network's."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["disagreement"]

_LARGEST_DIFFERENCE = 1e-3  # float32: of a logit, over the largest logit
_SAME_LABELS = 0.999  # float32: share of voxels
_RMS_DIFFERENCE = 0.05  # bfloat16: over the root mean square of the logits
_LEAST_DICE = 0.995  # bfloat16: of every class


def disagreement(result: Tensor, reference: Tensor, in_bfloat16: Tensor | None = None) -> str | None:
    """
    Say in one line what an engine computes wrongly, None when it agrees.

    In float32 no logit may be off by more than 1e-3 of the largest one, and 99.9 % of the labels must be the same. In
    bfloat16 the labels of every class must have a Dice of 0.995 and the difference a root mean square of 5 % of the
    logits', unless torch itself is further off in bfloat16: twice as far is allowed. A class that neither has agrees.

    Args:
        result: logits ``(N, C, ...)`` of the engine.
        reference: those of the eager network in float32.
        in_bfloat16: those of the eager network in bfloat16 when the engine may compute in it.
    """
    if result.shape != reference.shape:
        return f"its result is {tuple(result.shape)}, that of torch {tuple(reference.shape)}"
    if not torch.isfinite(result).all() and torch.isfinite(reference).all():
        return "its result is not finite"
    if in_bfloat16 is None:
        return _in_float32(result, reference)
    return _in_bfloat16(result, reference, in_bfloat16)


def _in_float32(result: Tensor, reference: Tensor) -> str | None:
    difference = _ratio((result - reference).abs().max(), reference.abs().max())
    same = (_labels(result) == _labels(reference)).double().mean().item()
    if not difference <= _LARGEST_DIFFERENCE:
        return f"a logit is off by {difference:.2g} of the largest one, allowed is {_LARGEST_DIFFERENCE:g}"
    if same < _SAME_LABELS:
        return f"{100 * same:.2f} % of the labels are those of torch, at least {100 * _SAME_LABELS:g} % must be"
    return None


def _in_bfloat16(result: Tensor, reference: Tensor, torchs: Tensor) -> str | None:
    allowed = max(_RMS_DIFFERENCE, 2 * _rms_difference(torchs, reference))
    difference = _rms_difference(result, reference)
    if not difference <= allowed:
        return f"the logits are off by {100 * difference:.1f} %, allowed is {100 * allowed:.1f} %"
    least = min(_LEAST_DICE, 2 * _smallest_dice(torchs, reference) - 1)
    dice = _smallest_dice(result, reference)
    return None if dice >= least else f"a class has Dice {dice:.4f} with that of torch, allowed is {least:.4f}"


def _labels(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def _rms_difference(result: Tensor, reference: Tensor) -> float:
    return _ratio((result - reference).double().square().mean().sqrt(), reference.double().square().mean().sqrt())


def _ratio(difference: Tensor, size: Tensor) -> float:
    return 0.0 if difference == 0 else (difference / size).item()


def _smallest_dice(result: Tensor, reference: Tensor) -> float:
    ours, theirs = _labels(result), _labels(reference)
    dice = [1.0]
    for label in range(max(2, result.shape[1])):
        one, other = ours == label, theirs == label
        if size := int(one.sum() + other.sum()):
            dice.append(2 * int((one & other).sum()) / size)
    return min(dice)
