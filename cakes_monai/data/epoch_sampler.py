# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Epochs of one length, however many cases there are."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

import ignite.distributed as idist
import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

__all__ = ["EpochSampler"]


class EpochSampler(DistributedSampler[Any]):
    """
    Draw a fixed number of cases in every epoch: shuffled passes over the data set, the last one cut off.

    The papers count iterations. With this sampler 250 iterations are an epoch for 16 cases as for 400, so validation,
    log and checkpoint come in the same rhythm. The order is a function of seed and epoch, which MONAI's trainer sets
    as for any DistributedSampler; several processes draw different cases.

    Args:
        dataset: what is drawn from.
        num_samples: cases that each process draws in an epoch.
        seed: of the order.

    Raises:
        ValueError: for an empty data set, or fewer than one case.
    """

    def __init__(self, dataset: Dataset[Any], num_samples: int, seed: int = 0) -> None:
        super().__init__(dataset, idist.get_world_size(), idist.get_rank(), seed=seed)
        self.cases = len(cast(Sized, dataset))
        if not self.cases or num_samples < 1:
            raise ValueError(f"EpochSampler: {num_samples} samples of {self.cases} cases; allowed: at least 1 of each.")
        self.num_samples = num_samples
        self.total_size = num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        """Indices of this process's cases."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order: list[int] = []
        while len(order) < self.total_size:
            order += torch.randperm(self.cases, generator=generator).tolist()
        return iter(order[self.rank : self.total_size : self.num_replicas])
