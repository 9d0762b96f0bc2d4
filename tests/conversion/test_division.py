# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Channels are divided as asked, and each gets the sub-kernel with which the layer loses least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cakes_monai.architecture import KERNEL_SETS, KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.conversion.division import Division
from cakes_monai.search import Budget


def losses(division: Division, layer: str, channels: int, seed: int = 0) -> np.ndarray:
    """Random errors of every candidate in every channel."""
    return np.random.default_rng(seed).random((len(division.candidates(layer)), channels))


def total(errors: np.ndarray, division: Division, channels: dict[str, tuple[int, ...]]) -> float:
    """Sum of the errors of a choice."""
    names = division.candidates("layer")
    return float(sum(errors[names.index(name), list(chosen)].sum() for name, chosen in channels.items()))


@pytest.mark.parametrize(
    ("kernels", "options", "expected"),
    [
        ("1d", {}, {"3x1x1": 4, "1x3x1": 2, "1x1x3": 2}),
        (["1x1x3", "3x3x3"], {"granularity": 4}, {"3x3x3": 4, "1x1x3": 4}),
        ({"1x3x3": 3, "3x1x1": 1}, {}, {"1x3x3": 6, "3x1x1": 2}),
        ({"layer": {"3x3x3": 1, "1x3x3": 7}}, {}, {"3x3x3": 1, "1x3x3": 7}),
        (
            BackboneArchitecture.of_splits("net", {"layer": KernelSplit.of({"3x3x1": 8})}),
            {},
            {"3x3x1": 8},
        ),
    ],
    ids=["set", "list", "proportions", "splits", "architecture"],
)
def test_splits_of_a_layer_of_8_channels(kernels, options, expected: dict[str, int]) -> None:
    """Sets are divided evenly, proportions scaled, given splits kept; every channel has one sub-kernel."""
    division = Division(kernels, **options)
    channels = division.assign({"layer": losses(division, "layer", 8)})["layer"]
    assert {name: len(chosen) for name, chosen in channels.items()} == expected
    assert sorted(c for chosen in channels.values() for c in chosen) == list(range(8))


def test_the_assignment_is_the_best_of_all() -> None:
    """Of all ways to give 6 channels two of each of three sub-kernels none loses less."""
    division = Division("1d")
    errors = losses(division, "layer", 6, seed=3)
    found = total(errors, division, division.assign({"layer": errors})["layer"])
    every = [p for p in itertools.product(range(3), repeat=6) if all(p.count(kernel) == 2 for kernel in range(3))]
    assert len(every) == 90
    assert found == pytest.approx(min(errors[list(p), range(6)].sum() for p in every))


def test_best_follows_the_errors_and_the_granularity() -> None:
    """Without granularity each channel has its own best; with it the counts are multiples, and nothing is better."""
    free, coarse = Division("2d", "best"), Division("2d", "best", granularity=4)
    errors = losses(free, "layer", 8)
    assert total(errors, free, free.assign({"layer": errors})["layer"]) == pytest.approx(errors.min(0).sum())
    channels = coarse.assign({"layer": errors})["layer"]
    assert {len(chosen) % 4 for chosen in channels.values()} == {0}


def test_best_of_a_set_with_3x3x3_keeps_everything_without_a_budget() -> None:
    """What loses nothing is chosen everywhere."""
    division = Division("123d", "best")
    errors = losses(division, "layer", 8)
    errors[0] = 0
    assert division.assign({"layer": errors})["layer"] == {"3x3x3": tuple(range(8))}


def test_a_budget_is_kept() -> None:
    """The costs of the chosen sub-kernels stay below the limit."""
    division = Division("123d", "best")
    errors = {name: losses(division, name, 8, seed) for seed, name in enumerate(("a", "b"))}
    taps = (27, 9, 9, 9, 3, 3, 3)
    channels = division.assign(errors, Budget(100, {"a": taps, "b": taps}))
    costs = [taps[division.names.index(n)] * len(c) for kept in channels.values() for n, c in kept.items()]
    assert 48 <= sum(costs) <= 100


