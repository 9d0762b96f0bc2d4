# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Costs of paths and the betas made of them."""

from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest

from cakes_monai.architecture import SUB_KERNELS, Architecture, kernel_size
from cakes_monai.cost import c2fnas_cost
from cakes_monai.search import (
    PathLayer,
    c2fnas_path_layers,
    cost_betas,
    latency_budget,
    manual_architecture,
    network_budget,
    parameter_betas,
    rank_kernels,
)


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ("123d", [9 / 13, *[3 / 13] * 3, *[1 / 13] * 3]),
        ("12d", [*[3 / 4] * 3, *[1 / 4] * 3]),
        ("23d", [3 / 4, *[1 / 4] * 3]),
        ("1d", [1, 1, 1]),
        (["1x3x3", "3x1x1"], [3 / 4, 1 / 4]),
    ],
)
def test_parameter_betas_are_the_papers(kernels, expected) -> None:
    """9/13, 3/13, 1/13 for three dimensions, 3/4 and 1/4 for two, 1 for one."""
    assert parameter_betas(kernels) == pytest.approx(expected)


def test_cost_betas_follow_layers() -> None:
    """With costs in the ratio of the taps a layer has the paper's ratios; twice the cost is twice the beta."""
    taps = [prod(kernel_size(name)) for name in SUB_KERNELS]
    layers = {name: PathLayer(SUB_KERNELS, 8, 8, (4, 4, 4)) for name in "ab"}
    betas = cost_betas(layers, {"a": taps, "b": [2 * t for t in taps]})
    assert betas["a"] == pytest.approx([beta / 1.5 for beta in parameter_betas("123d")])
    assert betas["b"] == pytest.approx([beta * 2 / 1.5 for beta in parameter_betas("123d")])
    with pytest.raises(ValueError, match=r"b: costs \(0,\), there must be 7 above 0"):
        cost_betas(layers, {"a": taps, "b": (0,)})


@pytest.mark.parametrize("unit", ["params", "multiply_adds", "paper_flops"])
def test_budget_counts_the_whole_network(unit: str) -> None:
    """Fixed part and channels add up to the closed-form cost of a derived network, for an odd size too."""
    architecture = manual_architecture("123d", init_filters=8)
    layers = c2fnas_path_layers(architecture.topology, "123d", 8, (40, 33, 50))
    other = manual_architecture("12d", init_filters=8)
    budget = network_budget(1, unit, layers, other.splits, c2fnas_cost(other, 2, 3, 8, (40, 33, 50)))
    total = budget.fixed
    for name, costs in budget.costs.items():
        _, cell, _, branch = name.split(".")
        counts = architecture.cells[int(cell)].kernels[int(branch)].as_dict()
        total += sum(cost * counts.get(kernel, 0) for kernel, cost in zip(SUB_KERNELS, costs, strict=True))
    assert total == getattr(c2fnas_cost(architecture, 2, 3, 8, (40, 33, 50)), unit)


def test_budget_units_are_named() -> None:
    """An unknown unit is refused with the known ones."""
    with pytest.raises(ValueError, match=r"unknown unit 'seconds', allowed are .*paper_flops and ms"):
        network_budget(1, "seconds", {}, {}, c2fnas_cost(Architecture.published("c2fnas-3d")))


def test_latency_budget_shares_a_layers_time_among_its_channels() -> None:
    """8 channels that all take the 2 ms sub-kernel cost 2 ms; half of them on the 1 ms one 1.5 ms."""
    layers = {"a": PathLayer(("3x3x3", "1x1x3"), 8, 8, (4, 4, 4))}
    budget = latency_budget(1.5, layers, {"a": (2.0, 1.0)})
    gates = {"a": [[1.0] * 8, [0.5] * 4 + [0.9] * 4]}
    ranking = rank_kernels(gates, layers["a"].sub_kernels, budget=budget)
    assert ranking.layers["a"].split.as_dict() == {"3x3x3": 4, "1x1x3": 4}
    assert ranking.layers["a"].channels["1x1x3"] == (4, 5, 6, 7)
    assert ranking.cost == pytest.approx(1.5)


def test_layers_have_their_real_shapes() -> None:
    """The 512 channels of the lowest level of C2FNAS see 6 voxels of 96 along each axis."""
    layers = c2fnas_path_layers(Architecture.published("c2fnas-3d").topology, "3d")
    assert sum(layer.out_channels for layer in layers.values()) == 2560
    assert layers["cells.5.operations.0"] == PathLayer(("3x3x3",), 512, 512, (6, 6, 6))


def test_deciders_need_no_torch() -> None:
    """Importing cakes_monai.search imports neither torch nor MONAI."""
    code = "import sys, cakes_monai.search; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
