# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The convolution kernel under Triton's interpreter, which runs it on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.architecture import SUB_KERNELS
from cakes_monai.blocks import CakesConv
from cakes_monai.inference.triton import PackedWeights, TritonCakesConv, sub_kernel_convolution

pytestmark = [
    pytest.mark.usefixtures("interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # in the interpreter of Triton 3.6
]

#: Error of one rounding, relative.
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}  # the interpreter cuts bfloat16 off


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers, channels-last."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last_3d)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to the rounding of the type, and every number written."""
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    tolerance = ROUNDING[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=2 * tolerance, atol=4 * tolerance)


def dense_kernel(layer: CakesConv) -> Tensor:
    """The 3x3x3 kernel with zeros outside each channel's sub-kernel, written down tap by tap."""
    kernel = torch.zeros(layer.out_channels, layer.in_channels, 3, 3, 3)
    first = 0
    for sub_kernel in layer.sub_kernels.values():
        weight = sub_kernel.weight.detach()
        depth, height, width = (slice(None) if length == 3 else slice(1, 2) for length in weight.shape[2:])
        kernel[first : first + len(weight), :, depth, height, width] = weight
        first += len(weight)
    return kernel if layer.order is None else kernel[layer.order]


@torch.inference_mode()
@pytest.mark.parametrize("sub_kernel", SUB_KERNELS)
def test_each_sub_kernel(sub_kernel: str) -> None:
    """One sub-kernel gives what its own convolution gives; sizes are odd and smaller than a block."""
    layer = CakesConv(3, {sub_kernel: 5})
    weight = layer.sub_kernels[sub_kernel].weight
    x = image(1, 3, 3, 4, 5)
    expected = F.conv3d(x, weight, padding=[length // 2 for length in weight.shape[2:]])
    found = sub_kernel_convolution(x, PackedWeights({sub_kernel: weight}, None, torch.float32), tile=(64, 16))
    assert_same(found, expected)


@torch.inference_mode()
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2), (2, 1, 3)])
def test_all_sub_kernels_with_order_bias_and_stride(stride: int | tuple[int, ...]) -> None:
    """A layer with all sub-kernels in counts that fill no block equals the dense convolution and the CakesConv."""
    counts = dict(zip(SUB_KERNELS, (3, 2, 4, 1, 5, 2, 1), strict=True))
    layer = CakesConv(5, counts, stride, bias=True, ordered=True)
    layer.order = torch.randperm(layer.out_channels, generator=torch.Generator().manual_seed(1))
    x = image(2, 5, 3, 4, 5)
    found = TritonCakesConv.from_layer(layer, torch.float32, block_size=16)(x)
    assert_same(found, F.conv3d(x, dense_kernel(layer), layer.bias, stride, padding=1))
    assert_same(found, layer(x))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Half precision is summed in float32: only weights, input and result are rounded."""
    layer = CakesConv(20, {"3x3x3": 3, "3x1x3": 4, "1x1x3": 4}, bias=True)
    x = image(1, 20, 2, 3, 3)
    found = TritonCakesConv.from_layer(layer, dtype)(x)  # converts x
    rounded = F.conv3d(x.to(dtype).float(), dense_kernel(layer).to(dtype).float(), layer.bias.to(dtype).float(), 1, 1)
    assert found.dtype == dtype
    assert_same(found, rounded)


@torch.inference_mode()
@pytest.mark.parametrize("tile", [(16, 16), (32, 32)])
def test_blocks_of_channels_in_and_out(tile: tuple[int, int]) -> None:
    """Input channels in several steps and output channels in full blocks, which are stored without a list of places."""
    layer = CakesConv(32, {"1x3x1": 16, "1x1x3": 32})
    weights = PackedWeights({n: s.weight for n, s in layer.sub_kernels.items()}, None, torch.float32, 16)
    assert not weights.is_scattered
    x = image(1, 32, 1, 3, 6)
    assert_same(sub_kernel_convolution(x, weights, tile=tile), layer(x))


@torch.inference_mode()
def test_taps_beyond_the_border_are_zero() -> None:
    """With ones everywhere each voxel counts its neighbours within the volume, also at a volume's end in memory."""
    layer = CakesConv(1, dict.fromkeys(SUB_KERNELS, 1))
    for weight in layer.parameters():
        nn.init.ones_(weight)
    found = TritonCakesConv.from_layer(layer, torch.float32)(torch.ones(2, 1, 2, 2, 3))
    for channel, name in enumerate(SUB_KERNELS):
        depth, height, width = (int(length) for length in name.split("x"))
        in_line = torch.tensor([2.0, 3.0, 2.0]) if width == 3 else torch.ones(3)
        expected = in_line.expand(2, 2, 2, 3) * min(depth, 2) * min(height, 2)
        torch.testing.assert_close(found[:, channel], expected)


@torch.inference_mode()
def test_what_is_not_channels_last_gives_the_same() -> None:
    """The layout of the input changes nothing, nor does a volume without images."""
    weights = PackedWeights({"1x1x3": torch.randn(4, 3, 1, 1, 3)}, dtype=torch.float32)
    x = image(1, 3, 2, 2, 4)
    expected = sub_kernel_convolution(x, weights)
    assert torch.equal(sub_kernel_convolution(x.contiguous(), weights), expected)
    assert torch.equal(sub_kernel_convolution(x.repeat(1, 1, 1, 1, 2)[..., :4], weights), expected)
    assert sub_kernel_convolution(x[:0], weights).shape == (0, 4, 2, 2, 4)


def test_padded_share() -> None:
    """The share says how many multiply-adds the blocks do for one of the sub-kernels."""
    layer = CakesConv(4, {"3x3x3": 16, "1x3x3": 16})
    assert TritonCakesConv.from_layer(layer, block_size=16).padded_share == 1
    assert TritonCakesConv.from_layer(layer, block_size=32).padded_share == 32 * 27 / (16 * 27 + 16 * 9)
    assert "2 blocks of 16, padded_share=1.00" in repr(TritonCakesConv.from_layer(layer, block_size=16))


def test_errors() -> None:
    """What the kernel cannot compute is refused by a line that says what is allowed."""
    layer = CakesConv(4, {"3x3x3": 4}, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"padding_mode 'reflect', the Triton kernel only has 'zeros'\."):
        TritonCakesConv.from_layer(layer)
    weights = {"1x1x3": torch.randn(4, 3, 1, 1, 3)}
    with pytest.raises(ValueError, match=r"block_size is 24, allowed are 16, 32, 64, 128\."):
        PackedWeights(weights, block_size=24)
    with pytest.raises(ValueError, match=r"dtype is torch\.float64, allowed are torch\.float16, "):
        PackedWeights(weights, dtype=torch.float64)
    packed = PackedWeights(weights, dtype=torch.float32)
    for x, error in [
        (torch.zeros(1, 2, 3, 3, 3), "x has 2 channels, the weights are for 3."),
        (torch.zeros(3, 3, 3, 3), "x has 4 axes, it must have 5"),
        (torch.zeros(1, 3, 3, 3, 3).half(), "x is torch.float16 on cpu, it must be torch.float32 on cpu."),
        (torch.zeros(1, 3, 3, 3, 3, requires_grad=True), "x needs gradients, the Triton kernels compute none"),
    ]:
        with pytest.raises(ValueError, match=error.replace(".", r"\.")):
            sub_kernel_convolution(x, packed)
    with pytest.raises(ValueError, match=r"precision is 'fast', allowed are tf32x3, tf32, ieee\."):
        sub_kernel_convolution(torch.zeros(1, 3, 3, 3, 3), packed, precision="fast")
