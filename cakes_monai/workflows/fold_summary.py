# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the folds of a cross-validation add up to: over all cases, and over the folds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from cakes_monai.handlers.case_table import write_csv

__all__ = ["FoldSummary"]


@dataclass(frozen=True)
class FoldSummary:
    """
    The cases of all folds, and statistics of every metric and structure.

    A case without a finite value (the structure is absent) is counted as left out. The standard deviation is that of
    the population; with one fold there is none.

    Args:
        cases: rows of all folds' cases.csv, with the fold in front.
        rows: one for each metric and structure: over the cases of all folds ``average_of_cases``, ``max_of_cases`` and
            ``min_of_cases`` (the columns of CAKES, table 2); over the folds' means ``mean_of_folds`` and
            ``std_of_folds``; and each of these means, ``fold_<k>``.
    """

    cases: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, folders: Mapping[int, Path]) -> FoldSummary:
        """
        Read what :class:`~cakes_monai.handlers.CaseReport` wrote.

        Args:
            folders: the results of each fold.

        Raises:
            ValueError: when a file is missing, the folds have other columns, or a case is in two of them.
        """
        names: list[tuple[str, str]] = []
        cases: list[dict[str, Any]] = []
        for fold, folder in sorted(folders.items()):
            found = [(row["metric"], row["structure"]) for row in _read(folder / "summary.csv")]
            if names and found != names:
                raise ValueError(f"{folder / 'summary.csv'}: has {found}; allowed is what other folds have, {names}.")
            names = found
            cases += [{"fold": fold, **row} for row in _read(folder / "cases.csv")]
        _check_once(cases)
        return cls(tuple(cases), tuple(_row(metric, structure, cases, list(folders)) for metric, structure in names))

    @property
    def folds(self) -> list[int]:
        """The folds that are in it."""
        return sorted({case["fold"] for case in self.cases})

    def save(self, folder: Path) -> None:
        """Write cases.csv and summary.csv, each whole or not at all."""
        if self.cases:
            write_csv(folder / "cases.csv", list(self.cases[0]), self.cases)
            write_csv(folder / "summary.csv", list(self.rows[0]), self.rows)

    def table(self) -> str:
        """The statistics for a terminal."""
        heads = ["average", "max", "min", "left out", "mean", "std", *(f"fold {fold}" for fold in self.folds)]
        names = ["_of_cases", "_of_cases", "_of_cases", "", "_of_folds", "_of_folds", *([""] * len(self.folds))]
        columns = [head.replace(" ", "_") + name for head, name in zip(heads, names, strict=True)]
        width = max((len(_name(row)) for row in self.rows), default=0)
        over = f"{f'over all {len(self.cases)} cases':^36}  {f'over the means of {len(self.folds)} folds':^18}"
        lines = [f"{'':{width}}  {over}".rstrip(), f"{'':{width}}" + "".join(f"{head:>9}" for head in heads)]
        for row in self.rows:
            lines.append(f"{_name(row):{width}}" + "".join(f"{_number(row[column]):>9}" for column in columns))
        return "\n".join(lines)


def _row(metric: str, structure: str, cases: Sequence[Mapping[str, Any]], folds: Sequence[int]) -> dict[str, Any]:
    column = f"{metric} {structure}"
    values = {fold: _finite(case[column] for case in cases if case["fold"] == fold) for fold in sorted(folds)}
    every = [value for found in values.values() for value in found]
    means = {fold: fmean(found) if found else None for fold, found in values.items()}
    known = [mean for mean in means.values() if mean is not None]
    return {
        "metric": metric,
        "structure": structure,
        "cases": len(cases),
        "left_out": len(cases) - len(every),
        "average_of_cases": _rounded(fmean(every) if every else None),
        "max_of_cases": _rounded(max(every, default=None)),
        "min_of_cases": _rounded(min(every, default=None)),
        "folds": len(known),
        "mean_of_folds": _rounded(fmean(known) if known else None),
        "std_of_folds": _rounded(pstdev(known) if len(known) > 1 else None),
        **{f"fold_{fold}": _rounded(mean) for fold, mean in means.items()},
    }


def _finite(texts: Any) -> list[float]:
    return [value for value in map(float, texts) if math.isfinite(value)]


def _rounded(value: float | None) -> float | None:
    """Six digits, as in the tables of the folds."""
    return None if value is None else float(f"{value:.6g}")


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['metric']} {row['structure']}"


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); evaluate the fold again.") from error


def _check_once(cases: Sequence[Mapping[str, Any]]) -> None:
    """Folds hold out different cases: one that is in two of them was trained on where it was measured."""
    seen: dict[str, int] = {}
    for case in cases:
        if seen.setdefault(case["file"], case["fold"]) != case["fold"]:
            raise ValueError(f"{case['file']}: is held out in folds {seen[case['file']]} and {case['fold']}.")
