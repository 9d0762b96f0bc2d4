# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers behind a shrunken one make up for what it loses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.conversion import shrink

FLAT, WHOLE = {"1x1x3": 8}, {"3x3x3": 8}


@pytest.fixture
def volumes() -> list[Tensor]:
    """Smooth noise, as neighbours in images are alike."""
    torch.manual_seed(1)
    return [F.avg_pool3d(torch.randn(1, 1, 20, 20, 20), 5, 1) for _ in range(4)]


def two_layers(norm: nn.Module) -> nn.Sequential:
    """Two convolutions that can be shrunk."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 2, 1)]
    network = nn.Sequential(*layers)
    if isinstance(norm, nn.BatchNorm3d):
        network(torch.randn(4, 1, 16, 16, 16))  # statistics
    return network.eval()


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm3d(8, momentum=1.0), nn.InstanceNorm3d(8)])
def test_a_whole_layer_makes_up_for_a_flat_one(norm: nn.Module, volumes: list[Tensor]) -> None:
    """The second layer keeps 3x3x3, yet not its weights: on volumes unseen the output is nearer than with them."""
    network = two_layers(norm)
    shrunken, report = shrink(network, {"0": FLAT, "3": WHOLE}, volumes[:3], keep_ends=False)
    assert [layer.error == 0 for layer in report.layers] == [False, True]
    with_its_weights, _ = shrink(network, {"0": FLAT}, volumes[:3], keep_ends=False)
    with torch.no_grad():
        wanted = network(volumes[3])
        fitted, kept = (float((n(volumes[3]) - wanted).square().mean()) for n in (shrunken, with_its_weights))
    assert fitted < 0.8 * kept


def test_what_loses_nothing_is_left_alone(volumes: list[Tensor]) -> None:
    """Where no layer before has changed, neither do the weights."""
    network = two_layers(nn.Identity())
    shrunken, _ = shrink(network, {"0": WHOLE, "3": WHOLE}, volumes, keep_ends=False)
    torch.testing.assert_close(shrunken[3].sub_kernels["3x3x3"].weight, network[3].weight, rtol=1e-5, atol=1e-6)


def test_running_means_follow_the_convolutions(volumes: list[Tensor]) -> None:
    """A mean that the BatchNorm takes away is in its running mean at the end, once: the outputs have no offset."""
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8, momentum=1.0))
    network.append(nn.Conv3d(8, 8, 3, padding=1))
    images = [volume + 5 for volume in volumes]
    network(torch.cat(images))
    shrunken, _ = shrink(network.eval(), {"0": FLAT, "2": WHOLE}, images, keep_ends=False)
    with torch.no_grad():
        before, after = (
            torch.stack([n[:2](image) for image in images]).mean((0, 1, 3, 4, 5)) for n in (network, shrunken)
        )
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
