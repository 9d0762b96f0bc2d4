# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels of our own compute what torch computes, whatever the sizes, and only the taps that are there."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cakes_monai import native
from cakes_monai.native import library as library_module
from cakes_monai.native.buffers import empty_volume, free_buffers
from cakes_monai.native.library import DTYPES, lanes
from cakes_monai.native.packing import Tap, pack_channels

CENTRE = frozenset({(0, 0, 0)})
CUBE = frozenset(itertools.product((-1, 0, 1), repeat=3))
LINES = [frozenset(tuple(step * (axis == own) for axis in range(3)) for step in (-1, 0, 1)) for own in range(3)]
PLANES = [frozenset(tap for tap in CUBE if tap[own] == 0) for own in range(3)]


@pytest.fixture(autouse=True)
def needs_compiler() -> None:
    """The kernels are compiled here."""
    if (reason := native.missing()) is not None:
        pytest.skip(reason)


def kernel_with(taps: list[frozenset[Tap]], in_channels: int) -> torch.Tensor:
    """Random weights at the taps of each output channel, zeros elsewhere."""
    kernel = torch.zeros(len(taps), in_channels, 3, 3, 3)
    for channel, own in enumerate(taps):
        for d, h, w in own:
            kernel[channel, :, d + 1, h + 1, w + 1] = torch.randn(in_channels)
    return kernel


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 1), (3, 2, 2), (4, 5, 7), (2, 3, 24), (3, 2, 31)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 1)])
def test_convolution_is_that_of_torch(size: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    """Rows of every length, borders and strides; channels that fill no block and have different taps; two volumes."""
    torch.manual_seed(0)
    taps = [*[CUBE] * 3, *PLANES * 3, *LINES * 4, CENTRE, *[CUBE] * 17]
    kernel, bias = kernel_with(taps, 6), torch.randn(len(taps))
    x = torch.randn(2, 6, *size)
    expected = F.conv3d(x, kernel, bias, stride, 1)
    found = native.NativeConvolution(kernel, bias, stride)(x)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 64, 80])
