# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths of super-networks are the convolutions and norms they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.architecture import SUB_KERNELS, KernelSplit, kernel_size
from cakes_monai.blocks import CakesConv, ConcatenatedPaths, SampledPaths, SubKernelOperation
from cakes_monai.blocks.path_norm import PathNorm

INSTANCE = ("INSTANCE", {"affine": True})
GROUP = ("GROUP", {"num_groups": 2})
NORMS = ["BATCH", INSTANCE, GROUP]


def randomised(operation: nn.Module) -> nn.Module:
    """In float64, with gates, shifts and statistics that are all different."""
    generator = torch.Generator().manual_seed(0)
    for name, value in operation.state_dict().items():
        if "norm" in name or "adn" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return operation.double()


def sampled(norm="BATCH", execution: str = "dense", sub_kernels="123d", channels: int = 12, **options) -> SampledPaths:
    """Paths of an operation from 3 to 12 channels, randomised."""
    torch.manual_seed(0)
    return randomised(SampledPaths(3, channels, sub_kernels, norm, "RELU", execution=execution, **options))


def image(seed: int = 1, size=(5, 6, 4)) -> Tensor:
    """Two random images of 3 channels."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked_kernel(operation: SampledPaths, paths: Tensor) -> Tensor:
    """The 3x3x3 kernel whose channel c has the sub-kernel paths[c], written channel by channel."""
    kernel = torch.zeros(operation.channels, 3, 3, 3, 3, dtype=torch.float64)
    for channel, path in enumerate(paths.tolist()):
        name = operation.sub_kernels[path]
        depth, height, width = (slice(0, 3) if taps == 3 else slice(1, 2) for taps in kernel_size(name))
        kernel[channel, :, depth, height, width] = operation.conv.sub_kernels[name].weight[channel]
    return kernel


def normalised(norm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The norm by torch's functions, with the statistics of the batch."""
    if norm == "BATCH":
        return F.batch_norm(x, None, None, weight, bias, training=True)
    if norm is INSTANCE:
        return F.instance_norm(x, weight=weight, bias=bias)
    return F.group_norm(x, 2, weight, bias)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("execution", ["dense", "separate"])
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_a_draw_is_the_masked_dense_convolution(norm, execution: str, stride) -> None:
    """In training: conv with a masked kernel, norm with each channel's own scale and shift, ReLU."""
    operation = sampled(norm, execution, stride=stride)
    operation.draw(torch.Generator().manual_seed(3))
    paths, every = operation.drawn, torch.arange(12)
    weight, bias = operation.norm.norm.weight[paths, every], operation.norm.norm.bias[paths, every]
    dense = F.conv3d(image(), masked_kernel(operation, paths), stride=stride, padding=1)
    torch.testing.assert_close(operation(image()), normalised(norm, dense, weight, bias).relu())


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("channels", [2, 12])
def test_only_drawn_paths_have_gradients(norm, channels: int) -> None:
    """Undrawn weights, gates and shifts have gradients of exactly zero, never None, also for undrawn sub-kernels."""
    operation = sampled(norm, channels=channels)
    operation.draw(torch.Generator().manual_seed(0))
    (operation(image()) * torch.randn(2, channels, 5, 6, 4)).sum().backward()
    drawn = torch.nn.functional.one_hot(operation.drawn, 7).T.bool()  # (sub-kernels, C)
    assert not drawn.all()
    for path, name in enumerate(SUB_KERNELS):
        gradient = operation.conv.sub_kernels[name].weight.grad.flatten(1)
        assert torch.equal(gradient.abs().amax(1) > 0, drawn[path])
    for parameter in operation.norm.parameters():
        assert torch.equal(parameter.grad != 0, drawn)


