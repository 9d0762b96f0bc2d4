# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of distances in millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ignite.metrics.metric import reinit__is_reduced
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler

__all__ = ["SpacedMetric"]


class SpacedMetric(IgniteMetricHandler):
    """
    MONAI's metric handler with distances in mm: it gives ``metric_fn`` the voxel size of every label.

    MONAI's own ``HausdorffDistance`` and ``SurfaceDistance`` handlers never pass ``spacing`` on, so their numbers, and
    the thresholds of a ``SurfaceDiceMetric`` in an ``IgniteMetricHandler``, are in voxels.

    Args:
        metric_fn: a metric that takes ``spacing``, such as ``monai.metrics.HausdorffDistanceMetric``.
        kwargs: ``output_transform`` and ``save_details`` as for ``monai.handlers.IgniteMetricHandler``.

    Example:
        >>> SpacedMetric(HausdorffDistanceMetric(percentile=95), output_transform=from_engine(["pred", "label"]))
    """

    @reinit__is_reduced  # type: ignore[untyped-decorator]
    def update(self, output: Sequence[Sequence[torch.Tensor]]) -> None:
        """Add the cases of an iteration, (predictions, labels), whose labels are ``MetaTensor`` with an affine."""
        for prediction, label in zip(*output, strict=True):
            if not isinstance(label, MetaTensor):
                raise ValueError(f"label: a {type(label).__name__} has no voxel size; allowed is a MetaTensor.")
            self.metric_fn([prediction], [label], spacing=[float(size) for size in label.pixdim])
