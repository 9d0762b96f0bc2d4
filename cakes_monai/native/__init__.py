# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels of our own for the CPU: convolutions whose time follows their taps, and norms that keep the memory format."""

from __future__ import annotations

from cakes_monai.native.convolution import NativeConvolution
from cakes_monai.native.instance_norm import NativeInstanceNorm
from cakes_monai.native.library import missing, prepare
from cakes_monai.native.training import can_convolve, convolve
from cakes_monai.native.upsampling import NativeUpsample

__all__ = [
    "NativeConvolution",
    "NativeInstanceNorm",
    "NativeUpsample",
    "can_convolve",
    "convolve",
    "missing",
    "prepare",
]
