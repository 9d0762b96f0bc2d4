# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths are drawn by iteration, the same everywhere and after a resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from ignite.engine import Engine

from cakes_monai.blocks import path_operations
from cakes_monai.handlers import PathSampler
from cakes_monai.nets import C2FNASSupernet

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from cakes_monai.blocks import draw_paths, path_operations
from cakes_monai.losses import GateLasso
from cakes_monai.nets import C2FNASSupernet

dist.init_process_group("gloo")
for priority in ("performance", "cost"):
    torch.manual_seed(dist.get_rank())  # DDP shares rank 0's weights; what is drawn must not depend on the seed
    network = C2FNASSupernet(1, 2, [0], "123d", priority, 2, norm="BATCH")
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    loss = GateLasso(torch.nn.MSELoss(), parallel, 0.1)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1, momentum=0.9)
    drawn = []
    for iteration in range(1, 4):
        if priority == "performance":
            draw_paths(parallel, 0, iteration)
            drawn += [operation.drawn for operation in path_operations(parallel).values()]
        optimizer.zero_grad()
        output = parallel(torch.randn(1, 1, 8, 8, 8))
        loss(output, torch.zeros_like(output)).backward()
        optimizer.step()
    gates = [operation.gates.detach().clone() for operation in path_operations(parallel).values()]
    torch.save({"drawn": drawn, "gates": gates}, f"{sys.argv[1]}/{priority}{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


def test_a_resumed_training_draws_what_the_killed_one_would_have() -> None:
    """Iteration 5 of a run that starts there has the paths of iteration 5 of a run from the start."""

    def drawn(first_epoch: int, iterations: int) -> list[torch.Tensor]:
        network, seen = C2FNASSupernet(1, 2, [0], init_filters=2), []
        (operation,) = path_operations(network).values()
        engine = Engine(lambda engine, batch: seen.append(operation.drawn))
        PathSampler(network, seed=7).attach(engine)
        engine.state.epoch, engine.state.iteration = first_epoch, first_epoch * 2
        engine.state.max_epochs, engine.state.epoch_length = 3, 2
        engine.run([0] * 2)
        return seen[:iterations]

    assert all(torch.equal(a, b) for a, b in zip(drawn(0, 6)[4:], drawn(2, 2), strict=True))


def test_two_processes_draw_the_same_and_stay_the_same(tmp_path: Path) -> None:
    """DDP without a search for unused parameters: same draws and gates on both ranks, whatever their own seeds."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, str(tmp_path / "script.py"), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for priority in ("performance", "cost"):
        first, second = (torch.load(tmp_path / f"{priority}{rank}.pt", weights_only=True) for rank in (0, 1))
        for name in ("drawn", "gates"):
            assert all(torch.equal(a, b) for a, b in zip(first[name], second[name], strict=True)), name
