# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How long each candidate sub-kernel of a super-network takes on this machine, for the real shape of its layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn

from cakes_monai.blocks import CakesConv, SampledPaths, path_operations
from cakes_monai.blocks.network_copy import copied
from cakes_monai.inference.timing import Cache, machine, median_milliseconds, read_times, write_times
from cakes_monai.search import PathLayer

__all__ = ["latency_table", "measure_path_latency", "path_layers"]


def path_layers(network: nn.Module, input_shape: Sequence[int]) -> dict[str, PathLayer]:
    """
    Shapes of the layers with candidate sub-kernels; nothing is computed.

    Args:
        network: a super-network.
        input_shape: ``(N, C, D, H, W)`` of the network's input.

    Raises:
        ValueError: when the network has no paths.
    """
    path_operations(network)
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    shadow = copied(bare).to("meta").train()
    layers: dict[str, PathLayer] = {}
    for name, operation in path_operations(shadow).items():
        if isinstance(operation, SampledPaths):
            operation.draw(torch.Generator())
        operation.register_forward_pre_hook(lambda m, x, name=name: layers.update({name: _path_layer(m, x[0].shape)}))
    with torch.no_grad():
        shadow(torch.empty(*input_shape, device="meta"))
    return {name: layers[name] for name in path_operations(shadow)}


def _path_layer(operation: Any, shape: torch.Size) -> PathLayer:
    batch, channels, depth, height, width = shape
    size = (depth, height, width)
    return PathLayer(operation.sub_kernels, channels, operation.channels, size, operation.conv.stride, batch)


def measure_path_latency(
    layers: Mapping[str, PathLayer],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache: Cache = None,
    rounds: int = 15,
) -> dict[str, tuple[float, ...]]:
    """
    Milliseconds of every layer's convolution when all its channels have the same sub-kernel.

    The sub-kernels of a layer are measured in turns, round after round, so that what else the machine does meets all
    of them; the median over the rounds counts. A busy machine is warned of.

    Args:
        layers: what :func:`path_layers` found; layers of one shape are measured once.
        device: where to measure.
        dtype: type of input and weights.
        cache: JSON file of former measurements; it is completed, and made when it does not exist.
        rounds: number of measurements.

    Returns:
        For each layer the median time with each of its sub-kernels; those of the first rank on all ranks, because
        what follows from them must be the same everywhere.

    Raises:
        ValueError: when ``cache`` is not such a file.
    """
    if idist.get_world_size() == 1:
        return _measured_here(layers, torch.device(device), dtype, cache, rounds)
    found = {name: (0.0,) * len(layer.sub_kernels) for name, layer in layers.items()}
    if idist.get_rank() == 0:
        found = _measured_here(layers, torch.device(device), dtype, cache, rounds)
    flat = torch.tensor([ms for times in found.values() for ms in times], dtype=torch.float64)
    times = iter(idist.broadcast(flat.to(idist.device()), src=0).tolist())
    return {name: tuple(next(times) for _ in layer.sub_kernels) for name, layer in layers.items()}


def _measured_here(
    layers: Mapping[str, PathLayer], device: torch.device, dtype: torch.dtype, cache: Cache, rounds: int
) -> dict[str, tuple[float, ...]]:
    known = read_times(cache)
    found = {}
    for name, layer in layers.items():
        keys = [_key(layer, sub_kernel, device, dtype) for sub_kernel in layer.sub_kernels]
        if not all(key in known for key in keys):
            known.update(zip(keys, _measured(name, layer, device, dtype, rounds), strict=True))
            write_times(cache, known)
        found[name] = tuple(known[key] for key in keys)
    return found


def latency_table(layers: Mapping[str, PathLayer], milliseconds: Mapping[str, Sequence[float]]) -> str:
    """One line for each layer: its channels, the size of its input, and the ms of each sub-kernel."""
    names = next(iter(layers.values())).sub_kernels
    width = max(len(name) for name in layers)
    lines = [f"{'ms':{width}} {'channels':>9} {'size':>11} " + " ".join(f"{name:>9}" for name in names)]
    for name, layer in layers.items():
        size = "x".join(str(length) for length in layer.size)
        times = " ".join(f"{ms:9.4f}" for ms in milliseconds[name])
        lines.append(f"{name:{width}} {layer.out_channels:9d} {size:>11} {times}")
    return "\n".join(lines)


def _measured(name: str, layer: PathLayer, device: torch.device, dtype: torch.dtype, rounds: int) -> list[float]:
    image = torch.zeros(layer.batch, layer.in_channels, *layer.size, device=device, dtype=dtype)
    convs = [
        CakesConv(layer.in_channels, {sub_kernel: layer.out_channels}, layer.stride).to(device, dtype)
        for sub_kernel in layer.sub_kernels
    ]
    return median_milliseconds(name, [partial(conv, image) for conv in convs], device, rounds)


def _key(layer: PathLayer, sub_kernel: str, device: torch.device, dtype: torch.dtype) -> str:
    """All that the time depends on, in words."""
    sizes = (layer.batch, layer.in_channels, *layer.size)
    return (
        f"{machine(device)}, {dtype}, input {'x'.join(map(str, sizes))}, {layer.out_channels} channels, "
        f"stride {layer.stride}, {sub_kernel}"
    )
