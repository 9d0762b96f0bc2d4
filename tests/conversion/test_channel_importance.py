# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The importance of a channel is what the network's output loses with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cakes_monai.conversion import shrink
from cakes_monai.conversion.channel_importance import channel_importance


def test_channels_of_a_weighted_sum() -> None:
    """With the output 3 a - 2 b + 0 c of channels a, b, c: 9, 4 and 0 times their variance, in each of 64 voxels."""
    torch.manual_seed(0)
    layer, end = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 1, 1)
    with torch.no_grad():
        end.weight.copy_(torch.tensor([3.0, -2.0, 0.0]).view(1, 3, 1, 1, 1))
    volumes = [torch.randn(1, 1, 4, 4, 4) for _ in range(2)]
    variances = sum(layer(volume).detach().double().var((0, 2, 3, 4), correction=0) for volume in volumes)
    found = channel_importance(nn.Sequential(layer, end), {"0": layer}, volumes)
    np.testing.assert_allclose(found["0"], 64 * variances.numpy() * [9, 4, 0], rtol=1e-5)


def test_what_a_norm_takes_away_does_not_count() -> None:
    """Channels of another scale are as important where an instance norm follows them."""
    torch.manual_seed(0)
    layer = nn.Conv3d(1, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight[1] = 10 * layer.weight[0]
    network = nn.Sequential(layer, nn.InstanceNorm3d(2, eps=1e-12), nn.ReLU(), nn.Conv3d(2, 1, 1))
    nn.init.ones_(network[3].weight)
    first, second = channel_importance(network, {"0": layer}, [torch.randn(1, 1, 6, 6, 6)])["0"]
    assert first > 0
    assert second == pytest.approx(first, rel=1e-3)


def test_the_estimate_of_many_outputs() -> None:
    """With 8 outputs of weights w the estimate is near the variance times the sum of w^2."""
    torch.manual_seed(0)
    layer, end = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 8, 1)
    volume = torch.randn(1, 1, 12, 12, 12)
    found = channel_importance(nn.Sequential(layer, nn.Identity(), end), {"0": layer}, [volume])["0"]
    variance = layer(volume).detach().var((0, 2, 3, 4), correction=0)
    expected = 12**3 * variance * end.weight.detach().flatten(1).square().sum(0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0.15)


def test_the_network_is_as_before() -> None:
    """Nothing that works in place, frozen weights or gradients that were there are in the way, and no hook is left."""
    layer, last = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 1, 1)
    network = nn.Sequential(layer, nn.ReLU(inplace=True), nn.Dropout(0.5), last).train().requires_grad_(False)
    state = torch.get_rng_state()
    found = channel_importance(network, {"0": layer}, [torch.randn(1, 1, 4, 4, 4, generator=torch.Generator())])
    assert found["0"].max() > 0
    assert network.training
    assert not network._forward_hooks
    assert not layer._forward_hooks
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class Overwritten(nn.Module):
    """Runs, but cannot be differentiated: the sigmoid's result is changed in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sigmoid().mul_(2)


class Labels(nn.Module):
    """Gives labels, which have no derivatives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1)


@pytest.mark.parametrize(("last", "reason"), [(Overwritten(), "inplace operation"), (Labels(), "by a derivative")])
def test_without_derivatives(last: nn.Module, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """A network that has none counts zeros, says why, and is shrunk all the same."""
    network, volume = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), last), torch.randn(1, 1, 6, 6, 6)
    found = channel_importance(network, {"0": network[0]}, [volume])
    np.testing.assert_array_equal(found["0"], np.zeros(4))
    assert "All channels count the same: Sequential does not take volumes[0]" in caplog.text
    assert reason in caplog.text
    assert not network[0]._forward_hooks
    _, report = shrink(network, "1d", [volume], keep_ends=False)
    assert report.layers[0].split.as_dict() == {"3x1x1": 2, "1x3x1": 1, "1x1x3": 1}


def test_layers_without_a_way_to_the_output() -> None:
    """A layer whose output is not used counts nothing."""

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv3d(1, 1, 3, padding=1), nn.Conv3d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.unused(x)
            return self.used(x)

    network = Unused()
    layers = {"used": network.used, "unused": network.unused}
    found = channel_importance(network, layers, [torch.randn(1, 1, 4, 4, 4)])
    assert found["used"][0] > 0
    assert found["unused"][0] == 0
