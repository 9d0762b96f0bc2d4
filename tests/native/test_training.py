# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A training step with the kernels of our own has the results and gradients of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai import native
from cakes_monai.architecture import SUB_KERNELS, kernel_size
from cakes_monai.blocks import CakesConv, draw_paths, set_execution
from cakes_monai.nets import C2FNASSupernet


@pytest.fixture(autouse=True)
def needs_compiler() -> None:
    """The kernels are compiled here."""
    if (reason := native.missing()) is not None:
        pytest.skip(reason)


def separately(x: Tensor, weights: list[Tensor]) -> Tensor:
    """One convolution of torch for each kernel."""
    return torch.cat([F.conv3d(x, weight, padding=[side // 2 for side in weight.shape[2:]]) for weight in weights], 1)


def gradients(y: Tensor, inputs: list[Tensor], of: Tensor) -> list[Tensor]:
    """Of the input and all weights."""
    return list(torch.autograd.grad(y, inputs, of.to(y.dtype)))


@pytest.mark.parametrize(
    ("counts", "channels", "size"),
    [
        ((5, 0, 9, 3, 4, 1, 0), 6, (4, 5, 7)),
        ((10, 9, 9, 9, 9, 9, 9), 5, (3, 4, 50)),
        ((2, 0, 0, 0, 0, 0, 3), 3, (1, 1, 1)),
        ((33, 0, 0, 0, 0, 0, 0), 40, (2, 9, 2)),
        ((0, 0, 0, 0, 17, 0, 0), 2, (5, 1, 3)),
    ],
)
def test_gradients_are_those_of_torch(counts: tuple[int, ...], channels: int, size: tuple[int, int, int]) -> None:
    """Input and weights of all sub-kernels, whatever the channels of each, at borders and with two volumes."""
    torch.manual_seed(0)
    weights = [
        torch.randn(count, channels, *kernel_size(name), requires_grad=True)
        for name, count in zip(SUB_KERNELS, counts, strict=True)
        if count
    ]
    x = torch.randn(2, channels, *size, requires_grad=True)
    of = torch.randn(2, sum(counts), *size)
    expected, found = separately(x, weights), native.convolve(x, weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients(found, [x, *weights], of), gradients(expected, [x, *weights], of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


def test_autocast_to_bfloat16() -> None:
    """Output in bfloat16, gradients in the type of what they are of, within the rounding of bfloat16."""
    if (reason := native.missing(torch.bfloat16)) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    weights = [torch.randn(3, 6, *kernel_size(name), requires_grad=True) for name in ("3x3x3", "1x3x1")]
    x = torch.randn(1, 6, 4, 5, 6, requires_grad=True)
    of = torch.randn(1, 6, 4, 5, 6)
    expected = separately(x, weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = native.convolve(x, weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.1)
    for ours, theirs in zip(gradients(found, [x, *weights], of), gradients(expected, [x, *weights], of), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 0.01 * theirs.abs().max()


def test_what_is_left_to_torch() -> None:
    """Strides, other types, an odd number of channels in bfloat16; the layer falls back and its result is the same."""
    weights = [torch.zeros(3, 4, 3, 3, 3)]
    x = torch.zeros(1, 4, 3, 3, 3)
    assert native.can_convolve(x, weights, (1, 1, 1))
    assert not native.can_convolve(x, weights, (2, 2, 2))
    assert not native.can_convolve(x.double(), weights, (1, 1, 1))
    assert not native.can_convolve(x.bfloat16(), weights, (1, 1, 1))
    assert not native.can_convolve(x.to("meta"), weights, (1, 1, 1))
    layer = CakesConv(4, {"3x3x3": 3}, stride=2, padding_mode="reflect", execution="native")
    expected = nn.Conv3d(4, 3, 3, 2, 1, padding_mode="reflect", bias=False)
    expected.weight = layer.sub_kernels["3x3x3"].weight
    torch.testing.assert_close(layer(x + 1), expected(x + 1))


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_a_search_step(priority: str) -> None:
    """Both super-networks have the same loss and gradients; channels that were not drawn have none."""
    torch.manual_seed(0)
    network = C2FNASSupernet(1, 2, (0, 0), "123d", priority, 4)
    if priority == "performance":
        draw_paths(network, 0, 3)
    x = torch.randn(1, 1, 8, 8, 8)
    found = {}
    for execution in ("separate", "native"):
        set_execution(network, execution).zero_grad(set_to_none=True)
        network(x).square().mean().backward()
        found[execution] = {name: p.grad for name, p in network.named_parameters()}
    for name, theirs in found["separate"].items():
        ours = found["native"][name]
        if theirs is None or not theirs.any():
            assert ours is None or not ours.any(), name
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)
