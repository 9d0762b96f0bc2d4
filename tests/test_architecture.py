# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Architecture: identities of the JSON form and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.architecture import KERNEL_SETS, SUB_KERNELS, Architecture, Cell, KernelSplit, Topology

C2FNAS_LEVELS = (0, 0, 1, 1, 2, 3, 2, 2, 1, 0, 0, 0)


@pytest.mark.parametrize("name", Architecture.published_names())
def test_load_is_the_inverse_of_save(name: str, tmp_path: Path) -> None:
    """What was saved is what is loaded, origin included."""
    architecture = replace(Architecture.published(name), origin={"stage": "kernels", "seed": 3, "versions": {"a": "1"}})
    architecture.save(tmp_path / "architecture.json")
    assert Architecture.load(tmp_path / "architecture.json") == architecture


def test_json_is_the_documented_one() -> None:
    """The JSON has the keys and the canonical kernel order that docs/architecture.md shows."""
    split = KernelSplit.of({"3x1x1": 1, "1x3x3": 35, "3x3x3": 28, "1x1x3": 0})
    architecture = Architecture(Topology((0,)), (Cell("cakes", (split,)),), {"stage": "kernels"})
    assert json.loads(architecture.dumps()) == {
        "format": 1,
        "origin": {"stage": "kernels"},
        "topology": {"levels": [0]},
        "cells": [{"operation": "cakes", "kernels": [{"3x3x3": 28, "1x3x3": 35, "3x1x1": 1}]}],
    }
    assert list(split.as_dict()) == ["3x3x3", "1x3x3", "3x1x1"]


def test_inputs_of_the_published_topology() -> None:
    """The 12 cells read what C2FNAS figure 5 shows: [s] [0,s] [1] [2] [3] [4] [5,4] [6] [7,3] [8,1] [9] [10,9]."""
    expected = ((-1,), (0, -1), (1,), (2,), (3,), (4,), (5, 4), (6,), (7, 3), (8, 1), (9,), (10, 9))
    assert Topology(C2FNAS_LEVELS).inputs == expected


def test_skip_from_the_stem_when_the_first_cell_goes_down() -> None:
    """Without an encoder cell at level 0 the skip comes from the stem."""
    assert Topology((1, 0)).inputs == ((-1,), (0, -1))


def test_published_architectures_have_2560_searchable_channels() -> None:
    """The appendix of CAKES counts 1378 + 1065 + 117 = 1135 + 1073 + 352 = 2560 sub-kernels."""
    cells = Architecture.published("cakes-manual-123d").cells
    assert sum(split.out_channels for cell in cells for split in cell.kernels) == 2560


def test_an_option_gives_a_name_or_a_path(tmp_path: Path) -> None:
    """A published name has the filters that are asked for, a path what the file says."""
    assert Architecture.find("cakes-manual-123d", 4) == Architecture.published("cakes-manual-123d", 4)
    path = tmp_path / "architecture.json"
    Architecture.published("cakes-manual-1d", 8).save(path)
    for given in (path, str(path)):
        assert Architecture.find(given, 32).init_filters == 8
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken\.json: format None is unknown"):
        Architecture.find(tmp_path / "broken.json")


@pytest.mark.parametrize("given", ["c2fnas-pank", "nowhere/architecture.json"])
def test_neither_name_nor_file(given: str) -> None:
    """The message has what was given, and every name that is allowed."""
    with pytest.raises(ValueError, match=rf"^{given}: cannot be read .*c2fnas-panc, .*cakes-manual-123d\.$"):
        Architecture.find(given)


def test_what_an_even_division_leaves_over_goes_to_the_first_sub_kernel() -> None:
    """64 channels over seven sub-kernels are 10 and six times 9, over three 22, 21, 21."""
    assert [count for _, count in KernelSplit.even(SUB_KERNELS, 64).counts] == [10, 9, 9, 9, 9, 9, 9]
    assert KernelSplit.even(KERNEL_SETS["1d"], 64).as_dict() == {"3x1x1": 22, "1x3x1": 21, "1x1x3": 21}


def test_taps_by_hand() -> None:
    """Two 27-tap, one 9-tap and three 3-tap kernels have 72 weights for an input channel."""
    assert KernelSplit.of({"3x3x3": 2, "3x1x3": 1, "1x1x3": 3}).taps == 2 * 27 + 9 + 3 * 3


