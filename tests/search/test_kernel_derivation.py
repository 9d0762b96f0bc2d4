# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Rankings become architectures and files; manual settings are one command."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.architecture import Architecture, KernelSplit, Topology
from cakes_monai.cost import c2fnas_cost
from cakes_monai.search import (
    KernelDerivation,
    SplitSummary,
    manual_architecture,
    rank_kernels,
    split_summary,
)


def test_derivation_keeps_the_channels(tmp_path: Path) -> None:
    """architecture.json has the counts, the result file has the channels they come from, the origin and the totals."""
    gates = {"cells.0.operations.0": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.5]]}
    ranking = rank_kernels(gates, ["3x3x3", "1x3x3", "1x1x3"])
    architecture = Architecture.of_splits(Topology((0,)), ranking.splits, {"stage": "kernels", "seed": 3})
    assert architecture.cells[0].kernels[0].as_dict() == {"3x3x3": 1, "1x3x3": 1, "1x1x3": 2}

    KernelDerivation(architecture, ranking).save(tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text())
    layer = content["layers"]["cells.0.operations.0"]
    assert layer["channels"] == {"3x3x3": [0], "1x3x3": [1], "1x1x3": [2, 3]}
    assert content["origin"] == {"stage": "kernels", "seed": 3}
    assert content["dimensions"] == {"1D": 2, "2D": 1, "3D": 1}
    assert content["axes"] == {"D": 1, "H": 2, "W": 4}


def test_a_missing_layer_is_named() -> None:
    """A ranking of another topology is refused."""
    ranking = rank_kernels({"cells.0.operations.0": np.ones((3, 4))}, "1d")
    with pytest.raises(ValueError, match=r"no split is given for cells\.1\.operations\.0, cells\.1\.operations\.1"):
        Architecture.of_splits(Topology((0, 0)), ranking.splits)


def test_totals_are_counted_as_in_the_papers_appendix() -> None:
    """CAKES, appendix: 1378, 1065 and 117 operations of 1D, 2D and 3D are 1285, 1260 and 1314 along the axes."""
    split = {"3x3x3": 117, "1x3x3": 355, "3x1x3": 355, "3x3x1": 355, "3x1x1": 458, "1x3x1": 433, "1x1x3": 487}
    summary = SplitSummary({"all": KernelSplit.of(split)})
    assert summary.dimensions == {"1D": 1378, "2D": 1065, "3D": 117}
    assert summary.axes == {"D": 1285, "H": 1260, "W": 1314}
    for totals, axes in (((1378, 1065, 117), (1285, 1260, 1314)), ((1135, 1073, 352), (1437, 1433, 1467))):
        assert totals[0] + 2 * totals[1] + 3 * totals[2] == sum(axes)


def test_summary_table() -> None:
    """One line for each layer in the order of the network, then the totals."""
    lines = split_summary(Architecture.published("cakes-manual-123d")).table().splitlines()
    assert lines[1].split() == ["cells.0.operations.0", "10", "9", "9", "9", "9", "9", "9"]
    assert len(lines) == 1 + 17 + 2
    with pytest.raises(ValueError, match="the architecture has no 'cakes' cell"):
        split_summary(Architecture.published("c2fnas-3d"))


@pytest.mark.parametrize("kernels", ["1d", "2d", "123d"])
def test_manual_is_the_papers(kernels: str) -> None:
    """Evenly divided channels are the published manual settings, with their cost."""
    assert manual_architecture(kernels).cells == Architecture.published(f"cakes-manual-{kernels}").cells


def test_manual_with_granularity() -> None:
    """
    64 channels in multiples of 8 for seven sub-kernels: 8 more for one of them, in every convolution for another.

    Over the network all have the same number, up to one block, and in multiples of 16 the cost stays that of the
    papers' division.
    """
    cells = manual_architecture("123d", granularity=8).cells
    assert list(cells[0].kernels[0].as_dict().values()) == [16, *[8] * 6]
    assert list(cells[1].kernels[0].as_dict().values()) == [8, 16, *[8] * 5]
    assert list(cells[1].kernels[1].as_dict().values()) == [8, 8, 16, *[8] * 4]
    coarse = manual_architecture("123d", granularity=16)
    totals = Counter[str]()
    for cell in coarse.cells:
        for split in cell.kernels:
            totals.update(split.as_dict())
    assert max(totals.values()) - min(totals.values()) <= 16
    assert sum(totals.values()) == 2560  # networks.md: output channels of the 17 convolutions
    ours, papers = (c2fnas_cost(found, 1, 2).multiply_adds for found in (coarse, manual_architecture("123d")))
    assert ours == pytest.approx(papers, rel=0.05)
    with pytest.raises(ValueError, match=r"cells\[0\]: granularity 24 does not divide 64 channels"):
        manual_architecture("123d", granularity=24)


def test_manual_command(tmp_path: Path) -> None:
    """What the command prints is an architecture.json; the summary command counts it."""
    command = ["manual", "--set", "3x3x3,1x1x3", "--granularity", "16", "--init-filters", "16"]
    (tmp_path / "architecture.json").write_text(CliRunner().invoke(app, command).output)
    architecture = Architecture.load(tmp_path / "architecture.json")
    assert architecture == manual_architecture(["3x3x3", "1x1x3"], 16, 16)
    assert architecture.cells[0].kernels[0].as_dict() == {"3x3x3": 16, "1x1x3": 16}
    summary = CliRunner().invoke(app, ["summary", str(tmp_path / "architecture.json")])
    assert "sub-kernels: 1D 640, 2D 0, 3D 640" in summary.output


def test_manual_command_names_the_sets() -> None:
    """An unknown set is an error of the command line, without a traceback."""
    result = CliRunner().invoke(app, ["manual", "--set", "4d"])
    assert result.exit_code == 2
    assert "unknown set '4d'" in result.output
