# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses of searches."""

from __future__ import annotations

from cakes_monai.losses.gate_lasso import BETAS, GateLasso, gate_betas, gate_penalty

__all__ = ["BETAS", "GateLasso", "gate_betas", "gate_penalty"]
