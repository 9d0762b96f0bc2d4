# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What is done with all paths of a super-network: draw them, read their gates, evaluate a choice of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cakes_monai.blocks.kernel_supernet import ConcatenatedPaths, SampledPaths

__all__ = ["draw_paths", "gate_magnitudes", "keep_paths", "path_operations"]


def path_operations(network: nn.Module) -> dict[str, Any]:
    """
    The operations with candidate paths by name, each once.

    Args:
        network: a super-network, also one within DistributedDataParallel, whose prefix the names do not have.

    Raises:
        ValueError: when there are none.
    """
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    found = {name: m for name, m in bare.named_modules() if isinstance(m, SampledPaths | ConcatenatedPaths)}
    if not found:
        raise ValueError(f"{type(bare).__name__} has no convolutions with candidate sub-kernels; make a super-network.")
    return found


def draw_paths(network: nn.Module, seed: int, iteration: int) -> None:
    """
    Draw one sub-kernel for every output channel, as a function of seed and iteration only.

    All ranks draw the same, and a resumed training draws what the killed one would have.

    Args:
        network: super-network of performance priority.
        seed: any whole number from 0.
        iteration: number of the iteration from the start of the training.

    Raises:
        ValueError: when the network has no paths to draw.
    """
    sampled = [m for m in path_operations(network).values() if isinstance(m, SampledPaths)]
    if not sampled:
        raise ValueError("the super-network computes all its paths (cost priority), there are none to draw.")
    mixed = np.random.SeedSequence((seed, iteration)).generate_state(2)
    generator = torch.Generator().manual_seed(int(mixed[0]) << 31 ^ int(mixed[1]))
    for operation in sampled:
        operation.draw(generator)


def gate_magnitudes(network: nn.Module) -> dict[str, NDArray[np.float64]]:
    """
    Path weights ``|alpha|`` of every layer, ``(sub-kernels, C)``.

    Raises:
        ValueError: when the network has no paths.
    """
    return {name: m.gates.detach().abs().double().cpu().numpy() for name, m in path_operations(network).items()}


def keep_paths(network: nn.Module, channels: Mapping[str, Mapping[str, Sequence[int]]] | None) -> None:
    """
    Make eval mode run chosen paths only.

    Args:
        network: the super-network.
        channels: for every layer the channels of each sub-kernel; None returns to what the priority does without.

    Raises:
        ValueError: when a layer is missing, or performance priority gets a channel with none or several sub-kernels.
    """
    operations = path_operations(network)
    if channels is not None and (missing := operations.keys() - channels.keys()):
        raise ValueError(f"no paths to keep are given for {', '.join(sorted(missing))}.")
    for name, operation in operations.items():
        operation.keep(None if channels is None else channels[name])
