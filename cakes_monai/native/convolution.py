# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A convolution whose time follows the taps of its output channels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cakes_monai.native.buffers import empty_volume
from cakes_monai.native.library import DTYPES, Shape, library
from cakes_monai.native.packing import Tap
from cakes_monai.native.programs import Program, Sides, forward_program

__all__ = ["NativeConvolution", "run_program"]

_GROUPS_FIRST = 1 << 20  # bytes of weights that do not stay in the cache while rows are gone through


class NativeConvolution(nn.Module):
    """
    A trained convolution, run by this machine's own kernels on the CPU; for inference only.

    Only the products with kernel entries that are not all zero for an output channel are computed, up to what
    :func:`~cakes_monai.native.packing.pack_channels` adds. Input and output have the memory format
    ``torch.channels_last_3d``; another input is copied into it.

    Args:
        kernel: ``(channels, C, kD, kH, kW)``, sides of 1 or 3, zeros where a channel has no taps.
        bias: of each output channel; None for none.
        stride: along D, H and W.
        dtype: float32 or bfloat16, of input and output; sums are float32.

    Raises:
        ValueError: for other sides, strides below 1, another type, or bfloat16 with an odd number of input channels.
        OSError: where the kernels cannot be compiled, see :func:`~cakes_monai.native.missing`.

    Shapes:
        - input: ``(N, C, D, H, W)``
        - output: ``(N, channels, ceil(D/stride), ceil(H/stride), ceil(W/stride))``
    """

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1, 1, 1),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.out_channels, self.in_channels = kernel.shape[:2]
        _check(kernel, stride, dtype)
        self.stride, self.dtype = tuple(stride), dtype
        kernel = kernel.detach().to("cpu", torch.float32)
        sides: Sides = tuple(kernel.shape[2:])  # type: ignore[assignment]  # three
        kernels = [(self.out_channels, sides)]
        self._program = forward_program(kernels, self.in_channels, dtype == torch.bfloat16, _taps(kernel))
        # no buffers, which Module.to would convert to another type than the kernels read
        self._weights = self._program.pack([kernel], dtype)
        self._bias = None if bias is None else bias.detach().float().cpu()

    @property
    def computed_taps(self) -> int:
        """Taps of all blocks."""
        return sum(group.taps * group.blocks for group in self._program.groups)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        return run_program(self._program, x, self._weights, self.out_channels, self.stride, self._bias)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}, {self.dtype}"


def run_program(
    program: Program,
    x: Tensor,
    weights: Tensor,
    out_channels: int,
    stride: Sequence[int] = (1, 1, 1),
    bias: Tensor | None = None,
) -> Tensor:
    """
    Run the kernels on a volume in ``torch.channels_last_3d``.

    Args:
        program: what to run.
        x: the input.
        weights: packed by the program, in the type of the input.
        out_channels: channels of the output.
        stride: along D, H and W.
        bias: of each output channel; None for none.
    """
    size = [-(-length // step) for length, step in zip(x.shape[2:], stride, strict=True)]
    y = empty_volume((len(x), out_channels, *size), x.dtype)
    own = torch.zeros(out_channels + 1)
    if bias is not None:
        own[:-1] = bias
    lane_bias = own[torch.from_numpy(program.channels).long()]  # -1: the zero at the end
    sizes = (len(x), *x.shape[2:], *size, out_channels)
    groups_first = weights.nbytes > _GROUPS_FIRST
    shape = Shape(*sizes, *stride[:2], torch.get_num_threads(), len(program.groups), groups_first)
    tables = (program.taps.ctypes.data, program.channels.ctypes.data, lane_bias.data_ptr())
    convolution = _Convolution(x.data_ptr(), weights.data_ptr(), *tables, y.data_ptr(), shape)
    library(x.shape[1], stride[2], x.dtype).convolve(ctypes.byref(convolution), program.groups)
    return y


class _Convolution(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weights", "taps", "channels", "bias", "y")),
        ("shape", Shape),
    )


def _check(kernel: Tensor, stride: Sequence[int], dtype: torch.dtype) -> None:
    if kernel.ndim != 5 or not {*kernel.shape[2:]} <= {1, 3}:
        raise ValueError(
            f"a kernel of shape {tuple(kernel.shape)}: allowed are (channels, C, kD, kH, kW), sides 1 or 3."
        )
    if len(stride) != 3 or min(stride) < 1:
        raise ValueError(f"stride {tuple(stride)}: allowed are three numbers of at least 1.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: allowed are {' and '.join(map(str, DTYPES))}.")
    if dtype == torch.bfloat16 and kernel.shape[1] % 2:
        raise ValueError(f"{kernel.shape[1]} input channels: bfloat16 needs an even number.")


def _taps(kernel: Tensor) -> list[frozenset[Tap]]:
    """Taps of every output channel; a channel of zeros keeps the one in the middle."""
    middle = torch.tensor([side // 2 for side in kernel.shape[2:]])
    places = [(channel.nonzero() - middle).tolist() for channel in kernel.ne(0).any(1)]
    return [frozenset((d, h, w) for d, h, w in own) or frozenset({(0, 0, 0)}) for own in places]