def test_running_statistics_are_those_of_one_batch_norm_per_path() -> None:
    """Like seven BatchNorms of which every channel's drawn one sees the batch; the others' do not change."""
    operation = SampledPaths(3, 12, "123d", ("BATCH", {"momentum": 0.3}), "RELU").double()
    separate = [nn.BatchNorm3d(12, momentum=0.3).double() for _ in SUB_KERNELS]
    for iteration in range(6):
        operation.draw(torch.Generator().manual_seed(iteration))
        with torch.no_grad():
            operation(image(iteration))
            dense = F.conv3d(image(iteration), masked_kernel(operation, operation.drawn), padding=1)
            for path, norm in enumerate(separate):
                seen, before = operation.drawn == path, copy.deepcopy(norm)
                norm(dense)
                norm.running_mean[~seen], norm.running_var[~seen] = (
                    before.running_mean[~seen],
                    before.running_var[~seen],
                )
    torch.testing.assert_close(operation.norm.norm.running_mean, torch.stack([n.running_mean for n in separate]))
    torch.testing.assert_close(operation.norm.norm.running_var, torch.stack([n.running_var for n in separate]))


@pytest.mark.parametrize("norm", ["BATCH", INSTANCE], ids=str)
@pytest.mark.parametrize("keep", [False, True])
def test_eval_is_the_derived_operation(norm, keep: bool) -> None:
    """Eval runs a CakesConv operation with the copied weights, its channels put back in order."""
    operation = sampled(norm).eval()
    paths = operation.gates.abs().argmax(0)
    if keep:
        paths = torch.tensor([6, 0, 1, 2, 3, 4, 5, 6, 0, 0, 1, 1])
        operation.keep({name: torch.nonzero(paths == i)[:, 0].tolist() for i, name in enumerate(SUB_KERNELS)})
    order = torch.argsort(paths, stable=True)
    counts = torch.bincount(paths, minlength=7).tolist()
    split = KernelSplit(tuple(zip(SUB_KERNELS, counts, strict=True)))
    derived = SubKernelOperation(3, [split], norm, "RELU").double().eval()
    for name, part in derived.convs[0].sub_kernels.items():
        part.weight.data = operation.conv.sub_kernels[name].weight[paths == SUB_KERNELS.index(name)].data
        # boolean indexing gives rising channels, as the stable sort does
    for name, value in derived.adn.N.state_dict().items():
        if value.dim():
            value.copy_(operation.norm.norm.state_dict()[name][paths[order], order])
    torch.testing.assert_close(operation(image())[:, order], derived(image()))
    operation.keep(None)
    assert operation.kept is None