def test_many_blocks_and_sides(channels: int) -> None:
    """Groups of four, two and one block, and kernels that are flat or of one tap."""
    torch.manual_seed(0)
    for sides in itertools.product((1, 3), repeat=3):
        kernel = torch.randn(7 * lanes(), channels, *sides)
        x = torch.randn(1, channels, 3, 4, 14)
        expected = F.conv3d(x, kernel, padding=[side // 2 for side in sides])
        found = native.NativeConvolution(kernel)(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_rounds_only_input_weights_and_output() -> None:
    """As float32 with rounded input and weights, up to the rounding of the output; odd channels are refused."""
    if (reason := native.missing(torch.bfloat16)) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    kernel = kernel_with([*[CUBE] * 20, *LINES * 5], 6).bfloat16().float()
    x = torch.randn(2, 6, 4, 5, 13).bfloat16()
    found = native.NativeConvolution(kernel, dtype=torch.bfloat16)(x)
    assert found.dtype == torch.bfloat16
    expected = F.conv3d(x.float(), kernel, padding=1)
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-5)
    with pytest.raises(ValueError, match="5 input channels: bfloat16 needs an even number"):
        native.NativeConvolution(torch.zeros(4, 5, 3, 3, 3), dtype=torch.bfloat16)


def test_only_the_taps_are_computed() -> None:
    """A block of cubes and two of lines: 27 + 2 * 3 taps. What is left over of the papers' division shares blocks."""
    per_block = lanes()
    kernel = kernel_with([CUBE] * per_block + [LINES[0]] * 2 * per_block, 2)
    assert native.NativeConvolution(kernel).computed_taps == 27 + 2 * 3
    even = [*[CUBE] * 10, *[own for own in (*PLANES, *LINES) for _ in range(9)]]  # 64 channels, seven sub-kernels
    blocks = pack_channels(even, 16)
    assert sorted(channel for block in blocks for channel in block.channels) == list(range(64))
    assert all(even[channel] <= set(block.taps) for block in blocks for channel in block.channels)
    assert sum(len(block.taps) for block in blocks) <= 27 + 3 * 9 + 2  # of 4 * 27


def test_bad_convolutions() -> None:
    """Each says what is allowed."""
    with pytest.raises(ValueError, match="sides 1 or 3"):
        native.NativeConvolution(torch.zeros(4, 4, 5, 5, 5))
    with pytest.raises(ValueError, match="three numbers of at least 1"):
        native.NativeConvolution(torch.zeros(4, 4, 1, 1, 1), stride=(0, 1, 1))
    with pytest.raises(ValueError, match=r"dtype torch.float64: allowed are torch.float32 and torch.bfloat16"):
        native.NativeConvolution(torch.zeros(4, 4, 1, 1, 1), dtype=torch.float64)
    assert "have no torch.float16" in str(native.missing(torch.float16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 32])
def test_instance_norm(channels: int, dtype: torch.dtype) -> None:
    """Norm, leaky ReLU and sum as torch's, also where the mean is a thousand times the deviation."""
    if (reason := native.missing(dtype)) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(channels, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(2, channels, 7, 9, 20) + (1000 if dtype == torch.float32 else 10)).to(dtype)
    added = torch.randn(2, channels, 7, 9, 20).to(dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 2**-7}
    exact = norm.double()(x.double())
    for slope in (0.0, 0.1, 1.0):
        expected = F.leaky_relu(exact, slope)
        found = native.NativeInstanceNorm(norm.float(), slope, dtype)(x)
        torch.testing.assert_close(found.double(), expected, **tolerance)
        found = native.NativeInstanceNorm(norm, slope, dtype)(x, added)
        torch.testing.assert_close(found.double(), expected + added, **tolerance)


def test_instance_norm_in_place_and_bad() -> None:
    """In place the input holds the result; without affine parameters and in another type as documented."""
    x = torch.randn(1, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d)
    expected = F.instance_norm(x)
    found = native.NativeInstanceNorm(nn.InstanceNorm3d(4), 1.0, inplace=True)(x)
    assert found.data_ptr() == x.data_ptr()
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="running statistics"):
        native.NativeInstanceNorm(nn.InstanceNorm3d(4, track_running_stats=True))
    with pytest.raises(ValueError, match="float16: allowed are"):
        native.NativeInstanceNorm(nn.InstanceNorm3d(4), dtype=torch.float16)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 3), (4, 3, 5)])
def test_upsampling(size: tuple[int, int, int]) -> None:
    """Trilinear up-sampling by 2 as torch's, borders included."""
    x = torch.randn(2, 5, *size)
    torch.testing.assert_close(native.NativeUpsample()(x), F.interpolate(x, scale_factor=2, mode="trilinear"))
    with pytest.raises(ValueError, match="float64: allowed are"):
        native.NativeUpsample()(x.double())


def test_threads_share_the_rows() -> None:
    """More threads than rows, and as many as there are, give the result of one."""
    threads = torch.get_num_threads()
    convolution = native.NativeConvolution(torch.randn(20, 3, 3, 3, 3))
    norm = native.NativeInstanceNorm(nn.InstanceNorm3d(20))
    x = torch.randn(1, 3, 2, 2, 9)
    results = []
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(norm(convolution(x)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_memory_is_used_again() -> None:
    """Large volumes get the memory of one that is gone, never that of one of which a view lives."""
    free_buffers()
    shape = (1, 32, 64, 64, 32)  # 16 MiB as float32
    first = empty_volume(shape, torch.float32)
    place, view = first.data_ptr(), first[:, :1]
    del first
    gc.collect()
    second = empty_volume(shape, torch.float32)
    assert second.data_ptr() != place  # the view lives
    del view
    gc.collect()
    assert empty_volume(shape, torch.float32).data_ptr() == place


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a compiler, or with one that fails, there is a reason instead of kernels."""
    monkeypatch.setenv("CAKES_MONAI_CACHE", str(tmp_path))
    library_module.library.cache_clear()
    monkeypatch.setattr(library_module, "_compiler", lambda: None)
    try:
        assert "need a C++ compiler" in str(native.missing())
        monkeypatch.setattr(library_module, "_compiler", lambda: "/bin/false")
        monkeypatch.setattr(library_module, "_machine", lambda compiler: "none")
        assert "do not compile here" in str(native.missing())
        assert not list(tmp_path.glob("*.so"))
    finally:
        library_module.library.cache_clear()
