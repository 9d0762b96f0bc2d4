# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Commands of ``python -m cakes_video``, except the scan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from typer.testing import CliRunner

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.__main__ import app
from cakes_video.architectures import video_architecture
from cakes_video.resnet import VideoResNet, saved_class_names


def plain(output: str) -> str:
    """Text without the box and the line breaks that a terminal gets."""
    return re.sub(r"[\s│]+", " ", output)


def run(*arguments: object) -> str:
    """Output of a command that succeeds."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_cost_prints_the_papers_tables() -> None:
    """Eleven rows of table 3 and three of table 4, ours beside the printed figures."""
    lines = run("cost").splitlines()
    assert len(lines) == 1 + 14
    assert lines[1].split()[:6] == ["c2d", "23.865", "32.700", "32.962", "23.90", "33.00"]
    rows = json.loads(run("cost", "--json"))
    assert {row["model"]: row["params"] for row in rows}["c3d"] == 46_499_054


def test_architecture_goes_through_files(tmp_path: Path) -> None:
    """What one command prints the others read."""
    path = tmp_path / "architecture.json"
    path.write_text(run("architecture", "manual-123d", "--backbone", "resnet18", "--width", 8))
    assert BackboneArchitecture.load(path) == video_architecture("manual-123d", "resnet18", 8)
    row = json.loads(run("cost", "--architecture", path, "--width", 8, "--num-classes", 5, "--json"))[0]
    network = VideoResNet(BackboneArchitecture.load(path), 5, 8)
    assert row["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert run("summary", path).splitlines()[1].split()[0] == "layer1.0.conv1"


def test_errors_are_those_of_a_command_line(tmp_path: Path) -> None:
    """No traceback, exit code 2."""
    for arguments, message in (
        (["architecture", "c4d"], "no architecture 'c4d'"),
        (["cost", "--architecture", "nowhere.json"], "nowhere.json: cannot be read"),
        (["cost", "--size", "0", "1", "1"], "sizes must be at least 1"),
        (["convert", "nowhere.tar", "--output", str(tmp_path)], "nowhere.tar: cannot be read"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert message in plain(result.output)


def test_convert_writes_weights_with_names(tmp_path: Path) -> None:
    """From the layout of the authors' code to files that load; names of another number are refused."""
    network = VideoResNet(video_architecture("cost-12d"), 2)
    weights = {}
    for name, value in network.state_dict().items():
        theirs = name.replace("conv2.convs.0.sub_kernels.1x3x3.", "convT.convs.0.0.")
        theirs = theirs.replace("conv2.convs.0.sub_kernels.3x1x1.", "convT.convs.1.0.")
        theirs = theirs.replace("conv2.adn.N.", "convT.out.0.")
        weights[f"module.new_fc{name[2:]}" if name.startswith("fc") else f"module.base_model.{theirs}"] = value
    del weights["module.base_model._extra_state"]
    torch.save({"state_dict": weights}, tmp_path / "8frame.tar")
    (tmp_path / "names.txt").write_text("Opening\nClosing\n")
    run("convert", tmp_path / "8frame.tar", "--output", tmp_path / "out", "--class-names", tmp_path / "names.txt")
    assert saved_class_names(tmp_path / "out" / "model.pt") == ("Opening", "Closing")
    loaded = VideoResNet(BackboneArchitecture.load(tmp_path / "out" / "architecture.json"), 2)
    loaded.load_state_dict(torch.load(tmp_path / "out" / "model.pt", weights_only=True))
    assert torch.equal(loaded.fc.weight, network.fc.weight)

    (tmp_path / "names.txt").write_text("Opening\n")
    command = ["convert", tmp_path / "8frame.tar", "--output", tmp_path, "--class-names", tmp_path / "names.txt"]
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert "has 1 names, the checkpoint has 2 classes" in plain(result.output)
