# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Trilinear up-sampling without a change of the memory format."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from cakes_monai.native.buffers import empty_volume
from cakes_monai.native.library import DTYPES, library

__all__ = ["NativeUpsample"]


class NativeUpsample(nn.Module):
    """
    Trilinear up-sampling by 2, as ``nn.Upsample(scale_factor=2, mode="trilinear")``, on the CPU; for inference only.

    Shapes:
        - input: ``(N, C, D, H, W)``, float32 or bfloat16 in any memory format
        - output: ``(N, C, 2D, 2H, 2W)`` in ``torch.channels_last_3d``
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        if x.dtype not in DTYPES:
            raise ValueError(f"dtype {x.dtype}: allowed are {' and '.join(map(str, DTYPES))}.")
        x = x.contiguous(memory_format=torch.channels_last_3d)
        batch, channels, depth, height, width = x.shape
        y = empty_volume((batch, channels, 2 * depth, 2 * height, 2 * width), x.dtype)
        library(channels, 1, x.dtype).upsample(
            *map(ctypes.c_void_p, (x.data_ptr(), y.data_ptr())),
            *map(ctypes.c_long, (batch, depth, height, width)),
            torch.get_num_threads(),
        )
        return y
