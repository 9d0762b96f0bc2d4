# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths and candidates of the fine stage."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest

from cakes_monai.search.operation_sampling import draw_candidates, draw_operations, rank_correlation


def test_every_operation_is_equally_likely_in_every_cell() -> None:
    """Over 3000 iterations each operation is drawn about 1000 times for each cell, and each pair about 333 times."""
    paths = [draw_operations(0, iteration, 4) for iteration in range(3000)]
    for cell in range(4):
        counts = Counter(path[cell] for path in paths)
        assert counts.keys() == {"2d", "3d", "p3d"}
        assert all(abs(count - 1000) < 100 for count in counts.values())
    pairs = Counter((path[0], path[3]) for path in paths)
    assert len(pairs) == 9
    assert all(abs(count - 333) < 65 for count in pairs.values())


def test_paths_are_a_function_of_seed_and_iteration() -> None:
    """
    The recorded paths, in any order and version of Python.

    Recorded with the calls below under Python 3.11; they must not change, or a resumed training goes another way.
    """
    assert draw_operations(0, 7, 5) == ("3d", "2d", "p3d", "2d", "2d")
    assert draw_operations(0, 8, 5) == ("3d", "2d", "3d", "p3d", "p3d")
    assert draw_operations(1, 7, 5, ("2d", "3d")) == ("3d", "2d", "2d", "2d", "2d")
    assert draw_operations(0, 7, 5) == draw_operations(0, 7, 5)


def test_candidates_are_different_and_drawn_once() -> None:
    """2000 of 3^12 by default, no two equal; fewer are the first of more; they are not the paths of the training."""
    candidates = draw_candidates(3)
    assert len(candidates) == len(set(candidates)) == 2000
    assert {len(candidate) for candidate in candidates} == {12}
    assert draw_candidates(3, 50) == candidates[:50]
    assert draw_candidates(4, 50) != candidates[:50]
    assert candidates[0] not in {draw_operations(3, iteration) for iteration in range(3)}
    counts = Counter(operation for candidate in candidates for operation in candidate)
    assert all(abs(count - 8000) < 300 for count in counts.values())


def test_a_small_space_is_taken_whole() -> None:
    """With at least as many wanted as there are, every combination comes once; one fewer leaves one out."""
    every = set(product(("2d", "3d", "p3d"), repeat=3))
    assert len(draw_candidates(0, 2000, 3)) == len(draw_candidates(0, 27, 3)) == 27
    assert set(draw_candidates(0, 2000, 3)) == every
    assert len(set(draw_candidates(0, 26, 3)) & every) == 26
    assert draw_candidates(0, 5, 1, ["p3d"]) == (("p3d",),)
    assert set(draw_candidates(0, 5, 1, ("3d", "cakes"))) == {("3d",), ("cakes",)}


def test_rank_correlation_by_hand() -> None:
    """Of the 6 pairs of 1,2,3,4 against 1,3,2,4 one is turned round: tau (5-1)/6; rho 1 - 6*2/(4*15)."""
    correlation = rank_correlation([0.1, 0.2, 0.3, 0.4], [10, 30, 20, 40])
    assert correlation.kendall == pytest.approx(4 / 6)
    assert correlation.spearman == pytest.approx(0.8)
    assert correlation.count == 4
    assert correlation.p_value == pytest.approx(8 / 24)  # at most one turned pair (1 + 3), or the opposite
    assert rank_correlation([1, 2, 3], [9, 8, 7]).kendall == pytest.approx(-1)


def test_errors_name_what_is_wrong() -> None:
    """Unknown, repeated and no operations, numbers out of range and scores without an order are refused."""
    for operations in (("2d", "4d"), ("2d", "2d"), (), "3d"):
        with pytest.raises(ValueError, match="allowed are different ones of 2d, 3d, p3d, cakes"):
            draw_operations(0, 0, 3, operations)
    with pytest.raises(ValueError, match="num_cells is 0"):
        draw_candidates(0, 5, 0)
    with pytest.raises(ValueError, match="count is 0, allowed is 1 or more"):
        draw_candidates(0, 0)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        rank_correlation([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="must be finite"):
        rank_correlation([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="they give no order"):
        rank_correlation([1, 2], [3, 3])
