# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Costs of any network are those of the closed form and of arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cakes_monai.architecture import Architecture
from cakes_monai.blocks import CakesConv
from cakes_monai.conversion import network_cost
from cakes_monai.cost import c2fnas_cost
from cakes_monai.nets import C2FNAS


@pytest.mark.parametrize("name", ["cakes-manual-123d", "c2fnas-panc"])
def test_c2fnas_costs_what_the_closed_form_says(name: str) -> None:
    """Parameters, multiply-adds and the papers' FLOPs agree to the last digit."""
    architecture = Architecture.published(name, 4)
    ours = network_cost(C2FNAS(1, 3, architecture, 4), (1, 1, 32, 48, 32))
    expected = c2fnas_cost(architecture, 1, 3, 4, (32, 48, 32))
    assert ours.params == expected.params
    assert ours.multiply_adds == expected.multiply_adds
    assert ours.paper_flops == expected.paper_flops


def test_layers_by_hand() -> None:
    """Every kind of layer, for an input of 4x4x4."""
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3, stride=2, padding=1, groups=2),  # 2x2x2 outputs of 27 taps on 1 channel
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.ConvTranspose3d(4, 3, 2, 2, bias=False),  # each of 4x2x2x2 inputs to 3 channels by 8 taps
        CakesConv(3, {"3x3x3": 1, "1x1x3": 2}),
        nn.Upsample(scale_factor=2.0),
        nn.Flatten(),
        nn.Linear(3 * 512, 5),
    )
    cost = network_cost(network, (7, 2, 4, 4, 4))
    counted = [(layer.name, layer.params, layer.multiply_adds, layer.elementwise) for layer in cost.layers]
    assert counted == [
        ("0", 4 * 27 + 4, 8 * 4 * 27, 8 * 4),
        ("1", 8, 0, 2 * 8 * 4),
        ("2", 0, 0, 8 * 4),
        ("3", 4 * 3 * 8, 4 * 8 * 3 * 8, 0),
        ("4", 3 * 27 + 2 * 3 * 3, 64 * 3 * (27 + 2 * 3), 0),
        ("5", 0, 0, 3 * 512),
        ("6", 0, 0, 0),
        ("7", 3 * 512 * 5 + 5, 3 * 512 * 5, 0),
    ]


def test_every_parameter_is_counted_once(network: nn.Module) -> None:
    """The total is that of torch, also for networks that hold parts under two names."""
    assert network_cost(network, (1, 1, 16, 16, 16)).params == sum(p.numel() for p in network.parameters())


def test_layers_that_run_twice_cost_twice() -> None:
    """A layer that is run twice has its parameters once and its multiply-adds twice."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(2, 2, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    cost = network_cost(Twice(), (1, 2, 2, 2, 2))
    assert (cost.params, cost.multiply_adds) == (108, 2 * 8 * 108)


def test_an_input_that_does_not_fit_is_named() -> None:
    """The error says which input which network does not take, and nothing is changed or computed."""
    network = nn.Sequential(nn.Conv3d(2, 2, 3)).train()
    with pytest.raises(
        ValueError, match=r"^Sequential does not take an input of 1x3x8x8x8 \(0 reads 2 channels, not 3\)\.$"
    ):
        network_cost(network, (1, 3, 8, 8, 8))
    with pytest.raises(
        ValueError, match=r"^Sequential does not take an input of 1x2x96x96x96 \(.*\); give an input_shape\.$"
    ):
        network_cost(nn.Sequential(nn.Conv3d(2, 2, 3), nn.Linear(1, 1)))
    with pytest.raises(ValueError, match=r"^Linear has no 3D convolution\.$"):
        network_cost(nn.Linear(1, 1))
    assert network.training
    assert not network[0]._forward_hooks
    assert network[0].weight.device == torch.device("cpu")
