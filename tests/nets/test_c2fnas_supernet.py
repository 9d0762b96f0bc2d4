# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The super-network is the C2FNAS network of the paths that run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cakes_monai.architecture import SUB_KERNELS, Topology
from cakes_monai.blocks import draw_paths, gate_magnitudes, keep_paths, path_operations
from cakes_monai.nets import C2FNAS, C2FNASSupernet
from cakes_monai.search import rank_kernels

LEVELS = (0, 0, 1, 0)


def supernet(priority: str = "performance", sub_kernels="123d", **options) -> C2FNASSupernet:
    """A super-network with gates that differ from path to path and are the same for both inputs of a cell."""
    torch.manual_seed(0)
    network = C2FNASSupernet(1, 2, LEVELS, sub_kernels, priority, 4, **options)
    with torch.no_grad():
        for operation in path_operations(network).values():
            shape = operation.gates.shape
            operation.gates.copy_(torch.rand(shape, generator=torch.Generator().manual_seed(shape[1])) - 0.5)
    return network.double()


def image() -> Tensor:
    """A random image that needs padding."""
    return torch.randn(1, 1, 12, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def with_weights_of(network: C2FNASSupernet, derived: C2FNAS) -> C2FNAS:
    """Copy all weights; the channels of a cell's operations come in another order, so its 1x1x1 is permuted."""
    state, target = network.state_dict(), derived.state_dict()
    for name in target:
        if ".operations." not in name:
            target[name] = state[name]
    for layer, operation in path_operations(network).items():
        paths = operation.gates.abs().argmax(0)
        order = torch.argsort(paths, stable=True)
        for path, kernel in enumerate(SUB_KERNELS):
            if (paths == path).any():
                weight = operation.conv.sub_kernels[kernel].weight[paths == path]
                target[f"{layer}.convs.0.sub_kernels.{kernel}.weight"] = weight
        target[f"{layer}.adn.N.weight"] = operation.gates[paths[order], order]
        target[f"{layer}.adn.N.bias"] = operation.norm.norm.bias[paths[order], order]
        post = f"{layer.split('.operations')[0]}.postprocessing.conv.weight"
        target[post] = state[post][:, order]
    derived.load_state_dict(target)
    return derived


def test_eval_is_the_derived_network() -> None:
    """With the weights copied, the C2FNAS network of the derived architecture gives the same output."""
    network = supernet().eval()
    ranking = rank_kernels(gate_magnitudes(network), SUB_KERNELS)
    derived = C2FNAS(1, 2, network.derived(ranking.splits), 4).double().eval()
    torch.testing.assert_close(with_weights_of(network, derived)(image()), network(image()))
    keep_paths(network, {name: layer.channels for name, layer in ranking.layers.items()})
    torch.testing.assert_close(derived(image()), network(image()))


def test_a_set_of_one_is_the_plain_network() -> None:
    """With 3x3x3 alone both super-networks are the 3D network, with its state but for the shape of norms and names."""
    torch.manual_seed(0)
    plain = C2FNAS(1, 2, {"format": 1, "topology": {"levels": [0]}, "cells": [{"operation": "3d"}]}, 4)
    for priority in ("performance", "cost"):
        torch.manual_seed(0)
        network = C2FNASSupernet(1, 2, [0], "3d", priority, 4)
        if priority == "performance":
            draw_paths(network, 0, 1)
        x = image().float()
        torch.testing.assert_close(network(x), plain(x))


def test_draws_are_a_function_of_seed_and_iteration() -> None:
    """The same again, another for another seed or iteration, and different from layer to layer."""

    def drawn(seed: int, iteration: int) -> list[Tensor]:
        network = supernet()
        draw_paths(network, seed, iteration)
        return [operation.drawn for operation in path_operations(network).values()]

    assert all(torch.equal(a, b) for a, b in zip(drawn(1, 5), drawn(1, 5), strict=True))
    for seed, iteration in ((1, 6), (2, 5), (5, 1)):
        assert not all(torch.equal(a, b) for a, b in zip(drawn(1, 5), drawn(seed, iteration), strict=True))
    layers = drawn(1, 5)
    assert not torch.equal(layers[0], layers[1])


def test_every_parameter_has_a_gradient() -> None:
    """DistributedDataParallel needs no search for unused parameters, also when a sub-kernel is not drawn at all."""
    network = supernet()
    draw_paths(network, 0, 1)
    counts = [count for operation in path_operations(network).values() for count in operation.drawn_counts]
    assert 0 in counts
    network(image()).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_cost_priority_aggregates_all_paths() -> None:
    """The 1x1x1 convolution of a cell reads 7 C channels, twice summed before where a cell has two inputs."""
    network = supernet("cost")
    assert network.cells[1].postprocessing.conv.weight.shape[:2] == (8, 56)
    assert [len(cell.operations) for cell in network.cells] == [1, 2, 1, 2]
    network(image()).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_kept_paths_of_cost_priority() -> None:
    """Eval with the kept paths is eval with the gates and shifts of all others set to zero (ReLU of 0 is 0)."""
    network = supernet("cost").eval()
    ranking = rank_kernels(gate_magnitudes(network), SUB_KERNELS, "top_c")
    keep_paths(network, {name: layer.channels for name, layer in ranking.layers.items()})
    kept = network(image())
    keep_paths(network, None)
    assert (network(image()) - kept).abs().max() > 1e-3
    with torch.no_grad():
        for name, operation in path_operations(network).items():
            mask = torch.zeros(7, operation.channels)
            for kernel, channels in ranking.layers[name].channels.items():
                mask[SUB_KERNELS.index(kernel), list(channels)] = 1
            operation.adn.N.weight *= mask.flatten()
            operation.adn.N.bias *= mask.flatten()
    torch.testing.assert_close(network(image()), kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "speed"}, "unknown priority 'speed', allowed are performance, cost"),
        ({"sub_kernels": "1,2d"}, "unknown set '1,2d', allowed are 1d, 2d"),
        ({"sub_kernels": ["3x3x3", "5x5x5"]}, "unknown sub-kernel '5x5x5'"),
        ({"norm": "INSTANCE"}, "norm 'INSTANCE' has no scale for each channel"),
        ({"topology": [1]}, "the last cell is at level 1"),
    ],
)
def test_what_is_refused(options, message: str) -> None:
    """What is wrong is said, with what is allowed."""
    with pytest.raises(ValueError, match=message):
        C2FNASSupernet(**{"in_channels": 1, "out_channels": 2, "topology": Topology((0,)), **options})


def test_kept_paths_are_given_for_every_layer() -> None:
    """A missing layer is named."""
    with pytest.raises(ValueError, match=r"no paths to keep are given for cells\.0\.operations\.0, cells\.1"):
        keep_paths(supernet(), {})


def test_nothing_to_draw() -> None:
    """Cost priority draws no paths, and a derived network has none."""
    with pytest.raises(ValueError, match="computes all its paths"):
        draw_paths(supernet("cost"), 0, 1)
    with pytest.raises(ValueError, match="Linear has no convolutions with candidate sub-kernels"):
        draw_paths(torch.nn.Linear(1, 1), 0, 1)
