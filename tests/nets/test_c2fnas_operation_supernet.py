# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The super-network of the fine stage is the C2FNAS network of the path that is chosen."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from cakes_monai.architecture import OPERATIONS, Topology
from cakes_monai.cost import c2fnas_cost
from cakes_monai.nets import C2FNAS, C2FNASOperationSupernet, operation_cells

LEVELS = (0, 1, 1, 0)  # cell 3 has two inputs
PATHS = [("2d", "3d", "p3d", "cakes"), ("cakes",) * 4, ("p3d", "p3d", "2d", "3d")]
NORMS = ["BATCH", ("INSTANCE", {"affine": True}), ("GROUP", {"num_groups": 2})]


def supernet(**options) -> C2FNASOperationSupernet:
    """A super-network in float64 in which no two numbers are equal."""
    torch.manual_seed(0)
    network = C2FNASOperationSupernet(1, 2, LEVELS, **({"init_filters": 4} | options)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return network


def image() -> Tensor:
    """Two random images that need padding."""
    return torch.randn(2, 1, 12, 8, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def derived(network: C2FNASOperationSupernet, path: tuple[str, ...], **options) -> C2FNAS:
    """The network of a path with its weights."""
    alone = C2FNAS(1, 2, network.derived(path), 4, **options).double()
    alone.load_state_dict(network.state_of(path))
    return alone


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("path", PATHS, ids="-".join)
def test_a_path_is_the_network_of_its_architecture(path: tuple[str, ...], norm) -> None:
    """With state_of() the C2FNAS network has the same output in training and eval, bit by bit."""
    network = supernet(norm=norm)
    alone = derived(network, path, norm=norm)
    network.choose(path)
    for training in (True, False):
        torch.testing.assert_close(network.train(training)(image()), alone.train(training)(image()), rtol=0, atol=0)
    torch.testing.assert_close(network.state_of(path), alone.state_dict(), rtol=0, atol=0)  # running statistics too


def test_a_path_is_trained_as_its_network_alone() -> None:
    """Gradients are those of the C2FNAS network; all parameters of other operations have gradients of zero."""
    network = supernet()
    alone = derived(network, PATHS[0])
    network.choose(PATHS[0])
    for one in (network, alone):
        one(image()).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in alone.named_parameters()}
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.grad)
    torch.testing.assert_close(network.state_of(PATHS[0]), expected, rtol=0, atol=0)
    for path in (("3d", "2d", "2d", "2d"), ("cakes", "cakes", "3d", "p3d")):  # no cell as in the first
        operations = [value for name, value in network.state_of(path).items() if ".operations." in name]
        assert operations
        assert not any(value.any() for value in operations)


def test_every_weight_belongs_to_a_path() -> None:
    """The paths of one operation everywhere share all but their operations, and together are the whole network."""
    network = supernet()
    total = sum(parameter.numel() for parameter in network.parameters())
    costs = [c2fnas_cost(network.derived((name,) * 4), 1, 2, 4) for name in OPERATIONS]
    shared = sum(layer.params for layer in costs[0].layers if ".operations." not in layer.name)
    assert total == sum(cost.params for cost in costs) - 3 * shared
    for cost, name in zip(costs, OPERATIONS, strict=True):
        assert sum(value.numel() for value in network.state_of((name,) * 4).values()) == cost.params


def test_settings_make_another_network_like_it() -> None:
    """Also after a way through JSON."""
    network = supernet(norm=("GROUP", {"num_groups": 2}), operations=("3d", "p3d"), dropout=0.5)
    other = C2FNASOperationSupernet(**json.loads(json.dumps(network.settings))).double()
    other.load_state_dict(network.state_dict())
    for one in (network.eval(), other.eval()):
        one.choose(("3d", "p3d", "3d", "3d"))
    assert torch.equal(network(image()), other(image()))
    assert [cell.dropout.p for cell in other.cells] == [0.5] * 4


def test_cells_of_operations() -> None:
    """Level 1 with 4 filters has 16 channels: 4 for 3x3x3, 2 for each of the others; both inputs are alike."""
    cells = operation_cells(Topology(LEVELS), ("2d", "p3d", "cakes", "cakes"), 4)
    assert [cell.operation for cell in cells] == ["2d", "p3d", "cakes", "cakes"]
    assert list(cells[2].kernels[0].as_dict().values()) == [4, 2, 2, 2, 2, 2, 2]
    assert len(cells[3].kernels) == 2
    assert cells[3].kernels[0] == cells[3].kernels[1]
    with pytest.raises(ValueError, match="the topology has 4 cells"):
        operation_cells(Topology(LEVELS), ("2d",), 4)


def test_errors_name_what_is_allowed() -> None:
    """A path of another length, with an operation that is no choice, or none at all."""
    network = supernet(operations=("2d", "3d", "p3d"))
    for method in (network.choose, network.derived, network.state_of):
        for path in (("2d",) * 3, ("2d", "2d", "2d", "cakes"), "2d3d"):
            with pytest.raises(ValueError, match="allowed is one of 2d, 3d, p3d for each of 4 cells"):
                method(path)
    with pytest.raises(ValueError, match="no operation is chosen"):
        network(image())
