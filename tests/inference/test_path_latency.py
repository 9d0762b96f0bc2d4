# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Shapes of layers and measured times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cakes_monai.inference import latency_table, measure_path_latency, path_layers
from cakes_monai.nets import C2FNASSupernet
from cakes_monai.search import PathLayer, c2fnas_path_layers

LEVELS = (0, 1, 1, 0)


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_shapes_are_those_of_the_closed_form(priority: str) -> None:
    """What the layers really get, padding included, without computing anything or changing the network."""
    network = C2FNASSupernet(1, 2, LEVELS, "12d", priority, 2).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert path_layers(network, (1, 1, 30, 17, 8)) == c2fnas_path_layers(network.topology, "12d", 2, (30, 17, 8))
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_times_are_cached_and_layers_of_one_shape_measured_once(tmp_path: Path) -> None:
    """The cache has one time for each sub-kernel of each shape; other types and batches are measured anew."""
    layers = c2fnas_path_layers(C2FNASSupernet(1, 2, LEVELS, "1d", init_filters=2).topology, "1d", 2, (8, 8, 8))
    cache = tmp_path / "folder" / "latency.json"
    times = measure_path_latency(layers, cache=cache, rounds=2)
    assert len(json.loads(cache.read_text())) == 2 * 3  # two levels, three sub-kernels
    assert measure_path_latency(layers, cache=cache, rounds=2) == times
    measure_path_latency(layers, dtype=torch.bfloat16, cache=cache, rounds=2)
    assert len(json.loads(cache.read_text())) == 4 * 3
    line = latency_table(layers, times).splitlines()[1].split()
    assert line[:3] == ["cells.0.operations.0", "4", "4x4x4"]
    assert float(line[3]) == pytest.approx(times["cells.0.operations.0"][0], abs=1e-4)


def test_more_taps_take_longer() -> None:
    """27 taps of 32 channels take longer than 3."""
    layer = PathLayer(("3x3x3", "1x1x3"), 32, 32, (16, 16, 16))
    cube, line = measure_path_latency({"a": layer})["a"]
    assert cube > 1.5 * line


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}'])
def test_a_broken_cache_is_named(tmp_path: Path, text: str) -> None:
    """The message names the file and what to do, and the file stays."""
    (tmp_path / "latency.json").write_text(text)
    with pytest.raises(ValueError, match=r"latency.json: is no file of measured times .*; delete it"):
        measure_path_latency({}, cache=tmp_path / "latency.json")
    assert (tmp_path / "latency.json").read_text() == text
