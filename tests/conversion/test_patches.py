# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Patches are what convolutions really read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cakes_monai.conversion.patches import sample_patches, sampled_layers


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_patches_times_kernel_are_the_outputs(padding_mode: str, stride) -> None:
    """With all places sampled, patch times kernel is every output once, borders included."""
    torch.manual_seed(0)
    conv = nn.Conv3d(2, 1, 3, stride, 1, bias=False, padding_mode=padding_mode).double()
    volumes = [torch.randn(2, 2, 3, 4, 5, dtype=torch.float64) for _ in range(2)]
    patches = sample_patches(nn.Sequential(conv), {"0": conv}, volumes, 10**6)["0"]
    outputs = torch.cat([conv(volume).flatten() for volume in volumes])
    torch.testing.assert_close((patches.flatten(1) @ conv.weight.flatten()).sort()[0], outputs.sort()[0])


def test_as_many_as_wanted_each_place_once() -> None:
    """Samples are divided among the volumes; a layer with fewer places gives all of them; calls agree."""
    large, small = nn.Conv3d(1, 1, 3, padding=1), nn.Conv3d(1, 1, 3, 4, 1)
    network = nn.Sequential(large, small)
    volumes = [torch.arange(512.0).reshape(1, 1, 8, 8, 8) for _ in range(2)]
    first, second = (sample_patches(network, {"0": large, "1": small}, volumes, 100) for _ in range(2))
    assert first["0"].shape == (100, 1, 27)
    assert first["1"].shape == (2 * 8, 1, 27)
    assert len(first["0"][:50, 0, 13].unique()) == 50
    assert torch.equal(first["0"], second["0"])


def test_places_do_not_depend_on_other_layers() -> None:
    """A layer that is sampled again, alone, gives the same patches."""
    layers = [nn.Conv3d(1, 1, 3, padding=1) for _ in range(2)]
    network, volumes = nn.Sequential(*layers), [torch.randn(1, 1, 8, 8, 8) for _ in range(2)]
    both = sample_patches(network, {"0": layers[0], "1": layers[1]}, volumes, 20)
    assert torch.equal(both["1"], sample_patches(network, {"1": layers[1]}, volumes, 20)["1"])


def test_the_network_is_as_before() -> None:
    """Modes, hooks, statistics and torch's generator are untouched, and it runs in eval mode without gradients."""
    conv = nn.Conv3d(1, 1, 3, padding=1)
    network = nn.Sequential(nn.BatchNorm3d(1).eval(), conv, nn.Dropout(0.9), nn.BatchNorm3d(1)).train()
    network[0].eval()
    modes, state = [m.training for m in network.modules()], torch.get_rng_state()
    patches = sample_patches(network, {"1": conv}, [torch.randn(1, 1, 4, 4, 4, generator=torch.Generator())], 8)["1"]
    assert not patches.requires_grad
    assert [m.training for m in network.modules()] == modes
    assert not conv._forward_pre_hooks
    assert int(network[3].num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_volumes_are_named() -> None:
    """Which volume it is, and what is wrong, in one line; hooks are gone afterwards."""
    conv = nn.Conv3d(2, 1, 3, padding=1)
    network, good = nn.Sequential(conv), torch.zeros(1, 2, 3, 3, 3)
    with pytest.raises(ValueError, match=r"^Sequential does not take volumes\[1\] of 1x3x3x3x3 \(.*2 channels.*\)\.$"):
        sample_patches(network, {"0": conv}, [good, torch.zeros(1, 3, 3, 3, 3)], 8)
    with pytest.raises(ValueError, match=r"^volumes\[0\] of 1x2x3x3x3 has values that are not finite\.$"):
        sample_patches(network, {"0": conv}, [good / 0], 8)
    assert not conv._forward_pre_hooks
    network = nn.Sequential(nn.Hardtanh(), conv)
    network[0].register_forward_hook(lambda module, args, output: output / 0)
    with pytest.raises(
        ValueError, match=r"^1: reads values that are not finite when the network runs on the volumes\.$"
    ):
        sample_patches(network, {"1": conv}, [good], 8)


def test_layers_are_sampled_in_groups_of_bounded_memory() -> None:
    """A group holds at most half a GiB: 300 input channels of 27 taps, 4096 patches and 4 bytes are 133 MB."""
    layers = {str(i): nn.Conv3d(300, 1, 3, padding=1) for i in range(10)}
    groups = list(sampled_layers(layers, 4096))
    assert [len(group) for group in groups] == [4, 4, 2]
    assert list(groups[0] | groups[1] | groups[2]) == list(layers)
    assert [len(group) for group in sampled_layers(layers, 10**6)] == [1] * 10
