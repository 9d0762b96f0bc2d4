# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How networks are run."""

from __future__ import annotations

from cakes_monai.inference.autocast_inferer import AutocastInferer, has_fast_bfloat16

__all__ = ["AutocastInferer", "has_fast_bfloat16"]
