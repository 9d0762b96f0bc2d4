# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""CakesConv is the masked dense convolution."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.architecture import SUB_KERNELS, kernel_size
from cakes_monai.blocks import CakesConv, set_execution
from cakes_monai.blocks.execution import EXECUTIONS

SPLITS = [
    *({name: 4} for name in SUB_KERNELS),
    dict.fromkeys(SUB_KERNELS, 2),
    {"3x3x3": 3, "1x3x3": 0, "3x1x3": 0, "1x1x3": 5},
    {"1x3x1": 1, "3x1x1": 1},
]


def masked_dense_kernel(split: Mapping[str, int], weights: Mapping[str, Tensor], in_channels: int) -> Tensor:
    """The 3x3x3 kernel that is zero outside each channel's sub-kernel, written voxel by voxel."""
    kernels = []
    for name in SUB_KERNELS:
        for channel in range(split.get(name, 0)):
            kernel = torch.zeros(in_channels, 3, 3, 3, dtype=torch.float64)
            depth, height, width = (slice(0, 3) if taps == 3 else slice(1, 2) for taps in kernel_size(name))
            kernel[:, depth, height, width] = weights[name][channel]
            kernels.append(kernel)
    return torch.stack(kernels)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
@pytest.mark.parametrize("size", [(5, 6, 7), (1, 4, 3)])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_equals_the_masked_dense_convolution(split, size, stride, execution: str) -> None:
    """Results and all gradients equal those of a dense convolution with a masked kernel, in float64."""
    torch.manual_seed(0)
    conv = CakesConv(3, split, stride, execution).double()
    weights = {name: sub_kernel.weight for name, sub_kernel in conv.sub_kernels.items()}
    image = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)

    output = conv(image)
    dense = F.conv3d(image, masked_dense_kernel(split, weights, 3), stride=stride, padding=1)
    torch.testing.assert_close(output, dense)

    direction = torch.randn_like(output)
    inputs = [image, *weights.values()]
    gradients = torch.autograd.grad((output * direction).sum(), inputs)
    expected = torch.autograd.grad((dense * direction).sum(), inputs)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("split", [{"3x3x3": 4}, dict.fromkeys(SUB_KERNELS, 1), {"1x3x1": 1, "3x1x1": 2}], ids=str)
def test_bias_padding_mode_and_order_are_those_of_a_convolution(split, padding_mode, stride, execution: str) -> None:
    """A Conv3d with the masked kernel, its channels in another order, gives the same results and gradients."""
    torch.manual_seed(0)
    conv = CakesConv(3, split, stride, execution, bias=True, padding_mode=padding_mode, ordered=True).double()
    conv.order.copy_(torch.randperm(conv.out_channels))
    weights = {name: sub_kernel.weight for name, sub_kernel in conv.sub_kernels.items()}
    dense = nn.Conv3d(3, conv.out_channels, 3, stride, 1, padding_mode=padding_mode).double()
    dense.weight.data = masked_dense_kernel(split, weights, 3)[conv.order].detach()
    dense.bias.data = conv.bias.data
    image = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64, requires_grad=True)

    output, expected = conv(image), dense(image)
    torch.testing.assert_close(output, expected)
    direction = torch.randn_like(output)
    gradients = [
        torch.autograd.grad((y * direction).sum(), [image, b]) for y, b in ((output, conv.bias), (expected, dense.bias))
    ]
    torch.testing.assert_close(*gradients)


def test_bias_is_initialised_as_for_the_convolutions_it_stands_for() -> None:
    """The bound is 1 over the root of the inputs of each channel's own kernel: 27 times C, and 3 times C."""
    torch.manual_seed(0)
    bias = CakesConv(4, {"3x3x3": 500, "1x1x3": 500}, bias=True).bias.detach().abs()
    assert 0.95 < float(bias[:500].max()) * (4 * 27) ** 0.5 <= 1
    assert 0.95 < float(bias[500:].max()) * (4 * 3) ** 0.5 <= 1