def test_eval_follows_the_gates() -> None:
    """The largest |gate| counts, a negative one as well, and of equal ones the first; a draw changes nothing."""
    operation = sampled(channels=2, sub_kernels="1d").eval()
    operation.norm.norm.weight.data = torch.tensor([[1.0, 0.5], [-2.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    operation.draw(torch.Generator().manual_seed(0))
    expected = F.conv3d(image(), masked_kernel(operation, torch.tensor([1, 0])), padding=1)
    state = operation.norm.norm
    every = torch.arange(2)
    chosen = [v[torch.tensor([1, 0]), every] for v in (state.running_mean, state.running_var, state.weight, state.bias)]
    torch.testing.assert_close(operation(image()), F.batch_norm(expected, *chosen).relu())


def test_draws_are_uniform() -> None:
    """Chi-square over 7 sub-kernels x 12 channels and 2100 draws: far below the 0.999 quantile of 72 degrees, 115."""
    operation = sampled()
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(7, 12)
    for _ in range(2100):
        operation.draw(generator)
        counts[operation.drawn, torch.arange(12)] += 1
    assert float(((counts - 300) ** 2 / 300).sum()) < 115


def test_forward_never_uses_global_randomness() -> None:
    """Training without a draw is refused, and forward leaves torch's generator alone."""
    operation = sampled()
    with pytest.raises(ValueError, match=r"no paths are drawn; training needs cakes_monai\.handlers\.PathSampler"):
        operation(image())
    operation.draw(torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    operation(image())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_draw_is_not_part_of_the_state() -> None:
    """Weights, gates, shifts and statistics are; what is drawn or kept is not."""
    operation = sampled(sub_kernels="1d")
    operation.keep({"3x1x1": range(12)})
    norm = [f"norm.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert list(operation.state_dict()) == [f"conv.sub_kernels.{name}.weight" for name in SUB_KERNELS[4:]] + norm


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_concatenated_paths_are_convolutions_side_by_side(norm, stride) -> None:
    """Cost priority: for every sub-kernel its own convolution and norm; groups never mix sub-kernels."""
    torch.manual_seed(0)
    operation = randomised(ConcatenatedPaths(4, 4, "123d", norm, "RELU", stride))
    x = torch.randn(2, 4, 5, 6, 4, dtype=torch.float64)
    output = operation(x).split(4, dim=1)
    weights, biases = operation.gates, operation.adn.N.bias.view(7, 4)
    for path, name in enumerate(SUB_KERNELS):
        kernel = operation.conv.sub_kernels[name].weight
        dense = F.conv3d(x, kernel, stride=stride, padding=[taps // 2 for taps in kernel_size(name)])
        torch.testing.assert_close(output[path], normalised(norm, dense, weights[path], biases[path]).relu())


def test_concatenated_paths_that_are_not_kept_are_zero() -> None:
    """In eval the kept paths alone remain; in training, and with None, all of them."""
    operation = ConcatenatedPaths(4, 4, "1d", "BATCH", "RELU")
    x = torch.randn(2, 4, 5, 6, 4)
    everything = operation.eval()(x)
    operation.keep({"3x1x1": [0, 2], "1x1x3": [1, 2]})
    mask = torch.tensor([1.0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0]).view(1, 12, 1, 1, 1)
    torch.testing.assert_close(operation(x), everything * mask)
    assert (operation.train()(x) * (1 - mask)).abs().max() > 0
    operation.eval().keep(None)
    operation.adn.N.load_state_dict(ConcatenatedPaths(4, 4, "1d", "BATCH", "RELU").adn.N.state_dict())
    torch.testing.assert_close(operation(x), everything)


@pytest.mark.parametrize("norm", ["INSTANCE", ("BATCH", {"affine": False}), ("LOCALRESPONSE", {"size": 3})], ids=str)
@pytest.mark.parametrize("kind", [SampledPaths, ConcatenatedPaths])
def test_a_norm_without_scales_has_no_gates(kind, norm) -> None:
    """The message names the norm and those that have gates."""
    with pytest.raises(ValueError, match=r"norm .* has no scale for each channel, so paths have no gates; allowed are"):
        kind(4, 4, "1d", norm, "RELU")


def test_what_else_is_refused() -> None:
    """Unknown sets, cumulative statistics, and choices that are not one sub-kernel for every channel."""
    with pytest.raises(ValueError, match="unknown set '4d', allowed are 1d, 2d, 3d, 12d, 23d, 123d or a list"):
        SampledPaths(4, 4, "4d", "BATCH", "RELU")
    with pytest.raises(ValueError, match="paths that are drawn at random need a momentum"):
        PathNorm(("BATCH", {"momentum": None}), 3, 4)
    with pytest.raises(ValueError, match="exactly one sub-kernel of every channel"):
        sampled(sub_kernels="1d").keep({"3x1x1": [0, 1], "1x1x3": [1]})


def test_autocast_and_depth_two() -> None:
    """Under CPU autocast an input of depth 2 goes through the same safe way as a CakesConv."""
    torch.manual_seed(0)
    operation = SampledPaths(8, 8, "123d", INSTANCE, "RELU")
    operation.draw(torch.Generator().manual_seed(0))
    x = torch.randn(1, 8, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert operation.conv.convolve(x, [torch.randn(8, 8, 3, 3, 3, requires_grad=True)]).dtype == torch.float32
        assert torch.isfinite(operation(x)).all()
    assert isinstance(operation.conv, CakesConv)
