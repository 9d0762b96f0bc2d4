# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Costs of networks side by side with the figures that papers print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cakes_monai.cost import Cost

__all__ = ["cost_row", "cost_table"]


def cost_row(
    model: str,
    ours: Cost | None,
    source: str | None = None,
    paper_params_m: float | None = None,
    paper_flops_g: float | None = None,
) -> dict[str, Any]:
    """A row, with None for what is not known."""
    return {
        "model": model,
        "source": source,
        "params": ours and ours.params,
        "multiply_adds": ours and ours.multiply_adds,
        "paper_flops": ours and ours.paper_flops,
        "paper_params_m": paper_params_m,
        "paper_flops_g": paper_flops_g,
    }


def cost_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    width = max(len(row["model"]) for row in rows)
    head = f"{'':{width}}  {'params M':>9} {'mult-adds G':>12} {'FLOPs G':>9}   {'paper M':>8} {'paper G':>8}"
    lines = [head]
    for row in rows:
        cells = [
            _number(row["params"], 1e6, 9, 3),
            _number(row["multiply_adds"], 1e9, 12, 3),
            _number(row["paper_flops"], 1e9, 9, 3) + "  ",
            _number(row["paper_params_m"], 1, 8, 2),
            _number(row["paper_flops_g"], 1, 8, 2),
        ]
        lines.append(f"{row['model']:{width}}  {' '.join(cells)}  {row['source'] or ''}".rstrip())
    return "\n".join(lines)


def _number(value: float | None, unit: float, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value / unit:{width}.{digits}f}"
