# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""ResDSN costs what the papers print and is trained at three resolutions."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import nn

from cakes_monai.conversion import network_cost, shrink
from cakes_monai.cost import PUBLISHED_COSTS
from cakes_monai.nets import ResDSN


def test_cost_is_that_of_the_papers() -> None:
    """Parameters within 2 % (in fact to the printed digit), FLOPs between those of C2FNAS and CAKES."""
    (published,) = (row for row in PUBLISHED_COSTS if row.model == "resdsn")
    cost = network_cost(ResDSN(1, 2), (1, 1, 96, 96, 96))
    assert cost.params == pytest.approx(published.params_m * 1e6, rel=0.02)
    assert f"{cost.params / 1e6:.2f} M" == "10.03 M"
    assert 188.37 <= cost.paper_flops / 1e9 <= 192.07
    assert f"{cost.paper_flops / 1e9:.1f} G" == "189.9 G"


def test_parameters_by_hand() -> None:
    """With one filter: convolutions of 27 taps, 1x1x1 shortcut, transposed ones of 8, heads; 2 numbers a norm."""

    def conv(in_channels: int, out_channels: int, taps: int = 27) -> int:
        return taps * in_channels * out_channels + 2 * out_channels

    first = conv(2, 1) + conv(1, 1) + conv(2, 1, taps=1)
    down = conv(1, 2) + conv(2, 4) + conv(4, 8)
    up = conv(2, 1, 8) + conv(4, 2, 8) + conv(8, 4, 8)
    residual = 2 * (1 * conv(1, 1) + 4 * conv(2, 2) + 4 * conv(4, 4) + 2 * conv(8, 8))
    heads = 3 * (1 + 2 + 4) + 3 * 3
    assert sum(p.numel() for p in ResDSN(2, 3, 1).parameters()) == first + down + up + residual + heads


def test_training_gives_three_resolutions_for_the_loss() -> None:
    """Finest first, each half of the one before; MONAI's loss takes them; eval gives the finest only."""
    torch.manual_seed(0)
    network = ResDSN(1, 2, 2)
    image, label = torch.randn(2, 1, 16, 24, 32), torch.ones(2, 1, 16, 24, 32)
    outputs = network.train()(image)
    sizes = [(16, 24, 32), (8, 12, 16), (4, 6, 8)]
    assert [tuple(output.shape) for output in outputs] == [(2, 2, *size) for size in sizes]
    DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))(outputs, label).backward()
    assert all(p.grad is not None for p in network.parameters())
    torch.testing.assert_close(network.eval()(image), network.train()(image)[0])


def test_skips_and_shortcuts_are_sums() -> None:
    """With convolutions of zeros in all blocks but the first the output is that of the skip at full resolution."""
    torch.manual_seed(0)
    network = ResDSN(1, 1, 2).eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and not name.startswith(("encoder.0.", "heads")):
            nn.init.zeros_(module.weight)
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(network(image), network.heads[0](network.encoder[0](image)))


def test_sizes_that_do_not_divide_are_refused() -> None:
    """The error says what is allowed."""
    with pytest.raises(ValueError, match=r"^an input of 16x12x16: sizes must be multiples of 8\.$"):
        ResDSN(1, 1, 1)(torch.zeros(1, 1, 16, 12, 16))


def test_cakes_on_it() -> None:
    """One call shrinks all 3x3x3 convolutions but the stem's; CAKES-C prints 4.63 M and 98.12 G for its split."""
    shrunken, report = shrink(ResDSN(1, 2), "123d", init="random")
    assert list(report.passed_over.values()).count("reads the image") == 1
    assert len(report.layers) == 26
    cost = network_cost(shrunken)
    assert f"{cost.params / 1e6:.2f} M, {cost.paper_flops / 1e9:.1f} G" == "3.52 M, 65.9 G"
