# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Instance norm, activation and sum in two readings of a volume, without a change of its memory format."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from cakes_monai.native.buffers import empty_volume
from cakes_monai.native.library import DTYPES, library

__all__ = ["NativeInstanceNorm"]


class NativeInstanceNorm(nn.Module):
    """
    Instance norm and (leaky) ReLU, run by this machine's own kernels on the CPU; for inference only.

    Args:
        norm: the trained norm, without running statistics.
        slope: of the activation below zero: 0 for ReLU, 1 for no activation.
        dtype: float32 or bfloat16, of input and output; statistics are float64.
        inplace: whether the result may overwrite the input, as far as it has the type and memory format.

    Raises:
        ValueError: for a norm with running statistics or another type.
        OSError: where the kernels cannot be compiled, see :func:`~cakes_monai.native.missing`.

    Shapes:
        - input: ``(N, C, D, H, W)`` in any memory format
        - added: summed up behind the activation, shaped as the input; None for none
        - output: as the input, in ``torch.channels_last_3d``
    """

    def __init__(
        self, norm: nn.InstanceNorm3d, slope: float = 0.0, dtype: torch.dtype = torch.float32, inplace: bool = False
    ) -> None:
        super().__init__()
        if norm.track_running_stats:
            raise ValueError("the norm has running statistics; allowed is one that has none.")
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype}: allowed are {' and '.join(map(str, DTYPES))}.")
        self.channels, self.eps = norm.num_features, norm.eps
        self.slope, self.dtype, self.inplace = slope, dtype, inplace
        # no buffers, which Module.to would convert to another type than the kernels read
        self._weight = torch.ones(self.channels) if norm.weight is None else norm.weight.detach().float().cpu().clone()
        self._bias = torch.zeros(self.channels) if norm.bias is None else norm.bias.detach().float().cpu().clone()
        self._library = library(self.channels, 1, dtype)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:  # noqa: D102 - described above
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        y = x if self.inplace else empty_volume(x.shape, self.dtype)
        pointer = None
        if added is not None:
            added = added.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
            pointer = added.data_ptr()
        voxels = x.shape[2] * x.shape[3] * x.shape[4]
        parameters = (self._weight.data_ptr(), self._bias.data_ptr())
        self._library.instance_norm(
            *map(ctypes.c_void_p, (x.data_ptr(), *parameters, pointer, y.data_ptr())),
            *map(ctypes.c_long, (len(x), voxels)),
            ctypes.c_float(self.eps),
            ctypes.c_float(self.slope),
            torch.get_num_threads(),
        )
        return y

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.channels}, eps={self.eps}, slope={self.slope}, {self.dtype}"
