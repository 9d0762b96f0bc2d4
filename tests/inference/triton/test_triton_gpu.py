# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the kernels can run: what is said where they cannot, what the compiler makes of them, and results on a GPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cakes_monai import inference
from cakes_monai.blocks import CakesConv
from cakes_monai.inference import triton as kernels

on_gpu = pytest.mark.skipif(kernels.missing() is not None, reason=str(kernels.missing()))


def test_importable_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package neither imports nor needs Triton until a kernel runs, and says when it is not there."""
    package = kernels.__name__
    monkeypatch.setattr(inference, "triton", kernels)  # what the import below changes is put back
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    anew = importlib.import_module(package)
    assert anew is not kernels
    assert anew.missing() == "Triton is not installed; it comes with PyTorch for CUDA on Linux."


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_is_missing_without_a_gpu() -> None:
    """Without a GPU that is what is missing, and the kernels refuse tensors that are elsewhere."""
    pytest.importorskip("triton")
    assert kernels.missing() == "there is no NVIDIA GPU that PyTorch can use."
    with pytest.raises(ValueError, match="x is on cpu, the Triton kernels need it on an NVIDIA GPU"):
        kernels.instance_norm_act(torch.zeros(1, 2, 3, 3, 3))


def test_compiled_convolution(assembly: Callable[..., str]) -> None:
    """The compiler takes the kernel, uses Hopper's tensor cores, and reads ahead and writes 16 bytes at a time."""
    pytest.importorskip("triton")
    from cakes_monai.inference.triton.convolution_kernel import convolve

    sizes = ("voxels", "depth", "height", "width", "out_depth", "out_height", "out_width")
    pointers = {"x": "*fp16", "weight": "*fp16", "bias": "*fp16", "y": "*fp16"}
    tables = {"starts": "*i32", "taps": "*i64", "places": "*i32"}
    strides: dict[str, Any] = {"stride_depth": 1, "stride_height": 1, "stride_width": 2}
    layer = {"in_channels": 64, "out_channels": 64, "num_blocks": 2, "has_bias": True, "is_scattered": False}
    blocks = {"block_channels": 32, "block_voxels": 128, "block_inputs": 64}
    how = {"precision": "tf32x3", "is_widened": False, "cache": ".ca"}
    arguments = pointers | tables | dict.fromkeys(sizes, "i32") | strides | layer | blocks | how
    code = assembly(convolve, arguments, num_warps=4, num_stages=3)
    assert "wgmma.mma_async" in code
    assert "cp.async.c" in code  # while it multiplies
    assert "st.global.v4.b32" in code


def test_compiled_norm(assembly: Callable[..., str]) -> None:
    """The compiler takes both kernels, which read and write 16 bytes at a time."""
    pytest.importorskip("triton")
    from cakes_monai.inference.triton.norm_kernels import chunk_statistics, normalise

    shape = {"voxels": "i32", "chunk": "i32", "num_channels": 48, "block_channels": 32, "block_voxels": 256}
    statistics = {"means": "*fp32", "deviations": "*fp32"}
    assert "ld.global.v4.b32" in assembly(chunk_statistics, {"x": "*bf16"} | statistics | shape, num_warps=8)
    pointers = {"x": "*bf16", "y": "*bf16", "add": "*bf16", "weight": "*fp32", "bias": "*fp32"}
    flags: dict[str, Any] = dict.fromkeys(("has_weight", "has_bias", "has_relu", "has_add"), True)
    arguments = pointers | statistics | shape | flags | {"eps": "fp32", "block_chunks": 256}
    code = assembly(normalise, arguments, num_warps=8)
    assert "ld.global.v4.b32" in code
    assert "st.global.v4.b32" in code


@on_gpu
@torch.inference_mode()
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("precision", ["tf32x3", "tf32", "ieee"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_convolution_on_a_gpu(dtype: torch.dtype, precision: str, stride: int) -> None:
    """Every block size gives what the layer gives in float64, to the rounding of the type."""
    tolerance = {"tf32x3": 1e-5, "ieee": 1e-5, "tf32": 2e-3}[precision]
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, tolerance)
    layer = CakesConv(40, {"3x3x3": 20, "1x3x3": 16, "3x1x3": 7, "1x1x3": 21}, stride, bias=True).cuda()
    x = torch.randn(2, 40, 13, 18, 21, device="cuda").to(dtype)
    exact = CakesConv(40, layer.split, stride, bias=True)
    exact.load_state_dict({name: value.to(dtype).double() for name, value in layer.state_dict().items()}, assign=True)
    expected = exact(x.double())
    for size in kernels.BLOCK_SIZES:
        found = kernels.TritonCakesConv.from_layer(layer, dtype, size, precision)(x)
        assert (found - expected).norm() / expected.norm() < tolerance


@on_gpu
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 32, 33, 40, 48), (1, 50, 5, 6, 7), (1, 512, 6, 6, 6)])
def test_norm_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Norm, activation and sum give what torch gives in float64, also around a large mean."""
    norm = nn.InstanceNorm3d(shape[1], affine=True).cuda()
    x = (30 + torch.randn(shape, device="cuda")).to(dtype)
    found = kernels.TritonInstanceNormAct.from_layer(norm)(x, x)
    weight, bias = norm.weight.double(), norm.bias.double()
    expected = F.relu(F.instance_norm(x.double(), weight=weight, bias=bias)) + x.double()
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
