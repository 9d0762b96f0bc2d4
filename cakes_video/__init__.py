# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Action recognition in videos with the networks of cakes_monai."""

from __future__ import annotations
