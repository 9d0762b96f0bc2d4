# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Building blocks: the CAKES convolution, the C2FNAS cell and the transitions between levels."""

from __future__ import annotations

from cakes_monai.blocks.cakes_conv import CakesConv, set_execution
from cakes_monai.blocks.cell import C2FNASCell, SubKernelOperation
from cakes_monai.blocks.transition import UpTransition, conv_norm_act, make_transition

__all__ = [
    "C2FNASCell",
    "CakesConv",
    "SubKernelOperation",
    "UpTransition",
    "conv_norm_act",
    "make_transition",
    "set_execution",
]
