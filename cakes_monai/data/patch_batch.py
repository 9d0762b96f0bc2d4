# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How many volumes a process reads for one step, when a batch is counted in patches over all processes."""

from __future__ import annotations

import ignite.distributed as idist

__all__ = ["volumes_per_process"]


def volumes_per_process(batch_size: int, patches_per_volume: int) -> int:
    """
    Volumes from which one process takes its part of a batch.

    Args:
        batch_size: patches of one step, over all processes (C2FNAS and CAKES: 8).
        patches_per_volume: patches that are cropped from a volume (C2FNAS: 2).

    Raises:
        ValueError: when the batch cannot be divided.

    Example:
        >>> volumes_per_process(8, 2)
        4
    """
    processes = idist.get_world_size()
    share = processes * patches_per_volume
    if batch_size < 1 or patches_per_volume < 1 or batch_size % share:
        raise ValueError(
            f"batch_size is {batch_size} patches; allowed are multiples of {share}: {patches_per_volume} from a "
            f"volume, {processes} process(es)."
        )
    return batch_size // share
