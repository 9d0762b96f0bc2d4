# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Running statistics follow what is in front of a BatchNorm."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cakes_monai.conversion.norm_statistics import recalibrate_norms


def volumes() -> list[Tensor]:
    """Normal numbers around 1."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 1, 4, 4, 4, generator=generator) + 1 for _ in range(3)]


def network() -> nn.Sequential:
    """A convolution, a BatchNorm with statistics of a training, dropout."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3), nn.Dropout(0.5), nn.Conv3d(3, 2, 1), nn.BatchNorm3d(2))
    for norm in (made[1], made[4]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return made.eval()


def test_nothing_changes_where_nothing_changed() -> None:
    """The statistics of the training stay, although the volumes have others; dropout is no matter."""
    before = network()
    after = copy.deepcopy(before)
    state = torch.get_rng_state()
    recalibrate_norms(after, before, volumes())
    torch.testing.assert_close(after.state_dict(), before.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in after.modules())


def test_statistics_follow_a_shift_and_a_scale_exactly() -> None:
    """Outputs three times as large and 5 higher: so is the mean, and the variance is 9 times as large."""
    before = network()
    with torch.no_grad():
        before[0].weight.copy_(torch.tensor([0.5, -1.0, 2.0]).view_as(before[0].weight))
        before[0].bias.zero_()
    before[1].running_mean.copy_(before[0].weight.detach().flatten())  # as volumes of mean 1 have it
    after = copy.deepcopy(before)
    with torch.no_grad():
        after[0].weight *= 3
        after[0].bias += 5
    known = [torch.ones(2, 1, 4, 4, 4) + sign * torch.linspace(-1, 1, 128).view(2, 1, 4, 4, 4) for sign in (1, -1)]
    recalibrate_norms(after, before, known)
    torch.testing.assert_close(after[1].running_mean, 3 * before[1].running_mean + 5)
    torch.testing.assert_close(after[1].running_var, 9 * before[1].running_var)
    torch.testing.assert_close(after[4].state_dict(), before[4].state_dict(), rtol=1e-3, atol=1e-4)


def test_networks_without_statistics_are_left_alone() -> None:
    """Norms that keep none need none, and the volumes are not run."""
    made = nn.Sequential(nn.Conv3d(1, 3, 1), nn.InstanceNorm3d(3), nn.BatchNorm3d(3, track_running_stats=False))
    recalibrate_norms(made, made, [torch.zeros(0)])
