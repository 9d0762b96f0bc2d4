# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Small networks of several makers, and volumes as smooth as images are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet, UNet
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.architecture import Architecture, Cell, Topology
from cakes_monai.nets import C2FNAS, ResDSN

AFFINE = ("INSTANCE", {"affine": True})


def _sequential() -> nn.Sequential:
    """Biases, strides, padding modes, and channels that are no powers of two."""
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(6, 8, 3, stride=(1, 2, 2), padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv3d(8, 7, 3, padding="same", padding_mode="circular"),
        nn.BatchNorm3d(7),
        nn.ReLU(),
        nn.Conv3d(7, 9, 3, padding=1, padding_mode="replicate", bias=False),
        nn.Conv3d(9, 2, 1),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dynunet": lambda: DynUNet(
        3,
        1,
        2,
        [3] * 3,
        [1, 2, 2],
        [2, 2],
        filters=[6, 8, 10],
        norm_name=AFFINE,
        deep_supervision=True,
        deep_supr_num=1,
    ),
    "dynunet_residual": lambda: DynUNet(
        3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[6, 8, 10], norm_name="BATCH", res_block=True
    ),
    "segresnet": lambda: SegResNet(init_filters=8, blocks_down=(1, 2), blocks_up=(1,)),
    "unet_residual": lambda: UNet(3, 1, 2, (6, 8, 10), (2, 2), num_res_units=2, norm="BATCH"),
    "sequential": _sequential,
    "c2fnas": lambda: C2FNAS(1, 2, Architecture(Topology((0, 1, 0)), (Cell("3d"),) * 3), 3),
    "resdsn": lambda: ResDSN(1, 2, 4),
}


@pytest.fixture(params=NETWORKS)
def make(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    """The constructor of one of the networks, which always gives the same weights."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        network = NETWORKS[request.param]()
        with torch.no_grad():
            for module in network.modules():  # statistics as after a training
                if isinstance(module, nn.BatchNorm3d):
                    module.running_mean.uniform_(-1, 1)
                    module.running_var.uniform_(0.5, 2)
        return network

    return made


@pytest.fixture
def network(make: Callable[[], nn.Module]) -> nn.Module:
    """One of the networks in eval mode."""
    return make().eval()


@pytest.fixture(scope="session")
def volumes() -> list[Tensor]:
    """Three volumes in which neighbours are alike."""
    noise = torch.randn(3, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    return list(F.avg_pool3d(noise, 3, 1, 1).mul(4).split(1))
