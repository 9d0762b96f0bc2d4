# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds of consecutive cases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["check_fold", "cut_fold"]

SECTIONS = ("training", "validation")
Case = TypeVar("Case")


def check_fold(caller: str, section: str, fold: int, num_folds: int) -> None:
    """
    Refuse a section or fold that does not exist, before any data are looked at.

    Args:
        caller: name of the function that was called, for the message.
        section: "training" or "validation".
        fold: the part that is validated on, 0 to ``num_folds - 1``.
        num_folds: number of parts.

    Raises:
        ValueError: as said above, and for fewer than two parts.
    """
    if section not in SECTIONS:
        raise ValueError(f"{caller}: section is {section!r}, allowed are {' and '.join(SECTIONS)}.")
    if num_folds < 2:
        raise ValueError(f"{caller}: num_folds is {num_folds}, allowed are 2 or more.")
    if fold not in range(num_folds):
        raise ValueError(f"{caller}: fold is {fold!r}, allowed are 0 to {num_folds - 1}.")


def cut_fold(
    dataset_dir: str | os.PathLike[str], cases: Sequence[Case], section: str, fold: int, num_folds: int
) -> list[Case]:
    """
    Cut cases into parts of consecutive ones; sizes differ by one at most, larger parts come first.

    Args:
        dataset_dir: where the cases are from, for the message.
        cases: all cases, in their order.
        section: "validation" takes the part ``fold``, "training" all others.
        fold: the part that is validated on.
        num_folds: number of parts.

    Raises:
        ValueError: when there are fewer cases than parts.
    """
    if len(cases) < num_folds:
        raise ValueError(f"{dataset_dir}: {len(cases)} training cases, allowed are {num_folds} (num_folds) or more.")
    validation = np.array_split(np.arange(len(cases)), num_folds)[fold]
    return [case for index, case in enumerate(cases) if (index in validation) == (section == "validation")]
