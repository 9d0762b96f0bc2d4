# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Gate magnitudes become splits: by hand, and against trying everything out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from cakes_monai.architecture import SUB_KERNELS, Architecture
from cakes_monai.cost import c2fnas_cost
from cakes_monai.search import Budget, c2fnas_path_layers, manual_architecture, network_budget, rank_kernels

THREE = ("3x3x3", "1x3x3", "1x1x3")


def everything(paths: int, channels: int, rule: str, granularity: int) -> np.ndarray:
    """All allowed choices of one layer as masks (choice, path, channel)."""
    if rule == "argmax":
        masks = [np.arange(paths)[:, None] == np.array(choice) for choice in product(range(paths), repeat=channels)]
    else:
        every = product((False, True), repeat=paths * channels)
        masks = [np.array(m).reshape(paths, channels) for m in every if sum(m) == channels]
    return np.array([mask for mask in masks if not (mask.sum(1) % granularity).any()])


def test_argmax_by_hand() -> None:
    """Every channel keeps its largest |gate|; of equal ones the first in the canonical order."""
    gates = [[0.1, -0.9, 0.5, 0.0], [0.3, 0.2, 0.5, 0.0], [0.2, 0.8, 0.5, 0.0]]
    layer = rank_kernels({"a": gates}, THREE).layers["a"]
    assert layer.channels == {"3x3x3": (1, 2, 3), "1x3x3": (0,)}
    assert layer.split.as_dict() == {"3x3x3": 3, "1x3x3": 1}
    assert layer.weight == pytest.approx(0.9 + 0.5 + 0.0 + 0.3)


def test_top_c_by_hand() -> None:
    """The layer's C largest of all paths, also several of one channel; exactly C of them on ties."""
    gates = [[0.1, 0.9, 0.5], [0.3, 0.2, 0.5], [0.2, 0.8, 0.5]]
    assert rank_kernels({"a": gates}, THREE, "top_c").layers["a"].channels == {"3x3x3": (1, 2), "1x1x3": (1,)}
    equal = rank_kernels({"a": np.ones((3, 4))}, THREE, "top_c").layers["a"]
    assert equal.channels == {"3x3x3": (0, 1, 2, 3)}


def test_granularity_by_hand() -> None:
    """Three channels want 3x3x3 and one 1x1x3: in pairs the one that loses least changes over."""
    gates = [[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.2, 0.7, 0.5, 1.0]]
    layer = rank_kernels({"a": gates}, THREE, granularity=2).layers["a"]
    assert layer.channels == {"3x3x3": (0, 2), "1x1x3": (1, 3)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("rule", "granularity"), [("argmax", 2), ("argmax", 3), ("top_c", 1), ("top_c", 2)])
