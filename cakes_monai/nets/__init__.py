# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks."""

from __future__ import annotations

from cakes_monai.nets.c2fnas import C2FNAS, C2FNASBackbone
from cakes_monai.nets.c2fnas_operation_supernet import C2FNASOperationSupernet, operation_cells
from cakes_monai.nets.c2fnas_supernet import C2FNASSupernet
from cakes_monai.nets.resdsn import ResDSN

__all__ = ["C2FNAS", "C2FNASBackbone", "C2FNASOperationSupernet", "C2FNASSupernet", "ResDSN", "operation_cells"]
