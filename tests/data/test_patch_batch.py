# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches that are counted in patches over all processes."""

from __future__ import annotations

import ignite.distributed as idist
import pytest

from cakes_monai.data import volumes_per_process


def test_the_papers_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 patches, two from a volume: four volumes on one GPU, one on each of four (CAKES)."""
    assert volumes_per_process(8, 2) == 4
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)
    assert volumes_per_process(8, 2) == 1


@pytest.mark.parametrize(("batch_size", "patches"), [(7, 2), (0, 2), (2, 4)])
def test_batches_that_cannot_be_divided(batch_size: int, patches: int) -> None:
    """The message says of what the batch must be a multiple."""
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size} patches; allowed are multiples of {patches}"):
        volumes_per_process(batch_size, patches)
