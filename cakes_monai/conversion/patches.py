# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What convolutions really read: 3x3x3 patches of their inputs at random places, while a network runs on volumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakes_monai.conversion.replacement import DenseLayer

__all__ = ["run_volumes", "sample_patches", "sampled_layers"]

_BYTES = 2**29  # of patches that are held at a time


def sampled_layers(layers: Mapping[str, DenseLayer], samples: int) -> Iterator[dict[str, DenseLayer]]:
    """The layers in groups whose patches take at most half a GiB, or of one layer."""
    group: dict[str, DenseLayer] = {}
    held = 0
    for name, layer in layers.items():
        size = samples * layer.in_channels * 27 * next(layer.parameters()).element_size()
        if group and held + size > _BYTES:
            yield group
            group, held = {}, 0
        group[name] = layer
        held += size
    yield group


def sample_patches(
    network: nn.Module, layers: Mapping[str, DenseLayer], volumes: Sequence[Tensor], samples: int
) -> dict[str, Tensor]:
    """
    Run a network in eval mode and keep patches that the layers read, borders as the layers pad them.

    Args:
        network: the network; it is as before afterwards.
        layers: some of its convolutions.
        volumes: inputs of the network, ``(N, C, D, H, W)``.
        samples: patches of each layer, from all volumes together; a layer with fewer places has all of them.

    Returns:
        For each layer ``(patches, in_channels, 27)``.

    Raises:
        ValueError: as :func:`run_volumes`, and when a layer reads what is not finite.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    generators = {name: torch.Generator().manual_seed(0) for name in layers}  # places do not depend on other layers
    count = ceil(samples / len(volumes))

    def keep(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        found[name].append(_patches(layer, args[0].detach(), count, generators[name]))

    handles = [layer.register_forward_pre_hook(partial(keep, name)) for name, layer in layers.items()]
    try:
        run_volumes(network, volumes)
    finally:
        for handle in handles:
            handle.remove()
    patches = {name: torch.cat(parts) for name, parts in found.items()}
    for name, values in patches.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"{name}: reads values that are not finite when the network runs on the volumes.")
    return patches


def _patches(layer: Any, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random places of what a layer reads, each once."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    places = F.pad(x, [1] * 6, mode=mode)
    for axis, stride in zip((2, 3, 4), layer.stride, strict=True):
        places = places.unfold(axis, 3, stride)  # a view: (N, C, D, H, W, 3, 3, 3)
    sizes = (len(x), *places.shape[2:5])
    chosen = torch.randperm(prod(sizes), generator=generator)[:count].to(x.device)
    image, depth, height, width = torch.unravel_index(chosen, sizes)
    return places[image, :, depth, height, width].flatten(2)


def run_volumes(network: nn.Module, volumes: Sequence[Tensor], gradients: bool = False) -> None:
    """
    Run a network in eval mode on volumes, for its hooks.

    Args:
        network: the network; it is as before afterwards.
        volumes: its inputs, ``(N, C, D, H, W)``.
        gradients: whether the hooks want gradients.

    Raises:
        ValueError: naming the volume that the network does not take, or that is not finite.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for number, volume in enumerate(volumes):
            said = f"volumes[{number}] of {'x'.join(map(str, volume.shape))}"
            if not torch.isfinite(volume).all():
                raise ValueError(f"{said} has values that are not finite.")
            with torch.set_grad_enabled(gradients):
                _run(network, volume, said)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _run(network: nn.Module, volume: Tensor, said: str) -> None:
    try:
        network(volume)
    except Exception as error:  # what a network raises for a wrong input is its own choice
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{type(network).__name__} does not take {said} ({reason}).") from error
