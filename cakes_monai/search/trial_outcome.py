# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How one attempt at a trial ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Outcome", "one_line"]


@dataclass(frozen=True)
class Outcome:
    """
    How one attempt at a trial ended.

    Args:
        value: what the function returned; None when it failed.
        error: why it failed, in one line.
        lost: whether its process or machine was lost, rather than an exception raised.
    """

    value: dict[str, Any] | None = None
    error: str | None = None
    lost: bool = False


def one_line(error: BaseException) -> str:
    """Type and message of an exception in one line of at most 500 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 500 else text[:497] + "..."
