# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""CAKES sub-kernel convolutions and the C2FNAS segmentation network for MONAI."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
