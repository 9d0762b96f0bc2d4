# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One run of a network without values, which tells what each of its layers reads and gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cakes_monai.blocks import CakesConv
from cakes_monai.blocks.network_copy import copied, tensors_in

__all__ = ["LayerTrace", "NetworkTrace", "trace_network"]

_SIZE = 96  # voxels along each axis, as in the papers' cost tables


@dataclass
class LayerTrace:
    """
    What one layer did in one run for one image; layers that are run several times add up.

    Args:
        size: D, H and W of its input.
        inputs: numbers in all its inputs.
        outputs: numbers in all its outputs.
        reads_image: whether it reads the input of the network.
        norm: name of the norm that alone reads its output.
    """

    size: tuple[int, ...]
    inputs: int = 0
    outputs: int = 0
    reads_image: bool = False
    norm: str | None = None


@dataclass(frozen=True)
class NetworkTrace:
    """
    One run of a network.

    Args:
        input_shape: ``(1, C, D, H, W)`` of the network's input.
        layers: the layers that were run by name, in the order in which they were run for the first time.
    """

    input_shape: tuple[int, ...]
    layers: dict[str, LayerTrace]


def trace_network(network: nn.Module, input_shape: Sequence[int] | None = None) -> NetworkTrace:
    """
    Run a copy of the network in eval mode without values, so that nothing is computed.

    Args:
        network: it is not changed.
        input_shape: ``(N, C, D, H, W)`` of its input, of which one image is run; by default ``(1, C, 96, 96, 96)``
            with the channels that the first convolution reads.

    Raises:
        ValueError: when the network does not take such an input, or has no 3D convolution to tell a default from.
    """
    shape = (1, *(int(length) for length in (input_shape or _default_input_shape(network))[1:]))
    shadow = copied(network).to("meta").eval()
    dtype = next((p.dtype for p in shadow.parameters() if p.is_floating_point()), torch.float32)
    image = torch.empty(shape, device="meta", dtype=dtype, requires_grad=True)
    run = _Run(shadow, image)
    try:
        with torch.enable_grad():
            output = shadow(image)
    except Exception as error:  # what a network raises for a wrong input is its own choice
        reason = str(error).strip().partition("\n")[0]
        said = "x".join(map(str, shape))
        hint = "" if input_shape else "; give an input_shape"
        raise ValueError(f"{type(network).__name__} does not take an input of {said} ({reason}){hint}.") from error
    run.find_norms(output)
    return NetworkTrace(shape, run.layers)


class _Run:
    """Records what the layers of a network do, by hooks; nodes of the autograd graph tell whose values they are."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        self.image = image
        self.layers: dict[str, LayerTrace] = {}
        self.givers: dict[str, Any] = {}  # the node that gave the output of each layer
        self.readers: dict[str, Any] = {}  # the node that gave the input of each norm
        for name, module in network.named_modules():
            module.requires_grad_(True)
            if isinstance(module, CakesConv) or not list(module.children()):
                module.register_forward_hook(partial(self.record, name), with_kwargs=True)
            if isinstance(module, _ConvNd | CakesConv):
                module.register_forward_pre_hook(partial(_check_channels, name))

    def record(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(x, Tensor) or not isinstance(output, Tensor):
            return
        layer = self.layers.setdefault(name, LayerTrace(tuple(x.shape[2:])))
        layer.inputs += x.numel()
        layer.outputs += output.numel()
        layer.reads_image |= all(getattr(node, "variable", self.image) is self.image for node in _nodes([x.grad_fn]))
        several = name in self.givers
        self.givers[name] = None if several else output.grad_fn
        if isinstance(module, _NormBase | nn.GroupNorm):
            self.readers[name] = None if several else x.grad_fn

    def find_norms(self, output: Any) -> None:
        """Note the norm behind each layer, unless something else reads the layer's output too."""
        ends = [tensor.grad_fn for tensor in tensors_in(output)]
        uses = Counter(ends) + Counter(node for reader in _nodes(ends) for node, _ in reader.next_functions)
        for name, giver in self.givers.items():
            norms = [norm for norm, node in self.readers.items() if giver is not None and node is giver]
            if len(norms) == 1 and uses[giver] == 1:
                self.layers[name].norm = norms[0]


def _check_channels(name: str, conv: Any, args: tuple[Any, ...]) -> None:
    """Say what is wrong with an input in words; without values torch does not."""
    if args and isinstance(args[0], Tensor) and args[0].shape[1] != conv.in_channels:
        raise ValueError(f"{name} reads {conv.in_channels} channels, not {args[0].shape[1]}")


def _nodes(ends: Sequence[Any]) -> Iterator[Any]:
    """All nodes of the autograd graph that ends in these."""
    waiting, seen = list(ends), set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            yield node


def _default_input_shape(network: nn.Module) -> tuple[int, ...]:
    for module in network.modules():
        if isinstance(module, nn.Conv3d | CakesConv):
            return (1, module.in_channels, _SIZE, _SIZE, _SIZE)
    raise ValueError(f"{type(network).__name__} has no 3D convolution.")