def test_granularity_is_exact(rule: str, granularity: int, seed: int) -> None:
    """No allowed choice has a larger total weight; the lasso's gates, which differ by powers of ten, included."""
    channels = 6 if rule == "argmax" else 4
    random = np.random.default_rng(seed)
    gates = random.random((3, channels)) ** (8 if seed % 2 else 1)
    ranking = rank_kernels({"a": gates}, THREE, rule, granularity)
    best = (everything(3, channels, rule, granularity) * gates).sum((1, 2)).max()
    assert ranking.weight == pytest.approx(best, rel=1e-9)
    assert all(count % granularity == 0 for count in ranking.layers["a"].split.as_dict().values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rule", "granularity"), [("argmax", 1), ("argmax", 2), ("top_c", 1), ("top_c", 2)])
def test_budget_is_met_as_well_as_possible(rule: str, granularity: int, seed: int) -> None:
    """Under a budget over two layers no allowed choice of both has a larger total weight."""
    random = np.random.default_rng(seed)
    gates = {name: random.random((3, 4)) for name in "ab"}
    costs = {"a": (27, 9, 3), "b": (54.5, 17, 6.25)}
    ranking = rank_kernels(gates, THREE, rule, granularity, Budget(150, costs, fixed=20), tolerance=0)

    masks = everything(3, 4, rule, granularity)
    weights = [(masks * gates[name]).sum((1, 2)) for name in "ab"]
    spent = [masks.sum(2) @ np.array(costs[name]) for name in "ab"]
    total, cost = weights[0][:, None] + weights[1], 20 + spent[0][:, None] + spent[1]
    assert ranking.weight == pytest.approx(total[cost <= 150].max(), rel=1e-9)
    assert ranking.cost <= 150
    assert ranking.bound == pytest.approx(ranking.weight, rel=1e-6)


def test_a_budget_that_is_met_anyway_changes_nothing() -> None:
    """With room for everything the result is the one without a budget."""
    gates = {"a": np.random.default_rng(0).random((3, 8))}
    budget = Budget(8 * 27, {"a": (27, 9, 3)})
    assert rank_kernels(gates, THREE, budget=budget).layers == rank_kernels(gates, THREE).layers


def test_the_smallest_budget_can_be_met() -> None:
    """A limit of exactly the smallest possible total gives the cheapest sub-kernel everywhere."""
    gates = {"a": np.random.default_rng(0).random((3, 8))}
    ranking = rank_kernels(gates, THREE, budget=Budget(124, {"a": (27, 9, 3)}, fixed=100))
    assert ranking.layers["a"].split.as_dict() == {"1x1x3": 8}
    assert ranking.cost == 124


@pytest.mark.parametrize(
    ("init_filters", "granularity", "limit", "tolerance"), [(32, 1, 9_720_000, 1e-3), (8, 8, 607_500, 3e-3)]
)
def test_a_whole_network_under_a_budget(init_filters: int, granularity: int, limit: int, tolerance: float) -> None:
    """The papers' 2560 channels and 9.72 M parameters: as near to the optimum as promised, repeatably, in seconds."""
    topology = Architecture.published("c2fnas-3d").topology
    random = np.random.default_rng(0)
    layers = c2fnas_path_layers(topology, SUB_KERNELS, init_filters)
    gates = {name: random.random((7, layer.out_channels)) for name, layer in layers.items()}
    manual = manual_architecture("123d", init_filters=init_filters)
    cost = c2fnas_cost(manual, init_filters=init_filters)
    budget = network_budget(limit, "params", layers, manual.splits, cost)
    ranking = rank_kernels(gates, SUB_KERNELS, granularity=granularity, budget=budget, tolerance=tolerance)
    assert 0.99 * limit < ranking.cost <= limit
    assert ranking.bound * (1 - tolerance) <= ranking.weight <= ranking.bound * (1 + 1e-9)
    again = rank_kernels(gates, SUB_KERNELS, granularity=granularity, budget=budget, tolerance=tolerance)
    assert again.layers == ranking.layers


def test_the_widest_layer_with_granularity() -> None:
    """C = 512 and seven sub-kernels in multiples of 16, twice the same; gates that are all equal do not hurt."""
    gates = {"a": np.random.default_rng(1).random((7, 512)), "b": np.ones((7, 512))}
    ranking = rank_kernels(gates, SUB_KERNELS, granularity=16)
    assert ranking.layers == rank_kernels(gates, SUB_KERNELS, granularity=16).layers
    assert ranking.layers["b"].weight == 512
    assert ranking.layers["a"].weight <= rank_kernels(gates, SUB_KERNELS).layers["a"].weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "best"}, "unknown rule 'best', allowed are argmax, top_c"),
        ({"granularity": 3}, "a: granularity 3 does not divide its 4 channels"),
        ({"granularity": 0}, "a: granularity 0 does not divide"),
        ({"sub_kernels": "1d2d"}, "unknown set '1d2d', allowed are 1d, 2d"),
        ({"sub_kernels": "2d", "gates": {"a": np.ones((2, 4))}}, r"a: gates of shape \(2, 4\), .*3 sub-kernels"),
        ({"gates": {"a": np.full((3, 4), np.nan)}}, "a: gates are not finite"),
        ({"budget": Budget(15, {"a": (27, 9, 3)}, 10, "params")}, "at most 15 params, the smallest possible is 22"),
        ({"budget": Budget(15, {"b": (27, 9, 3)})}, "the budget has no costs for a"),
    ],
)
def test_what_is_refused(arguments, message: str) -> None:
    """What is wrong is said, with what is allowed."""
    with pytest.raises(ValueError, match=message):
        rank_kernels(**{"gates": {"a": np.ones((3, 4))}, "sub_kernels": THREE, **arguments})
