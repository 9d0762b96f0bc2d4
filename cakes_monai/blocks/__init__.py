# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Building blocks: the CAKES convolution and its super-network forms, the C2FNAS cell, transitions between levels."""

from __future__ import annotations

from cakes_monai.blocks.cakes_conv import CakesConv, set_execution
from cakes_monai.blocks.cell import C2FNASCell, OperationFactory, SubKernelOperation
from cakes_monai.blocks.kernel_supernet import PRIORITIES, ConcatenatedPaths, SampledPaths, candidate_paths
from cakes_monai.blocks.operation_choice import OperationChoice
from cakes_monai.blocks.path_weights import draw_paths, gate_magnitudes, keep_paths, path_operations
from cakes_monai.blocks.summed_paths import SummedPaths
from cakes_monai.blocks.transition import UpTransition, conv_norm_act, make_transition

__all__ = [
    "PRIORITIES",
    "C2FNASCell",
    "CakesConv",
    "ConcatenatedPaths",
    "OperationChoice",
    "OperationFactory",
    "SampledPaths",
    "SubKernelOperation",
    "SummedPaths",
    "UpTransition",
    "candidate_paths",
    "conv_norm_act",
    "draw_paths",
    "gate_magnitudes",
    "keep_paths",
    "make_transition",
    "path_operations",
    "set_execution",
]