def test_a_budget_goes_where_errors_count() -> None:
    """Of two layers that lose the same, the one whose errors count ten times as much gets the 3x3x3 kernels."""
    division = Division(["3x3x3", "1x1x3"], "best")
    errors = np.array([[0.0] * 4, [0.5] * 4])
    budget = Budget(4 * 27 + 4 * 3, {"a": (27, 3), "b": (27, 3)})
    importance = {"a": np.full(4, 2.0), "b": np.full(4, 20.0)}
    channels = division.assign({"a": errors, "b": errors}, budget, importance)
    assert channels == {"a": {"1x1x3": (0, 1, 2, 3)}, "b": {"3x3x3": (0, 1, 2, 3)}}


def test_important_channels_get_what_loses_least() -> None:
    """Of channels that lose the same, the more important ones get the larger sub-kernel of an even division."""
    division = Division(["3x3x3", "1x1x3"])
    errors = {"layer": np.array([[0.0] * 4, [0.5] * 4])}
    channels = division.assign(errors, importance={"layer": np.array([1.0, 0.0, 3.0, 2.0])})
    assert channels["layer"] == {"3x3x3": (2, 3), "1x1x3": (0, 1)}


def test_errors_count_where_nothing_seems_important() -> None:
    """A channel on which no output depends still gets the sub-kernel with the smallest error."""
    division = Division("2d", "best")
    errors = losses(division, "layer", 8)
    for importance in (np.zeros(8), np.array([1.0] + [0.0] * 7)):
        channels = division.assign({"layer": errors}, importance={"layer": importance})["layer"]
        assert total(errors, division, channels) == pytest.approx(errors.min(0).sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("45d",), "unknown set '45d', allowed are 1d, 2d"),
        ((["5x5x5"],), "unknown sub-kernel '5x5x5'"),
        (({"5x5x5": 2},), "unknown sub-kernel '5x5x5'"),
        (({"layer": 3, "other": {}},), "a split maps sub-kernels to channels"),
        (("1d", "greedy"), "unknown division 'greedy', allowed are even, best"),
        (({"1x3x3": 1}, "best"), "division and granularity are for a set of sub-kernels; splits are given"),
        (({"1x3x3": 1}, "even", 4), "division and granularity are for a set of sub-kernels; splits are given"),
    ],
)
def test_illegal_arguments(arguments, message: str) -> None:
    """What is wrong is said, with what is allowed."""
    with pytest.raises(ValueError, match=message):
        Division(*arguments)


@pytest.mark.parametrize(
    ("division", "message"),
    [
        (Division("1d", granularity=3), "layer: granularity 3 does not divide 8 channels"),
        (Division("1d", "best", 3), "layer: granularity 3 does not divide 8 channels"),
        (Division({"1x3x3": 3}), "layer: sub-kernels give 3 channels, the layer has 8"),
        (Division({"layer": {"1x3x3": 4}}), "layer: sub-kernels give 4 channels, the layer has 8"),
    ],
    ids=["set", "best", "proportions", "splits"],
)
def test_layers_that_cannot_be_divided_are_named(division: Division, message: str) -> None:
    """The layer stands in front."""
    with pytest.raises(ValueError, match=f"^{message}"):
        division.split("layer", 8)


def test_splits_choose_the_layers() -> None:
    """Only layers with a split are divided; a split for another layer is an error that lists the layers."""
    assert list(Division({"b": {"1x3x3": 1}}).select({"a": 1, "b": 2})) == ["b"]
    assert list(Division("1d").select({"a": 1, "b": 2})) == ["a", "b"]
    with pytest.raises(ValueError, match=r"^splits for c; convolutions to shrink are a, b\.$"):
        Division({"b": {"1x3x3": 1}, "c": {"1x3x3": 1}}).select({"a": 1, "b": 2})


def test_candidates_are_in_the_canonical_order() -> None:
    """Those of a set for every layer, those of a split for its own."""
    assert Division("12d").candidates("any") == KERNEL_SETS["12d"]
    assert Division({"layer": {"1x1x3": 1, "3x3x3": 1}}).candidates("layer") == ("3x3x3", "1x1x3")