def test_bias_keeps_the_type_of_autocast() -> None:
    """Under autocast to bfloat16 a biased layer gives bfloat16, as nn.Conv3d does, with every execution."""
    for execution in EXECUTIONS:
        conv = CakesConv(1, {"3x3x3": 1, "1x1x3": 1}, execution=execution, bias=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert conv(torch.zeros(1, 1, 3, 3, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("options", [{}, {"bias": True, "padding_mode": "circular", "ordered": True}], ids=str)
def test_torchscript_gives_the_same(options, execution: str) -> None:
    """A scripted layer computes what the layer computes."""
    torch.manual_seed(0)
    conv = CakesConv(2, dict.fromkeys(SUB_KERNELS, 1), 2, execution, **options)
    image = torch.randn(1, 2, 5, 4, 6)
    torch.testing.assert_close(torch.jit.script(conv)(image), conv(image))


def test_state_dict_keys_name_the_sub_kernels() -> None:
    """Keys are the sub-kernels', in the canonical order, without those that have no channel; then bias and order."""
    keys = ["sub_kernels.1x3x3.weight", "sub_kernels.1x1x3.weight"]
    split = {"1x1x3": 1, "1x3x3": 1, "3x1x1": 0}
    assert list(CakesConv(2, split).state_dict()) == keys
    assert sorted(CakesConv(2, split, bias=True, ordered=True).state_dict()) == sorted(["bias", "order", *keys])


@pytest.mark.parametrize("strict", [True, False])
def test_an_order_is_never_mistaken(strict: bool) -> None:
    """Weights with an order are refused where there is none, the other way round, and for an illegal order."""
    split = {"3x3x3": 2, "1x1x3": 1}
    plain, ordered = (nn.Sequential(CakesConv(2, split, ordered=ordered)) for ordered in (False, True))
    with pytest.raises(ValueError, match="0: the weights have an order of the output channels, the network has none"):
        plain.load_state_dict(ordered.state_dict(), strict=strict)
    with pytest.raises(ValueError, match="0: the weights have no order of the output channels, the network has one"):
        ordered.load_state_dict(plain.state_dict(), strict=strict)
    state = ordered.state_dict() | {"0.order": torch.tensor([0, 0, 1])}
    with pytest.raises(ValueError, match="0: the order of the weights must have each of 3 channels once"):
        ordered.load_state_dict(state, strict=strict)


def test_initialised_like_the_convolutions_it_stands_for() -> None:
    """With the same seed the 3x3x3 sub-kernel has the weights of nn.Conv3d."""
    torch.manual_seed(0)
    ours = CakesConv(4, {"3x3x3": 8}).sub_kernels["3x3x3"].weight
    torch.manual_seed(0)
    torch.testing.assert_close(ours, nn.Conv3d(4, 8, 3, bias=False).weight)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("other", [{"3x3x3": 2, "1x3x3": 2}, {"3x3x3": 3, "1x1x3": 1}, {"3x3x3": 4}])
def test_weights_of_another_split_are_never_loaded_silently(other, strict: bool) -> None:
    """Loading is refused also with strict=False, naming the layer and both splits."""
    network = nn.Sequential(CakesConv(2, {"3x3x3": 2, "1x1x3": 2}))
    weights = nn.Sequential(CakesConv(2, other)).state_dict()
    with pytest.raises(ValueError, match=r"0: the weights are for sub-kernels .*, the network has .*'1x1x3': 2"):
        network.load_state_dict(weights, strict=strict)


def test_set_execution_keeps_weights_and_results() -> None:
    """Another execution gives the same numbers from the same parameters; an unknown one is refused."""
    network = nn.Sequential(CakesConv(2, dict.fromkeys(SUB_KERNELS, 1))).double()
    image = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64)
    before, keys = network(image), list(network.state_dict())
    torch.testing.assert_close(set_execution(network, "dense")(image), before)
    assert list(network.state_dict()) == keys
    with pytest.raises(ValueError, match="unknown execution 'fast', allowed are separate, dense, native"):
        set_execution(network, "fast")


def test_set_execution_keeps_the_padding_mode() -> None:
    """Another execution pads as before."""
    network = nn.Sequential(CakesConv(1, {"1x3x3": 1}, padding_mode="circular")).double()
    image = torch.randn(1, 1, 3, 4, 4, dtype=torch.float64)
    before = network(image)
    torch.testing.assert_close(set_execution(network, "dense")(image), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, {"3x3x3": 1}), "in_channels 0"),
        ((1, {"3x3x3": 1}, 0), "stride"),
        ((1, {"3x3": 1}), "unknown sub-kernel '3x3'"),
        ((1, {"3x3x3": 1.5}), "sub-kernel '3x3x3' has 1.5 channels"),
        ((1, ["3x3x3"]), "a split maps sub-kernels to channels"),
        ((1, {"3x3x3": 1}, 1, "dense", False, "same"), "unknown padding_mode 'same', allowed are zeros, reflect"),
    ],
)
def test_illegal_arguments(arguments, message: str) -> None:
    """What is wrong is said, with what is allowed."""
    with pytest.raises(ValueError, match=message):
        CakesConv(*arguments)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_weight_gradients_under_bfloat16_autocast(execution: str, depth: int) -> None:
    """Under CPU autocast the weight gradients are those of float32 up to rounding, for an input of depth 2 as well."""
    torch.manual_seed(0)
    conv = CakesConv(32, dict.fromkeys(SUB_KERNELS, 5), execution=execution)
    weights = list(conv.parameters())
    image, direction = torch.randn(2, 32, depth, 3, 2), torch.randn(2, 35, depth, 3, 2)
    expected = torch.autograd.grad((conv(image) * direction).sum(), weights)
    for garbage in range(1, 20):
        torch.full((32 * 35 * 27 + 64 * garbage,), 1e35)  # what freed memory may hold
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = conv(image)
        gradients = torch.autograd.grad((output.float() * direction).sum(), weights)
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference, atol=0.02 * float(reference.abs().max()), rtol=0)
