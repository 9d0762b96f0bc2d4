# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers for action recognition: accuracies of whole videos, their report, and the results of inference."""

from __future__ import annotations

from cakes_video.handlers.recognition_report import RecognitionAccuracy, RecognitionReport
from cakes_video.handlers.recognition_saver import RecognitionSaver
from cakes_video.handlers.stacked_output import logits_and_labels

__all__ = ["RecognitionAccuracy", "RecognitionReport", "RecognitionSaver", "logits_and_labels"]
