# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers for bundles: what MONAI's own ones do not do."""

from __future__ import annotations

from cakes_monai.handlers.checkpoint import ModelSaver, TrainingCheckpoint
from cakes_monai.handlers.early_stop import EarlyStop
from cakes_monai.handlers.epoch_seed import EpochSeed
from cakes_monai.handlers.polynomial_learning_rate import PolynomialLearningRate

__all__ = ["EarlyStop", "EpochSeed", "ModelSaver", "PolynomialLearningRate", "TrainingCheckpoint"]
