# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The penalty on gates, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cakes_monai.architecture import Topology
from cakes_monai.blocks import SampledPaths, path_operations
from cakes_monai.losses import GateLasso, gate_betas, gate_penalty
from cakes_monai.nets import C2FNAS, C2FNASSupernet
from cakes_monai.search import c2fnas_path_layers, cost_betas, manual_architecture


def supernet(priority: str = "cost", levels=(0,), sub_kernels="123d", init_filters: int = 2) -> C2FNASSupernet:
    """A small super-network."""
    torch.manual_seed(0)
    return C2FNASSupernet(1, 2, levels, sub_kernels, priority, init_filters)


@pytest.mark.parametrize("priority", ["cost", "performance"])
def test_penalty_by_hand(priority: str) -> None:
    """Sum of beta * |alpha|: 4 channels of gates -2 (3D), 1 (2D) and 3 (1D), and its gradient beta * sign(alpha)."""
    network = supernet(priority)
    (operation,) = path_operations(network).values()
    with torch.no_grad():
        operation.gates.copy_(torch.tensor([-2.0, 1, 1, 1, 3, 3, 3])[:, None].expand(7, 4))
    penalty = gate_penalty(network)
    assert penalty.item() == pytest.approx(4 * (2 * 9 + 3 * 1 * 3 + 3 * 3 * 1) / 13)
    penalty.backward()
    gates = operation.adn.N.weight if priority == "cost" else operation.norm.norm.weight
    expected = torch.tensor([-9.0, 3, 3, 3, 1, 1, 1])[:, None].expand(7, 4) / 13
    torch.testing.assert_close(gates.grad.view(7, 4), expected)


def test_shared_gates_count_once() -> None:
    """An operation that is used twice has one set of gates."""
    operation = SampledPaths(4, 4, "1d", "BATCH", "RELU")
    network = nn.Sequential(operation, operation)
    assert gate_penalty(network, gate_betas(network)).item() == 12  # 3 sub-kernels x 4 channels, beta 1


def test_loss_is_the_given_one_plus_lambda_times_penalty() -> None:
    """The weights of the network do not become the loss's; float32 also under autocast."""
    network = supernet()
    loss = GateLasso(nn.MSELoss(), network, weight=0.5)
    a, b = torch.tensor([1.0]), torch.tensor([3.0])
    penalty = gate_penalty(network, gate_betas(network))
    torch.testing.assert_close(loss(a, b), 4 + 0.5 * penalty)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = gate_penalty(network, gate_betas(network))
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, penalty)


def test_flops_follow_the_real_shapes() -> None:
    """Half the size and twice the channels of a level: a quarter of the multiply-adds, so a quarter of the beta."""
    network = supernet(levels=(0, 1, 0))
    betas = gate_betas(network, "flops", (1, 1, 16, 24, 16))
    layers = c2fnas_path_layers(Topology((0, 1, 0)), "123d", 2, (16, 24, 16))
    assert betas == cost_betas(layers, {name: layer.multiply_adds for name, layer in layers.items()})
    fine, coarse = betas["cells.0.operations.0"], betas["cells.1.operations.0"]
    assert fine == pytest.approx([4 * beta for beta in coarse])
    assert fine[0] == pytest.approx(9 * fine[6])


def test_latency_is_measured_once(tmp_path: Path) -> None:
    """The second loss takes its betas from the cache, so a resumed search has the same loss."""
    network = supernet(init_filters=8)
    cache = tmp_path / "latency.json"
    first = GateLasso(nn.MSELoss(), network, beta="latency", input_shape=(1, 1, 16, 16, 16), latency_cache=cache)
    written = cache.read_bytes()
    again = GateLasso(nn.MSELoss(), network, beta="latency", input_shape=(1, 1, 16, 16, 16), latency_cache=cache)
    assert first.betas == again.betas
    assert cache.read_bytes() == written
    betas = first.betas["cells.0.operations.0"]
    assert min(betas) > 0
    assert betas[0] + sum(betas[1:4]) / 3 + sum(betas[4:]) / 3 == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1e-4}, r"weight -0.0001 of the penalty \(lambda\) must be at least 0"),
        ({"weight": float("nan")}, "weight nan of the penalty"),
        ({"beta": "energy"}, "unknown beta 'energy', allowed are params, flops, latency"),
        ({"beta": "flops"}, r"beta 'flops' depends on the input_shape \(N, C, D, H, W\), which is not given"),
        ({"beta": {"cells.0.operations.0": (1, 2)}}, r"cells.0.operations.0: betas \(1, 2\), there must be 7"),
    ],
)
def test_what_is_refused(options, message: str) -> None:
    """What is wrong is said, with what is allowed."""
    with pytest.raises(ValueError, match=message):
        GateLasso(nn.MSELoss(), supernet(), **options)


def test_a_network_without_paths_is_refused() -> None:
    """A derived network has no gates to penalise."""
    with pytest.raises(ValueError, match="C2FNAS has no convolutions with candidate sub-kernels"):
        GateLasso(nn.MSELoss(), C2FNAS(1, 2, manual_architecture("1d", init_filters=4), 4))
