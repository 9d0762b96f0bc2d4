# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels of instance norm, activation and sum under Triton's interpreter, which runs them on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.inference.triton import TritonInstanceNormAct, instance_norm_act

pytestmark = [
    pytest.mark.usefixtures("interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # in the interpreter of Triton 3.6
]

ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}  # the interpreter cuts bfloat16 off


def image(*shape: int, mean: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers, channels-last."""
    numbers = mean + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def expected(x: Tensor, norm: nn.InstanceNorm3d, act: str | None, add: Tensor | None = None) -> Tensor:
    """What torch computes in float64."""
    weight, bias = (None if p is None else p.detach().double() for p in (norm.weight, norm.bias))
    y = F.instance_norm(x.double(), weight=weight, bias=bias, eps=norm.eps)
    y = F.relu(y) if act else y
    return y if add is None else y + add.double()


def random_norm(channels: int) -> nn.InstanceNorm3d:
    """A norm as training leaves it."""
    norm = nn.InstanceNorm3d(channels, affine=True)
    generator = torch.Generator().manual_seed(1)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    return norm


@pytest.mark.parametrize("act", ["relu", None])
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_equals_torch(dtype: torch.dtype, act: str | None) -> None:
    """Norm with weights, activation and sum give what torch gives in float64, but for the rounding of the result."""
    norm = random_norm(5)
    x, other = image(2, 5, 3, 4, 7, dtype=dtype), image(2, 5, 3, 4, 7, mean=1.0, dtype=dtype)
    layer = TritonInstanceNormAct.from_layer(norm, act)
    tolerance = {"rtol": 2 * ROUNDING[dtype], "atol": 4 * ROUNDING[dtype]}
    for add in (None, other):
        found = layer(x, add)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(found.double(), expected(x, norm, act, add), **tolerance)


@pytest.mark.parametrize(("voxels", "tile"), [((3, 5, 7), 64), ((1, 1, 50), 256), ((2, 2, 2), 64), ((1, 1, 3), 1024)])
def test_chunks_that_do_not_divide_the_volume(voxels: tuple[int, ...], tile: int) -> None:
    """Chunks and tiles that end before, at or behind the end of a volume change nothing; channels fill no block."""
    x = image(1, 35, *voxels)  # two blocks of channels
    norm = nn.InstanceNorm3d(35)
    found = instance_norm_act(x, act=None, tile=tile).double()
    torch.testing.assert_close(found, expected(x, norm, None), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "mean", "tolerance"),
    [(torch.float32, 1e4, 2e-3), (torch.float16, 1000.0, 2e-3), (torch.bfloat16, 100.0, 2**-6)],
)
def test_large_mean_and_small_variance(dtype: torch.dtype, mean: float, tolerance: float) -> None:
    """A spread of one around a mean that has lost nearly all digits of it is still normalised by its own spread."""
    x = image(1, 4, 4, 5, 8, mean=mean, dtype=dtype)
    found = instance_norm_act(x, act=None, tile=64)
    torch.testing.assert_close(found.double(), expected(x, nn.InstanceNorm3d(4), None), rtol=0, atol=tolerance)
    squares = (x * x).float().mean((2, 3, 4)) - x.float().mean((2, 3, 4)) ** 2  # what must not be computed
    assert (squares - x.double().var((2, 3, 4), correction=0)).abs().max() > 0.1


def test_constant_volume_and_not_a_number() -> None:
    """A channel without variance becomes its bias, and what is no number stays so and keeps to its own channel."""
    x = torch.full((1, 2, 2, 2, 3), 3.0)
    x[0, 1, 0, 0, 0] = torch.nan
    found = instance_norm_act(x, bias=torch.tensor([0.5, 0.5]))
    assert (found[0, 0] == 0.5).all()
    assert found[0, 1].isnan().all()


def test_layout_of_the_input() -> None:
    """What is not channels-last gives the same, and nothing gives nothing."""
    x = image(1, 4, 2, 3, 5)
    found = instance_norm_act(x, add=x)
    assert torch.equal(instance_norm_act(x.contiguous(), add=x.contiguous()), found)
    assert instance_norm_act(x[:0]).shape == (0, 4, 2, 3, 5)


def test_errors() -> None:
    """What the kernels cannot compute is refused by a line that says what is allowed."""
    x = image(1, 4, 2, 3, 5)
    with pytest.raises(ValueError, match=r"act is 'gelu', allowed are 'relu' and None\."):
        instance_norm_act(x, act="gelu")
    with pytest.raises(ValueError, match=r"add has shape \(1, 4, 2, 3, 4\), x has \(1, 4, 2, 3, 5\), they must be"):
        instance_norm_act(x, add=x[..., :4])
    with pytest.raises(ValueError, match=r"add is torch\.float16 on cpu, it must be torch\.float32 on cpu\."):
        instance_norm_act(x, add=x.half())
    with pytest.raises(ValueError, match=r"x is torch\.float64, allowed are torch\.float16, torch\.bfloat16, "):
        instance_norm_act(x.double())
    with pytest.raises(ValueError, match="the norm uses running statistics, the Triton kernel only those of the input"):
        TritonInstanceNormAct.from_layer(nn.InstanceNorm3d(4, track_running_stats=True))