def test_init_filters_are_read_off_the_splits() -> None:
    """A manual architecture knows the width it was made for; one without splits fits every width."""
    assert Architecture.published("cakes-manual-2d", 14).init_filters == 14
    assert Architecture.published("c2fnas-panc").init_filters is None


def _content(**changes: Any) -> dict[str, Any]:
    return Architecture.published("cakes-manual-123d").to_json() | changes


def test_a_wrong_channel_sum_names_the_split() -> None:
    """One channel too few in one split is found, with the place, the sum and the right number."""
    content = _content()
    content["cells"][6]["kernels"][1]["3x3x3"] -= 1
    with pytest.raises(ValueError, match=r"cells\[6\]\.kernels\[1\]: sub-kernels give 255 channels, the cell has 256"):
        Architecture.from_json(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_content(format=2), "format 2 is unknown, allowed is 1"),
        ([], "format 'list' is unknown"),
        ({"format": 1, "topology": {"levels": [0]}}, "the file lacks cells"),
        (_content(weights=1), "the file has unknown weights, allowed are cells, format, origin, topology"),
        (_content(topology={"levels": [0, 2, 0]}), "topology.levels: level of cell 1 differs by 2"),
        (_content(topology={"levels": [1, 0, 1, 0]}), "cell 2 goes down after an up-sampling"),
        (_content(topology={"levels": [0, 1]}), "the last cell is at level 1, it must be at level 0"),
        (_content(topology={"levels": []}), "levels must be whole numbers"),
        (_content(topology={"levels": [0]}), "12 cells for 1 levels"),
        (_content(cells=[{"operation": "4d"}]), r"cells\[0\]: unknown operation '4d', allowed are 2d, 3d, p3d, cakes"),
        (_content(cells=[{"operation": "3d", "kernels": [{"3x3x3": 64}]}]), "'cakes' must have some, others none"),
        (_content(cells=[{"operation": "cakes"}]), "'cakes' must have some, others none"),
        (
            _content(cells=[{"operation": "cakes", "kernels": [{"5x5x5": 64}]}]),
            r"cells\[0\]\.kernels\[0\]: unknown sub-kernel '5x5x5', allowed are 3x3x3, 1x3x3",
        ),
        (
            _content(cells=[{"operation": "cakes", "kernels": [{"3x3x3": -1}]}]),
            r"cells\[0\]\.kernels\[0\]: sub-kernel '3x3x3' has -1 channels",
        ),
        (_content(cells=[{"operation": "cakes", "kernels": [{"3x3x3": 0}]}]), "no sub-kernel has a channel"),
    ],
)
def test_an_illegal_file_is_refused_with_place_and_reason(content: Any, message: str, tmp_path: Path) -> None:
    """Each error names the file, the place in it, what is wrong and what is allowed."""
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        Architecture.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A missing file and one that is no JSON are refused by name."""
    with pytest.raises(ValueError, match=r"none\.json: cannot be read \(No such file"):
        Architecture.load(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"format": 1,')
    with pytest.raises(ValueError, match=r"torn\.json: Expecting"):
        Architecture.load(tmp_path / "torn.json")


def test_a_cell_with_two_inputs_needs_two_splits() -> None:
    """The number of splits is held against the topology."""
    cell = Cell("cakes", (KernelSplit.of({"3x3x3": 64}),))
    with pytest.raises(ValueError, match=r"cells\[1\]: 1 splits, the cell has 2 inputs"):
        Architecture(Topology((0, 0)), (cell, cell))


def test_unknown_published_name() -> None:
    """The error lists the names there are."""
    with pytest.raises(ValueError, match="no published architecture 'c2fnas-4d', there are c2fnas-2d"):
        Architecture.published("c2fnas-4d")


def test_splits_keep_their_shares_when_scaled() -> None:
    """Largest remainders by hand: 10, 9 x 6 of 64 channels for 32 are 5, 5 and 4 x ... up to 32 in all."""
    split = KernelSplit.even(SUB_KERNELS, 64)
    assert list(split.scaled(32).as_dict().values()) == [5, 5, 5, 5, 4, 4, 4]
    assert split.scaled(128).as_dict() == {name: 2 * count for name, count in split.as_dict().items()}
    architecture = Architecture.published("cakes-manual-123d", 8)
    assert architecture.scaled(8).cells == architecture.cells
    assert architecture.scaled(4).init_filters == 4
    assert Architecture.published("c2fnas-panc").scaled(4).cells == Architecture.published("c2fnas-panc").cells
