# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers for action recognition: accuracies of whole videos, their report, and the results of inference."""

from __future__ import annotations

from cakes_video.handlers.recognition_report import RecognitionAccuracy, RecognitionReport
from cakes_video.handlers.recognition_saver import RecognitionSaver

__all__ = ["RecognitionAccuracy", "RecognitionReport", "RecognitionSaver"]
