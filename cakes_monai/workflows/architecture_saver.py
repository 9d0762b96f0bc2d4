# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What makes the training of a super-network a search: its current architecture is validated, the last one written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from cakes_monai.blocks import gate_magnitudes, keep_paths
from cakes_monai.plots import save_figure
from cakes_monai.plots.architecture_figures import draw_gates, draw_splits
from cakes_monai.search import KernelDerivation, split_summary
from cakes_monai.workflows.kernel_search import derive_kernels, kernel_budget

__all__ = ["ArchitectureSaver"]

logger = logging.getLogger(__name__)


class ArchitectureSaver:
    """
    Validate a CAKES super-network as the architecture that its gates say, and write the architecture at the end.

    At the end of the training ``output_dir`` has architecture.json (what train.json reads), kernels.json (which channel
    kept which sub-kernel, totals as in the papers' appendix), architecture.png (CAKES, figures 4 and 5) and gates.png.

    Args:
        network: the super-network.
        output_dir: folder to write to.
        validator: validates the derived paths only. With cost priority the other paths are set to zero; with rule
            "top_c" a super-network of performance priority is validated by rule "argmax".
        rule: "argmax" (CAKES, equation 9) or "top_c" (the authors' code).
        granularity: every sub-kernel gets a multiple of this many channels.
        budget: ``{"limit": ..., "unit": "params" | "multiply_adds" | "paper_flops" | "ms", "size": [D, H, W]}``, see
            :func:`kernel_budget`, or None.
        seed: seed of the search, for the origin.
        data: fingerprint of the data, for the origin.

    Raises:
        ValueError: at once, for an unknown rule, a granularity that does not divide a layer, or a budget no split can
            meet.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | os.PathLike[str],
        validator: Evaluator,
        rule: str = "argmax",
        granularity: int = 1,
        budget: Mapping[str, Any] | None = None,
        seed: int | None = None,
        data: str | None = None,
    ) -> None:
        bare: Any = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.network = bare
        self.output_dir = Path(output_dir)
        self.validator = validator
        self.rule, self.granularity = rule, granularity
        self.budget = None if budget is None else kernel_budget(bare, **budget, cache=self.output_dir / "latency.json")
        self.seed, self.data = seed, data
        self.derive()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer and with the validator."""
        self.validator.add_event_handler(Events.STARTED, self._keep_derived)
        self.validator.add_event_handler(Events.COMPLETED, self._keep_all)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write what was found."""
        if idist.get_rank() != 0:
            return
        found = self.derive()
        found.architecture.save(self.output_dir / "architecture.json")
        found.save(self.output_dir / "kernels.json")
        save_figure(draw_splits(found.architecture), self.output_dir / "architecture.png")
        gates = draw_gates(gate_magnitudes(self.network), self.network.sub_kernels)
        save_figure(gates, self.output_dir / "gates.png")
        logger.info(
            "Found, in %s:\n%s", self.output_dir / "architecture.json", split_summary(found.architecture).table()
        )

    def derive(self) -> KernelDerivation:
        """The architecture that the gates say now."""
        return derive_kernels(self.network, self.rule, self.granularity, self.budget, self.seed, self.data)

    def _keep_derived(self, engine: Engine) -> None:
        if self.network.priority == "cost" or self.rule == "argmax":
            layers = self.derive().ranking.layers
            keep_paths(self.network, {name: kept.channels for name, kept in layers.items()})

    def _keep_all(self, engine: Engine) -> None:
        keep_paths(self.network, None)
