# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the hippocampus bundle says of itself beyond the contract of every bundle: the order of classes, its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cakes_monai.architecture import Architecture
from cakes_monai.cost import c2fnas_cost
from cakes_monai.data import check_label_names


def config(bundle: Path, name: str) -> Any:
    """The raw content of one config file."""
    return json.loads((bundle / "configs" / name).read_text())


def test_metadata_names_the_classes_in_the_order_of_the_data_set(bundle: Path, hippocampus: Path) -> None:
    """The classes are those of the data set, in its order."""
    pred = config(bundle, "metadata.json")["network_data_format"]["outputs"]["pred"]
    check_label_names(hippocampus, list(pred["channel_def"].values()))


def test_weights_are_those_of_the_architecture(bundle: Path) -> None:
    """They have the parameters of the closed form."""
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    architecture = Architecture.load(bundle / "configs" / "architecture.json")
    parameters = c2fnas_cost(architecture, 1, 3, config(bundle, "train.json")["init_filters"]).params
    assert sum(weight.numel() for weight in weights.values()) == parameters
