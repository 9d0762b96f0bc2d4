# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A data loader whose worker processes start clean and quickly, and end with the training."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.context import BaseContext
from typing import Any

from monai.data import DataLoader, Dataset
from monai.data.utils import worker_init_fn

__all__ = ["ClipDataLoader"]

PRELOAD = ["monai.bundle", "cakes_video.clip_transforms", "cakes_video.readable_clips"]


class ClipDataLoader(DataLoader):
    """
    MONAI's data loader with workers that are safe beside threads, new for every epoch, and never left behind.

    A plain fork takes over locks that threads of torch and FFmpeg hold. Here workers are forked from a server process
    without threads, which has imported once what they need (where there is no such server they are spawned). So new
    workers for every epoch, whose random numbers depend on that epoch alone, cost next to nothing; persistent ones
    would go on with the numbers of the epoch before, and a resumed training would differ from the whole one.

    Args:
        dataset: data set with a length, for example of :class:`~cakes_video.readable_clips.ReadableClips`.
        num_workers: number of workers; 0 loads in the process itself.
        kwargs: other arguments of MONAI's data loader.
    """

    def __init__(self, dataset: Dataset, num_workers: int = 0, **kwargs: Any) -> None:
        if num_workers > 0:
            kwargs = {"multiprocessing_context": _context(), "worker_init_fn": _start_worker, **kwargs}
        super().__init__(dataset, num_workers, **kwargs)


def _context() -> BaseContext:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(PRELOAD)
    return context


def _start_worker(worker_id: int) -> None:
    """Seed as MONAI does, and end when the training is killed: torch looks at the server, which outlives it."""
    worker_init_fn(worker_id)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
