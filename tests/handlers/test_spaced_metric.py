# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Distances in millimetres."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from monai.metrics import HausdorffDistanceMetric

from cakes_monai.handlers import SpacedMetric

pytestmark = pytest.mark.filterwarnings("ignore:.*get_mask_edges.always_return_as_numpy:FutureWarning")  # MONAI's own
SPACING = (1.0, 2.0, 3.0)


def test_distances_are_in_millimetres_whatever_the_voxels_are() -> None:
    """A shift by two voxels of 3 mm is 6 mm for SpacedMetric and 2 for MONAI's handler, which never gets a spacing."""
    one, other = (np.zeros((1, 3, 12, 12, 12)) for _ in range(2))
    one[:, 1, :, :, 2:6], other[:, 1, :, :, 4:8] = 1, 1
    one[:, 2, 0, 0, 0], other[:, 2, 0, 0, 0] = 1, 1
    label = MetaTensor(torch.from_numpy(other[0]), affine=torch.diag(torch.tensor([*SPACING, 1.0])))
    pair = [torch.from_numpy(one[0])], [label]
    found = []
    for handler in (SpacedMetric, IgniteMetricHandler):
        metric = handler(HausdorffDistanceMetric(), save_details=False)
        metric.reset()
        metric.update(pair)
        found.append(metric.metric_fn.get_buffer()[0, 0].item())
    assert found == [6.0, 2.0]
    metric = SpacedMetric(HausdorffDistanceMetric(), save_details=False)
    with pytest.raises(ValueError, match="label: a Tensor has no voxel size; allowed is a MetaTensor"):
        metric.update((pair[0], [label.as_tensor()]))


@pytest.mark.filterwarnings("ignore:.*:UserWarning:monai.bundle")  # MONAI's remark on every configuration
def test_metric_is_made_from_json() -> None:
    """A bundle's configuration names all that the metric needs."""
    config = {
        "metric": {
            "_target_": "cakes_monai.handlers.SpacedMetric",
            "metric_fn": {"_target_": "SurfaceDiceMetric", "class_thresholds": [1.0, 2.0]},
            "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
        },
        "imports": ["$import monai"],
    }
    parser = ConfigParser(json.loads(json.dumps(config)))
    assert parser.get_parsed_content("metric").metric_fn.class_thresholds == [1.0, 2.0]
