# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The third stage of C2FNAS: the width of a network as a grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cakes_monai.architecture import Architecture
from cakes_monai.handlers.case_table import write_csv
from cakes_monai.plots import TradeOff, draw_trade_off, save_figure
from cakes_monai.search import WIDTH_MULTIPLIERS, CandidateList, Proposal, Proposer, Trial
from cakes_monai.workflows.trial_search import TrialSearch

__all__ = ["WidthSearch"]


class WidthSearch(TrialSearch):
    """
    Train an architecture with several widths (C2FNAS, section 5.3 and table 4).

    ``output_dir`` gets journal.jsonl, widths.csv, and the pictures params.png and flops.png while it runs. Splits of
    "cakes" cells are scaled in proportion.

    Args:
        architecture: architecture.json of the network, or the name of a published one.
        init_filters: filters of the first convolution that the multipliers are applied to.
        multipliers: 0.25 to 2.0 by 0.25 in the paper.
        arguments: of :class:`TrialSearch`.

    Raises:
        ValueError: when a multiplier leaves no whole number of filters.
    """

    kind = "width"

    def __init__(
        self,
        architecture: str | os.PathLike[str],
        init_filters: int,
        multipliers: Sequence[float] = WIDTH_MULTIPLIERS,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.found = Architecture.find(architecture, init_filters)
        self.init_filters, self.multipliers = init_filters, tuple(multipliers)
        for multiplier in self.multipliers:
            self.filters(multiplier)

    def filters(self, multiplier: float) -> int:
        """Filters of the first convolution."""
        filters = self.init_filters * multiplier
        if filters != int(filters) or filters < 1:
            raise ValueError(f"width {multiplier}: {self.init_filters} filters become {filters}, no whole number.")
        return int(filters)

    def proposer(self, trials: Sequence[Trial]) -> Proposer:
        """The list of multipliers."""
        return CandidateList(self.multipliers, trials)

    def limit(self, proposer: Proposer) -> int | None:
        """Number of multipliers."""
        return len(self.multipliers)

    def architecture(self, proposal: Proposal) -> Architecture:
        """The architecture with the splits of this width."""
        return self.found.scaled(self.filters(float(proposal.candidate)))  # type: ignore[arg-type]  # a multiplier

    def trial_options(self, proposal: Proposal) -> dict[str, Any]:
        """The width of the trial."""
        return {"init_filters": self.filters(float(proposal.candidate))}  # type: ignore[arg-type]  # a multiplier

    def report(self, proposer: Proposer) -> None:
        """Write the table and the pictures."""
        finished = [trial for trial in self.journal_trials if trial.score is not None]
        if not finished:
            return
        names = ["width", "init_filters", "score", "params", "paper_flops", "seconds"]
        rows = [_row(trial, self.filters(float(trial.proposal.candidate))) for trial in finished]  # type: ignore[arg-type]
        write_csv(self.output_dir / "widths.csv", names, rows)
        for name, unit, title in (("params", 1e6, "parameters (M)"), ("paper_flops", 1e9, "FLOPs (G)")):
            points = [TradeOff(f"x{row['width']}", row[name] / unit, row["score"]) for row in rows]
            picture = self.output_dir / f"{name.removeprefix('paper_')}.png"
            save_figure(draw_trade_off(points, title, "validation score"), picture)


def _row(trial: Trial, filters: int) -> dict[str, Any]:
    details = trial.details
    return {
        "width": trial.proposal.candidate,
        "init_filters": filters,
        "score": trial.score,
        "params": details["params"],
        "paper_flops": details["paper_flops"],
        "seconds": trial.seconds,
    }
