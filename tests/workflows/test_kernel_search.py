# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained super-network becomes an architecture that says where it comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from torch import nn
from torch.nn import functional as F

from cakes_monai.architecture import Architecture
from cakes_monai.blocks import SampledPaths, draw_paths, gate_magnitudes, path_operations
from cakes_monai.losses import GateLasso
from cakes_monai.nets import C2FNAS, C2FNASSupernet
from cakes_monai.workflows import derive_kernels, kernel_budget


def supernet(priority: str, sub_kernels="123d") -> C2FNASSupernet:
    """A super-network with random gates."""
    network = C2FNASSupernet(1, 2, [0, 1, 0], sub_kernels, priority, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for operation in path_operations(network).values():
            operation.gates.copy_(torch.randn(operation.gates.shape, generator=generator))
    return network


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_derivation_follows_the_gates_and_says_its_origin(priority: str, tmp_path) -> None:
    """Counts are those of the largest |gate| per channel; the file is read back unchanged and builds a network."""
    network = supernet(priority)
    found = derive_kernels(network, seed=3, data="sha256:1")
    found.architecture.save(tmp_path / "architecture.json")
    architecture = Architecture.load(tmp_path / "architecture.json")
    assert architecture == found.architecture
    origin = dict(architecture.origin)
    assert set(origin.pop("versions")) == {"cakes_monai", "torch", "monai"}
    assert origin == {
        "stage": "kernels",
        "priority": priority,
        "set": "123d",
        "rule": "argmax",
        "granularity": 1,
        "budget": None,
        "seed": 3,
        "data": "sha256:1",
    }
    counts = np.bincount(gate_magnitudes(network)["cells.1.operations.0"].argmax(0), minlength=7)
    split = architecture.cells[1].kernels[0].as_dict()
    assert list(split.values()) == counts[counts > 0].tolist()
    C2FNAS(1, 2, architecture, 4)


def test_rule_granularity_and_budget_are_kept(tmp_path) -> None:
    """All choices are in the origin, and the architecture meets the budget in multiples of the granularity."""
    network = supernet("cost", ["3x3x3", "1x3x3", "1x1x3"])
    budget = kernel_budget(network, 22_000, "params", (16, 16, 16))
    found = derive_kernels(network, "top_c", 4, budget)
    origin = found.architecture.origin
    assert (origin["rule"], origin["granularity"]) == ("top_c", 4)
    assert origin["set"] == ["3x3x3", "1x3x3", "1x1x3"]
    assert origin["budget"] == {"limit": 22_000, "unit": "params", "cost": found.ranking.cost}
    network = C2FNAS(1, 2, found.architecture, 4)
    assert sum(p.numel() for p in network.parameters()) == found.ranking.cost <= 22_000
    counts = [n for cell in found.architecture.cells for split in cell.kernels for _, n in split.counts]
    assert not any(n % 4 for n in counts)


def test_a_budget_in_milliseconds_is_met(tmp_path) -> None:
    """Measured once and kept; a limit between the cheapest and the unlimited choice is met by other splits."""
    network = supernet("cost", ["3x3x3", "1x1x3"])
    size, cache = (16, 16, 16), tmp_path / "latency.json"
    free = derive_kernels(network, budget=kernel_budget(network, 1e9, "ms", size, cache))
    costs = kernel_budget(network, 1, "ms", size, cache).costs
    least = sum(min(pair) * free.architecture.splits[name].out_channels for name, pair in costs.items())
    limit = (least + free.ranking.cost) / 2
    found = derive_kernels(network, budget=kernel_budget(network, limit, "ms", size, cache))
    assert found.ranking.cost <= limit < free.ranking.cost
    assert found.architecture.origin["budget"] == {"limit": limit, "unit": "ms", "cost": found.ranking.cost}


def test_the_lasso_finds_the_cheap_sub_kernels() -> None:
    """When the penalty is all there is, gates of 3x3x3 fall fastest and 1D remains."""
    torch.manual_seed(0)
    network = C2FNASSupernet(1, 2, [0], "123d", "cost", 4)
    loss = GateLasso(lambda prediction, target: 0 * prediction.sum(), network, weight=1.0)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss(network(torch.randn(1, 1, 8, 8, 8)), None).backward()
        optimizer.step()
    gates = gate_magnitudes(network)["cells.0.operations.0"]
    np.testing.assert_allclose(gates[0], 1 - 5 * 0.1 * 9 / 13, rtol=1e-5)
    np.testing.assert_allclose(gates[6], 1 - 5 * 0.1 * 1 / 13, rtol=1e-5)
    assert derive_kernels(network).architecture.cells[0].kernels[0].as_dict() == {"3x1x1": 8}


def test_paths_that_help_get_larger_gates() -> None:
    """The target is a 1x1x3 convolution of the input: trained on drawn paths, 1x1x3 has the largest gate everywhere."""
    torch.manual_seed(0)
    operation = SampledPaths(1, 8, ["3x1x1", "1x1x3"], ("INSTANCE", {"affine": True}), "RELU")
    kernel = torch.randn(8, 1, 1, 1, 3)
    optimizer = torch.optim.SGD(operation.parameters(), 0.5, momentum=0.9)
    for iteration in range(1, 81):
        draw_paths(nn.Sequential(operation), 0, iteration)
        x = torch.randn(2, 1, 6, 6, 6)
        target = F.instance_norm(F.conv3d(x, kernel, padding=(0, 0, 1))).relu()
        optimizer.zero_grad()
        ((operation(x) - target) ** 2).mean().backward()
        optimizer.step()
    gates = gate_magnitudes(nn.Sequential(operation))["0"]
    assert (gates[1] > 1.5 * gates[0]).all()


def test_monais_trainer_runs_the_search_from_a_config() -> None:
    """SupervisedTrainer, PathSampler and GateLasso as a bundle names them: all gates move, and eval works."""
    config = {
        "network": {
            "_target_": "cakes_monai.nets.C2FNASSupernet",
            "in_channels": 1,
            "out_channels": 2,
            "topology": [0, 0],
            "sub_kernels": "12d",
            "init_filters": 2,
            "norm": "BATCH",
        },
        "loss": {
            "_target_": "cakes_monai.losses.GateLasso",
            "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
            "network": "@network",
            "weight": 0.01,
            "beta": "flops",
            "input_shape": [1, 1, 8, 8, 8],
        },
        "sampler": {"_target_": "cakes_monai.handlers.PathSampler", "network": "@network", "seed": 5},
    }
    parser = ConfigParser(config)
    network = parser.get_parsed_content("network")
    before = gate_magnitudes(network)
    sizes = {"image": torch.randn(1, 8, 8, 8), "label": torch.randint(2, (1, 8, 8, 8))}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset([sizes] * 2), batch_size=1),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=parser.get_parsed_content("loss"),
        train_handlers=[parser.get_parsed_content("sampler")],
    )
    trainer.run()
    for name, gates in gate_magnitudes(network).items():
        assert (gates != before[name]).all()  # the lasso moves all of them, drawn or not
    assert torch.isfinite(network.eval()(sizes["image"][None])).all()


def test_other_networks_are_refused() -> None:
    """Only a super-network has something to derive."""
    with pytest.raises(ValueError, match="derived from a super-network, not from a C2FNAS"):
        derive_kernels(C2FNAS(1, 2, Architecture.published("c2fnas-3d"), 2))
