# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Epochs of one length in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.data import EpochSampler

CASES: Any = list(range(7))

SCRIPT = """
import json, sys
import torch.distributed as dist
from cakes_monai.data import EpochSampler

dist.init_process_group("gloo")
sampler = EpochSampler(list(range(7)), num_samples=10, seed=3)
sampler.set_epoch(2)
with open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w") as stream:
    json.dump(list(sampler), stream)
dist.destroy_process_group()
"""


def drawn(num_samples: int, epoch: int = 1, seed: int = 0) -> list[int]:
    """Cases of an epoch."""
    sampler = EpochSampler(CASES, num_samples, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == num_samples
    return list(sampler)


def test_every_case_is_drawn_as_often() -> None:
    """17 draws of 7 cases are two whole passes and three cases of a third."""
    order = drawn(17)
    assert sorted(order[:7]) == sorted(order[7:14]) == CASES
    assert len(set(order[14:])) == 3


def test_fewer_draws_than_cases() -> None:
    """An epoch may be shorter than a pass, no case comes twice then."""
    assert len(set(drawn(5))) == 5


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    """The same epoch is drawn the same again, others are not."""
    assert drawn(14) == drawn(14)
    assert len({tuple(drawn(14, epoch, seed)) for epoch in (1, 2) for seed in (0, 5)}) == 4


def test_two_processes_share_an_epoch(tmp_path: Path) -> None:
    """Each draws its number, and taken in turns they are the order of a single process that draws for both."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [*launch, str(tmp_path / "script.py"), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == len(second) == 10
    assert [case for pair in zip(first, second, strict=True) for case in pair] == drawn(20, epoch=2, seed=3)
    assert set(Counter(first + second).values()) == {2, 3}


@pytest.mark.parametrize(("cases", "num_samples"), [([], 3), (CASES, 0)])
def test_nothing_to_draw(cases: Any, num_samples: int) -> None:
    """An empty data set and an empty epoch are refused."""
    with pytest.raises(ValueError, match=f"{num_samples} samples of {len(cases)} cases; allowed: at least 1 of each"):
        EpochSampler(cases, num_samples)
