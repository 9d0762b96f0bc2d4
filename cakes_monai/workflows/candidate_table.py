# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The candidates of the fine stage in the order of their scores, as JSON, table and picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cakes_monai.atomic_file import written_whole
from cakes_monai.cost import c2fnas_cost
from cakes_monai.nets import C2FNASOperationSupernet
from cakes_monai.plots import save_figure
from cakes_monai.plots.candidate_figures import draw_candidate_scores
from cakes_monai.search import Trial

__all__ = ["CandidateTable"]


@dataclass(frozen=True)
class CandidateTable:
    """
    Candidates with their scores and costs.

    Args:
        head: what is said of all of them.
        rows: one for each candidate, the best first, of equal ones the first drawn; failed ones, which have neither
            rank nor score, last.
    """

    head: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(
        cls,
        network: C2FNASOperationSupernet,
        candidates: Sequence[tuple[str, ...]],
        ended: Mapping[tuple[str, ...], Trial],
        class_names: Sequence[str],
        size: Sequence[int],
    ) -> CandidateTable:
        """
        The table of ``candidates``.

        Args:
            network: the super-network.
            candidates: the operations of each, as they were drawn.
            ended: their trials.
            class_names: what the Dice in a trial's details belong to.
            size: input along D, H and W for which multiply-adds are counted.
        """
        head = {
            "topology": list(network.topology.levels),
            "operations": list(network.operations),
            "in_channels": network.in_channels,
            "out_channels": network.out_channels,
            "init_filters": network.init_filters,
            "size": list(size),
        }
        scores = [ended[candidate].score for candidate in candidates]
        order = sorted(range(len(scores)), key=lambda index: _descending(scores[index]))
        rows = (
            {"rank": rank if scores[index] is not None else None, "index": index}
            | _result(ended[candidates[index]], class_names)
            | _cost(network, candidates[index], size)
            for rank, index in enumerate(order, 1)
        )
        return cls(head, tuple(rows))

    @property
    def scores(self) -> list[float]:
        """Scores from the best to the worst, of the candidates that have one."""
        return [row["score"] for row in self.rows if row["score"] is not None]

    def save(self, folder: Path) -> None:
        """Write candidates.json, candidates.csv and candidates.png, each whole or not at all."""
        lines = ",\n  ".join(json.dumps(row) for row in self.rows)
        head = "".join(f' "{name}": {json.dumps(value)},\n' for name, value in self.head.items())
        with written_whole(folder / "candidates.json") as temporary:
            temporary.write_text(f'{{\n{head} "candidates": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
        with (
            written_whole(folder / "candidates.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            self._write_csv(file)
        save_figure(draw_candidate_scores(self.scores, "mean Dice"), folder / "candidates.png")

    def _write_csv(self, file: Any) -> None:
        names = list(self.rows[0]["dice"])  # the best, which has them
        columns = ["rank", "index", "score", *names, "params", "multiply_adds", "operations", "failure"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({**row, **row["dice"], "operations": " ".join(row["operations"])})


def _descending(score: float | None) -> float:
    return float("inf") if score is None else -score


def _result(trial: Trial, class_names: Sequence[str]) -> dict[str, Any]:
    failure = trial.failures[-1] if trial.score is None else None
    dice = dict(zip(class_names, trial.details.get("dice", ()), strict=False))
    return {"score": trial.score, "failure": failure, "dice": dice}


def _cost(network: C2FNASOperationSupernet, operations: Sequence[str], size: Sequence[int]) -> dict[str, Any]:
    channels = network.in_channels, network.out_channels, network.init_filters
    cost = c2fnas_cost(network.derived(operations), *channels, size)
    return {"params": cost.params, "multiply_adds": cost.multiply_adds, "operations": list(operations)}
