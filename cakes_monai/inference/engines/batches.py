# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of any size for what was built for one size."""

from __future__ import annotations

import torch
from torch import Tensor

from cakes_monai.inference.engines.engine import Run

__all__ = ["FixedBatch"]


class FixedBatch:
    """
    Run batches of any size in parts of one size; the last part is filled up with copies of its last item.

    Args:
        run: takes ``size`` items at a time, none of which has a say in the result of another.
        size: items that it takes.
    """

    def __init__(self, run: Run, size: int) -> None:
        self.run = run
        self.size = size

    def __call__(self, x: Tensor) -> Tensor:
        """Results of all items, float32."""
        results = [self.run(self._filled(part))[: len(part)] for part in x.split(self.size)]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _filled(self, part: Tensor) -> Tensor:
        absent = self.size - len(part)
        return torch.cat([part, *[part[-1:]] * absent]) if absent else part
