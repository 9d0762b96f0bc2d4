# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
Kernels in Triton for inference on NVIDIA GPUs: CakesConv, instance norm with activation and sum.

Imports everywhere; :func:`missing` says why the kernels cannot run, if they cannot. Tensors are ``(N, C, D, H, W)`` and
channels-last in memory (``torch.channels_last_3d``).
"""

from __future__ import annotations

from cakes_monai.inference.triton.availability import missing
from cakes_monai.inference.triton.channel_blocks import BLOCK_SIZES, block_size, channel_blocks
from cakes_monai.inference.triton.convolution import sub_kernel_convolution
from cakes_monai.inference.triton.instance_norm import instance_norm_act
from cakes_monai.inference.triton.layers import TritonCakesConv, TritonInstanceNormAct
from cakes_monai.inference.triton.packed_weights import PackedWeights

__all__ = [
    "BLOCK_SIZES",
    "PackedWeights",
    "TritonCakesConv",
    "TritonInstanceNormAct",
    "block_size",
    "channel_blocks",
    "instance_norm_act",
    "missing",
    "sub_kernel_convolution",
]
