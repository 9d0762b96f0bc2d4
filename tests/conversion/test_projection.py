# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Sub-kernels that stand for dense kernels lose as little as they must."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cakes_monai.architecture import SUB_KERNELS, kernel_size
from cakes_monai.conversion.projection import project, restrict
from cakes_monai.conversion.replacement import sub_kernel_of


def generator(seed: int = 0) -> torch.Generator:
    """Numbers that are always the same."""
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def smooth_patches(count: int, channels: int, seed: int = 0) -> Tensor:
    """Patches of noise averaged over 3x3x3 voxels."""
    noise = random(count, channels, 5, 5, 5, seed=seed)
    return F.avg_pool3d(noise, 3, 1).flatten(2)


def masked(kernel: Tensor, sub_kernel: str) -> Tensor:
    """The 3x3x3 kernel without the taps that a sub-kernel drops."""
    kept = torch.zeros_like(kernel)
    sub_kernel_of(kept, sub_kernel).copy_(sub_kernel_of(kernel, sub_kernel))
    return kept


def lost(kernel: Tensor, sub_kernel: str, weights: Tensor, shift: Tensor, patches: Tensor) -> Tensor:
    """E|y - y'|^2 over E|y|^2 for every channel, from the definition."""
    standing = torch.zeros_like(kernel)
    sub_kernel_of(standing, sub_kernel).copy_(weights)
    wanted, given = (patches.flatten(1) @ k.flatten(1).T for k in (kernel, standing))
    return (wanted - given - shift).square().mean(0) / wanted.square().mean(0)


