# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks are copied in whatever state they are."""

from __future__ import annotations

import torch
from torch import nn

from cakes_monai.blocks.network_copy import copied


def test_results_that_a_network_keeps_are_copied_without_their_history() -> None:
    """Values are equal, nothing is shared, and the original keeps its own."""
    network = nn.Sequential(nn.Linear(2, 2))
    network.kept = {"last": [network(torch.ones(1, 2))], "none": (torch.zeros(1), "text")}
    copy = copied(network)
    assert torch.equal(copy.kept["last"][0], network.kept["last"][0])
    assert copy.kept["last"][0].grad_fn is None
    assert network.kept["last"][0].grad_fn is not None
    copy[0].weight.data.zero_()
    assert network[0].weight.abs().sum() > 0
    assert copy.kept["none"][1] == "text"
