# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers for bundles: what MONAI's own ones do not do."""

from __future__ import annotations

from cakes_monai.handlers.case_report import CaseReport
from cakes_monai.handlers.checkpoint import ModelLoader, ModelSaver, TrainingCheckpoint
from cakes_monai.handlers.contour_pictures import ContourPictures
from cakes_monai.handlers.described_model_saver import DescribedModelSaver
from cakes_monai.handlers.dicom_segmentation_saver import DicomSegmentationSaver
from cakes_monai.handlers.early_stop import EarlyStop
from cakes_monai.handlers.epoch_log import EpochLog
from cakes_monai.handlers.epoch_seed import EpochSeed
from cakes_monai.handlers.gradient_clip import GradientClip
from cakes_monai.handlers.learning_rate_schedule import learning_rate_schedule
from cakes_monai.handlers.loader_wait import LoaderWait
from cakes_monai.handlers.operation_sampler import OperationSampler, OperationSupernet
from cakes_monai.handlers.path_sampler import PathSampler
from cakes_monai.handlers.polynomial_learning_rate import PolynomialLearningRate
from cakes_monai.handlers.spaced_metric import SpacedMetric
from cakes_monai.handlers.step_learning_rate import StepLearningRate
from cakes_monai.handlers.volume_report import VolumeReport

__all__ = [
    "CaseReport",
    "ContourPictures",
    "DescribedModelSaver",
    "DicomSegmentationSaver",
    "EarlyStop",
    "EpochLog",
    "EpochSeed",
    "GradientClip",
    "LoaderWait",
    "ModelLoader",
    "ModelSaver",
    "OperationSampler",
    "OperationSupernet",
    "PathSampler",
    "PolynomialLearningRate",
    "SpacedMetric",
    "StepLearningRate",
    "TrainingCheckpoint",
    "VolumeReport",
    "learning_rate_schedule",
]