@pytest.mark.parametrize("name", SUB_KERNELS)
@pytest.mark.parametrize("centred", [False, True])
def test_what_is_zero_outside_stays_as_it_is(name: str, centred: bool) -> None:
    """A kernel without the dropped taps keeps its weights bit by bit and loses nothing."""
    kernel = masked(random(4, 3, 3, 3, 3), name)
    found = project(kernel, [name], smooth_patches(50, 3, seed=1) + 1, centred)
    assert torch.equal(found.kernels[name], sub_kernel_of(kernel, name))
    assert torch.equal(found.shifts[name], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(found.errors, torch.zeros(1, 4, dtype=torch.float64))


def test_all_taps_lose_nothing() -> None:
    """The 3x3x3 sub-kernel is the kernel, however many patches there are."""
    kernel = random(4, 3, 3, 3, 3)
    for count in (0, 1, 40):
        found = project(kernel, ["3x3x3"], smooth_patches(count, 3, seed=1), False)
        assert torch.equal(found.kernels["3x3x3"], kernel)
        if count:
            assert not found.errors.any()


@pytest.mark.parametrize("centred", [False, True])
def test_the_errors_are_those_of_the_definition(centred: bool) -> None:
    """Errors of slices and sums on patches, computed anew from the definition."""
    kernel, patches = random(4, 3, 3, 3, 3), smooth_patches(500, 3, seed=1)
    patches = patches - patches.mean(0) if centred else patches + 0.3  # so that the energy is that of the definition
    for init in ("slice", "sum"):
        found = restrict(kernel, SUB_KERNELS, init, patches, centred)
        for name, errors in zip(SUB_KERNELS, found.errors, strict=True):
            assert tuple(found.kernels[name].shape[2:]) == kernel_size(name)
            expected = lost(kernel, name, found.kernels[name], found.shifts[name], patches)
            torch.testing.assert_close(errors, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("count", "channels"), [(4000, 3), (100, 6)], ids=["many patches", "few patches"])
def test_least_squares_loses_less_on_what_it_has_not_seen(count: int, channels: int) -> None:
    """On smooth inputs far less than a slice, and less than a sum; with few patches no more than these."""
    kernel = random(8, channels, 3, 3, 3)
    patches, fresh = smooth_patches(count, channels, seed=1), smooth_patches(4000, channels, seed=2)
    names = SUB_KERNELS[1:]
    found = project(kernel, names, patches, False)
    for name in names:
        ours = lost(kernel, name, found.kernels[name], found.shifts[name], fresh).mean()
        others = {init: restrict(kernel, [name], init, fresh, False).errors.mean() for init in ("slice", "sum")}
        assert ours < (0.8 if count > 1000 else 1) * others["slice"]
        assert ours < (0.95 if count > 1000 else 1.05) * others["sum"]


def test_errors_tell_the_truth() -> None:
    """The error given, on patches the fit did not see, is that on fresh ones up to chance."""
    kernel = random(8, 3, 3, 3, 3)
    found = project(kernel, SUB_KERNELS[1:], smooth_patches(4000, 3, seed=1), False)
    fresh = smooth_patches(4000, 3, seed=2)
    for name, error in zip(SUB_KERNELS[1:], found.errors, strict=True):
        true = lost(kernel, name, found.kernels[name], found.shifts[name], fresh)
        torch.testing.assert_close(error, true, rtol=0.2, atol=0.01)


def test_taps_that_can_be_predicted_are_taken_over() -> None:
    """Where the dropped taps read twice what the kept one reads, it gets their weights twice, and nothing is lost."""
    kernel, seen = random(2, 1, 3, 3, 3), random(500, 1, 1, 1, 3, seed=1)
    patches = 2 * seen.expand(-1, -1, 3, 3, -1)
    patches = patches.clone()
    patches[:, :, 1, 1] = seen[:, :, 0, 0]
    found = project(kernel, ["1x1x3"], patches.flatten(2), False)
    expected = 2 * kernel.sum((2, 3)) - kernel[:, :, 1, 1]
    torch.testing.assert_close(found.kernels["1x1x3"][:, :, 0, 0], expected, rtol=1e-2, atol=1e-2)
    assert float(found.errors.max()) < 1e-4


def test_a_sum_is_exact_where_nothing_changes_along_the_dropped_axes() -> None:
    """Inputs that are constant along D lose nothing by a sum over D."""
    kernel = random(2, 3, 3, 3, 3)
    patches = random(100, 3, 1, 3, 3, seed=1).expand(-1, -1, 3, -1, -1).flatten(2)
    assert float(restrict(kernel, ["1x3x3"], "sum", patches, False).errors.max()) < 1e-20
    assert float(restrict(kernel, ["1x3x3"], "slice", patches, False).errors.min()) > 0.1
    torch.testing.assert_close(restrict(kernel, ["1x3x3"], "sum", None, False).kernels["1x3x3"][:, :, 0], kernel.sum(2))


def test_a_constant_is_a_matter_of_the_bias() -> None:
    """Centred, what is missed of a constant input becomes a shift by hand arithmetic: value times dropped weights."""
    kernel = random(2, 1, 3, 3, 3)
    patches = torch.full((100, 1, 27), 3.0, dtype=torch.float64)
    dropped = kernel.sum((1, 2, 3, 4)) - kernel[:, 0, 1].sum((1, 2))
    for found in (restrict(kernel, ["1x3x3"], "slice", patches, True), project(kernel, ["1x3x3"], patches, True)):
        torch.testing.assert_close(found.shifts["1x3x3"], 3 * dropped)
        assert not found.errors.any()
    assert float(restrict(kernel, ["1x3x3"], "slice", patches, False).errors.min()) > 0


def test_without_patches_errors_are_those_of_white_noise() -> None:
    """A slice loses the part of the squared weights that it drops, which noise without patches confirms."""
    kernel = random(4, 3, 3, 3, 3)
    blind = restrict(kernel, SUB_KERNELS, "slice", None, False).errors
    seen = restrict(kernel, SUB_KERNELS, "slice", random(100000, 3, 27, seed=1), False).errors
    torch.testing.assert_close(blind, seen, rtol=0.05, atol=0.01)
    kept = sub_kernel_of(kernel, "1x3x3").square().sum((1, 2, 3, 4)) / kernel.square().sum((1, 2, 3, 4))
    torch.testing.assert_close(blind[1], 1 - kept)


@pytest.mark.parametrize("centred", [False, True])
def test_dead_channels_and_inputs_are_no_trouble(centred: bool) -> None:
    """Kernels of zeros and inputs of zeros lose nothing and give finite weights."""
    for kernel, patches in (
        (torch.zeros(2, 2, 3, 3, 3), smooth_patches(50, 2)),
        (random(2, 2, 3, 3, 3), torch.zeros(50, 2, 27)),
    ):
        found = project(kernel, SUB_KERNELS, patches, centred)
        assert not found.errors.any()
        assert all(torch.isfinite(weights).all() for weights in found.kernels.values())


def test_weights_have_the_type_of_the_kernel() -> None:
    """The fit is in float64, its result in the kernel's own type."""
    for dtype in (torch.bfloat16, torch.float32):
        kernel, patches = random(2, 2, 3, 3, 3).to(dtype), smooth_patches(50, 2).to(dtype)
        found = project(kernel, SUB_KERNELS, patches, True)
        assert {weights.dtype for weights in found.kernels.values()} == {dtype}
        assert found.errors.dtype == torch.float64
