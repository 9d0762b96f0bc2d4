# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths are chosen by iteration, the same everywhere and after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from cakes_monai.handlers import OperationSampler
from cakes_monai.nets import C2FNASOperationSupernet, C2FNASSupernet
from cakes_monai.search import draw_candidates, draw_operations


def network() -> C2FNASOperationSupernet:
    """Three cells."""
    return C2FNASOperationSupernet(1, 2, [0, 1, 0], init_filters=2)


def chosen(supernet: C2FNASOperationSupernet) -> tuple[str, ...]:
    """What the cells compute, the same with each of their inputs."""
    paths = [{operation.chosen for operation in cell.operations} for cell in supernet.cells]
    assert all(len(names) == 1 for names in paths)
    return tuple(names.pop() for names in paths)


def test_a_resumed_training_chooses_what_the_killed_one_would_have() -> None:
    """Iteration 5 of a run that starts there has the path of iteration 5 of a run from the start, the drawn one."""

    def paths(first_epoch: int) -> list[tuple[str, ...]]:
        supernet, seen = network(), []
        engine = Engine(lambda engine, batch: seen.append(chosen(supernet)))
        OperationSampler(supernet, seed=7).attach(engine)
        engine.state.epoch, engine.state.iteration = first_epoch, first_epoch * 2
        engine.state.max_epochs, engine.state.epoch_length = 3, 2
        engine.run([0] * 2)
        return seen

    whole = paths(0)
    assert whole == [draw_operations(7, iteration, 3, ("2d", "3d", "p3d", "cakes")) for iteration in range(1, 7)]
    assert paths(2) == whole[4:]


def test_every_validation_has_the_same_path() -> None:
    """A random one of the seed; the training then goes on with drawn paths."""
    supernet, seen = network(), []
    validator = Engine(lambda engine, batch: seen.append(("validation", chosen(supernet))))
    trainer = Engine(lambda engine, batch: seen.append(("training", chosen(supernet))))
    OperationSampler(supernet, 3, validator).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0]))
    trainer.run([0], max_epochs=3)
    drawn = [draw_operations(3, iteration, 3, supernet.operations) for iteration in (1, 2, 3)]
    assert [path for kind, path in seen if kind == "training"] == drawn
    (same,) = draw_candidates(3, 1, 3, supernet.operations)
    assert [path for kind, path in seen if kind == "validation"] == [same] * 3


def test_another_network_is_refused() -> None:
    """A super-network of kernels has no operations to choose from."""
    with pytest.raises(ValueError, match="C2FNASSupernet has no operations to choose from; make a super-network"):
        OperationSampler(C2FNASSupernet(1, 2, [0], init_filters=2))


def test_distributed_training_needs_no_search_for_unused_parameters(tmp_path: Path) -> None:
    """DDP, which refuses an iteration after one in which a parameter took no part, trains path after path."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        parallel, paths = nn.parallel.DistributedDataParallel(network()), set()
        optimizer = torch.optim.SGD(parallel.parameters(), 0.1)

        def step(engine: Engine, batch: int) -> None:
            paths.add(chosen(parallel.module))
            optimizer.zero_grad()
            parallel(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
            assert all(parameter.grad is not None for parameter in parallel.parameters())
            optimizer.step()

        engine = Engine(step)
        OperationSampler(parallel, seed=0).attach(engine)
        engine.run([0] * 6)
    finally:
        dist.destroy_process_group()
    assert len(paths) > 1
