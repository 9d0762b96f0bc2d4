# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Logits and labels of a trainer's output as Ignite's metrics take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["logits_and_labels"]


def logits_and_labels(output: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """
    Put together what MONAI's engines take apart: an Ignite metric wants the tensors of the whole batch.

    Args:
        output: an engine's output, decollated, with the keys pred and label.

    Example:
        >>> ignite.metrics.Accuracy(output_transform=logits_and_labels)

    Shapes:
        - pred: ``(num_classes,)`` of each item, ``(N, num_classes)`` of all
        - label: ``()`` of each item, ``(N,)`` of all
    """
    preds, labels = ([torch.as_tensor(item[key]) for item in output] for key in ("pred", "label"))
    return torch.stack(preds), torch.stack(labels)
