# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Costs of networks for clips: the paper's tables to the digit, and what torch counts on the built network."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cakes_video.architectures import PUBLISHED_NAMES, manual_video_architecture, video_architecture
from cakes_video.cost import PUBLISHED_VIDEO_COSTS, video_cost
from cakes_video.resnet import VideoResNet


@pytest.mark.parametrize("row", PUBLISHED_VIDEO_COSTS, ids=lambda row: f"{row.model}-{row.frames}")
def test_tables_3_and_4_to_the_digit(row) -> None:
    """CAKES, table 3 and the 16-frame rows of table 4, as printed (one digit)."""
    cost = video_cost(video_architecture(row.model), size=(row.frames, 224, 224))
    assert f"{cost.params / 1e6:.1f}" == f"{row.params_m:.1f}"
    of_8_frames = round(cost.paper_flops * 8 / row.frames / 1e9, 1)
    assert of_8_frames * row.frames / 8 == row.flops_g  # table 4 prints twice the rounded figure of table 3


@pytest.mark.parametrize(
    ("model", "params", "multiply_adds", "paper_flops"),
    [
        ("c2d", 23_864_558, 32.700, 32.962),
        ("p3d", 27_636_974, 37.632, 37.894),
        ("c3d", 46_499_054, 62.295, 62.557),
        ("manual-12d", 20_092_142, 27.767, 28.007),
        ("manual-23d", 35_181_806, 47.497, 47.737),
        ("performance-12d", 20_884_718, 28.830, 29.069),
        ("performance-23d", 37_477_742, 50.453, 50.692),
        ("performance-123d", 33_508_334, 43.616, 43.856),
        ("cost-12d", 20_498_030, 29.096, 29.336),
        ("cost-23d", 35_695_598, 41.193, 41.433),
        ("cost-123d", 35_029_358, 38.499, 38.739),
    ],
)
def test_costs_to_the_unit(model: str, params: int, multiply_adds: float, paper_flops: float) -> None:
    """Parameters as the authors' network has them, operations to a million."""
    cost = video_cost(video_architecture(model))
    assert cost.params == params
    assert cost.multiply_adds / 1e9 == pytest.approx(multiply_adds, abs=6e-4)
    assert cost.paper_flops / 1e9 == pytest.approx(paper_flops, abs=6e-4)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
@pytest.mark.parametrize("model", ["c2d", "p3d", "manual-123d"])
def test_closed_form_is_what_torch_counts(backbone: str, model: str) -> None:
    """Parameters and multiply-adds of the built network, for sizes that do not divide."""
    architecture = video_architecture(model, backbone, width=6)
    network = VideoResNet(architecture, 5, width=6, in_channels=2).eval()
    cost = video_cost(architecture, 5, 6, (3, 45, 34), in_channels=2)
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, 3, 45, 34))
    assert cost.multiply_adds == counter.get_total_flops() // 2


def test_published_splits_are_for_one_network() -> None:
    """Another backbone or width has no published split; an unknown name is answered with the known ones."""
    with pytest.raises(ValueError, match="published for resnet50 of width 64, not for resnet18 of width 64"):
        video_architecture("cost-12d", "resnet18")
    with pytest.raises(ValueError, match="no architecture 'manual-1d' for clips, there are c2d, c3d, p3d, manual-12d"):
        video_architecture("manual-1d")
    assert len(PUBLISHED_NAMES) == 12


def test_manual_settings_are_even() -> None:
    """The rest of 64 over three goes to the first sub-kernel; multiples are kept."""
    splits = video_architecture("manual-123d").splits
    assert splits["layer1.0.conv2"].as_dict() == {"3x3x3": 22, "1x3x3": 21, "3x1x1": 21}
    splits = manual_video_architecture("123d", granularity=16).splits
    assert splits["layer1.0.conv2"].as_dict() == {"3x3x3": 32, "1x3x3": 16, "3x1x1": 16}
    with pytest.raises(ValueError, match=r"layer1\.0\.conv2: granularity 16 does not divide 8 channels"):
        manual_video_architecture("12d", width=8, granularity=16)
