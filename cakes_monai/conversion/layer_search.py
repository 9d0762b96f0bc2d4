# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which convolutions of a network can be shrunk, and why the others are passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from cakes_monai.blocks import CakesConv
from cakes_monai.conversion.network_trace import NetworkTrace, trace_network
from cakes_monai.conversion.replacement import DenseLayer, dense_kernel

__all__ = ["LayerSearch", "Patterns", "find_layers", "grouped_by_reason", "unsuitable_because"]

#: Names of convolutions as one or several patterns of :mod:`fnmatch`.
Patterns = str | Iterable[str]

_WRAPPERS = ("ScriptModule", "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule")


@dataclass(frozen=True)
class LayerSearch:
    """
    Convolutions of a network by name.

    Args:
        layers: those that can be shrunk.
        passed_over: all others, with the reason.
        trace: a run of the network.
    """

    layers: Mapping[str, DenseLayer]
    passed_over: Mapping[str, str]
    trace: NetworkTrace


def find_layers(
    network: nn.Module,
    input_shape: Sequence[int] | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    keep_ends: bool = True,
) -> LayerSearch:
    """
    Find the convolutions with 3x3x3 kernels that can be shrunk.

    These are ``nn.Conv3d`` with kernel 3, padding 1, dilation 1, groups 1 and any stride, and each
    :class:`~cakes_monai.blocks.CakesConv` that has 3x3x3 kernels only.

    Args:
        network: any network.
        input_shape: ``(N, C, D, H, W)`` of its input, by default one image of 96x96x96.
        include: names of the convolutions to shrink, as one or several patterns such as ``"encoder.*"``.
        exclude: names of those to leave alone.
        keep_ends: leave alone what reads the image and the convolution that is run last, as the papers keep the stem
            and the end.

    Raises:
        ValueError: when there is none (with the reason for each convolution), a pattern names nothing, or one of them
            is shared, in a ScriptModule or has weights that are not finite.
    """
    kind = "ScriptModule" if isinstance(network, torch.jit.ScriptModule) else type(network).__name__
    if kind in _WRAPPERS:
        raise ValueError(f"the network is wrapped as {kind}; give the network it was made of.")
    convs = {name: module for name, module in network.named_modules() if _is_convolution(module)}
    unwanted = _unwanted(convs, _patterns(include), _patterns(exclude))
    reasons = {name: unsuitable_because(name, conv) or unwanted.get(name) for name, conv in convs.items()}
    _suitable(network, convs, reasons)
    _check(network, {name: convs[name] for name, reason in reasons.items() if reason is None})
    trace = trace_network(network, input_shape)
    kept = _kept(convs, trace, keep_ends)
    reasons = {name: reason or kept.get(name) for name, reason in reasons.items()}
    found = _suitable(network, convs, reasons)
    return LayerSearch(found, {name: reason for name, reason in reasons.items() if reason is not None}, trace)


def _suitable(network: nn.Module, convs: Mapping[str, Any], reasons: Mapping[str, str | None]) -> dict[str, Any]:
    found = {name: conv for name, conv in convs.items() if reasons[name] is None}
    if not found:
        raise ValueError(f"no convolution of {type(network).__name__} can be shrunk: {grouped_by_reason(reasons)}.")
    return found


def _is_convolution(module: nn.Module) -> bool:
    scripted = isinstance(module, torch.jit.ScriptModule) and "Conv" in str(module.original_name)
    return isinstance(module, _ConvNd | CakesConv) or (scripted and hasattr(module, "weight"))


def _patterns(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _unwanted(convs: Mapping[str, nn.Module], include: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, str]:
    """Reasons of what the patterns leave out."""
    for pattern in (*include, *exclude):
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in convs):
            raise ValueError(f"no convolution has a name like {pattern!r}; there are {', '.join(convs) or 'none'}.")
    reasons = {name: "not included" for name in convs if not any(fnmatchcase(name, p) for p in include)}
    return reasons | {name: "excluded" for name in convs if any(fnmatchcase(name, p) for p in exclude)}


def _kept(convs: Mapping[str, nn.Module], trace: NetworkTrace, keep_ends: bool) -> dict[str, str]:
    """Reasons that a run gives."""
    reasons = {name: "not run in eval mode" for name in convs if name not in trace.layers}
    run = [name for name in trace.layers if name in convs]
    if keep_ends and run:
        reasons |= {name: "reads the image" for name in run if trace.layers[name].reads_image}
        reasons |= {run[-1]: "the last convolution"}
    return reasons


def unsuitable_because(name: str, conv: nn.Module) -> str | None:
    """Why a layer cannot be shrunk, whatever is wanted; None when it can."""
    if isinstance(conv, torch.jit.ScriptModule):
        return None if tuple(conv.weight.shape[2:]) == (3, 3, 3) else f"{conv.original_name} in a ScriptModule"
    if isinstance(conv, CakesConv):
        reason = None if list(conv.split.as_dict()) == ["3x3x3"] else "has sub-kernels already"
    elif type(conv) is not nn.Conv3d:
        reason = f"a {type(conv).__name__}, not a Conv3d"
    else:
        reason = _unsuitable_options(conv)
    if reason is None and (conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks):
        reason = "has hooks"
    return reason or (None if name else "the whole network")


def _unsuitable_options(conv: nn.Conv3d) -> str | None:
    if conv.kernel_size != (3, 3, 3):
        return f"kernel {'x'.join(map(str, conv.kernel_size))}"
    if conv.groups != 1:
        return f"{conv.groups} groups"
    if conv.dilation != (1, 1, 1):
        return f"dilation {'x'.join(map(str, conv.dilation))}"
    same = conv.padding == "same" or conv.padding == (1, 1, 1)
    return None if same else f"padding {conv.padding}, a sub-kernel needs 1"


def grouped_by_reason(reasons: Mapping[str, str | None], separator: str = "; ") -> str:
    """Names of convolutions by the reason they have been passed over for."""
    names: dict[str | None, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return separator.join(f"{', '.join(named)} ({reason})" for reason, named in names.items()) or "there is none"


def _check(network: nn.Module, found: Mapping[str, Any]) -> None:
    """Raise a ValueError for layers that should be shrunk and cannot."""
    places: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for child, part in (*module._modules.items(), *module._parameters.items()):
            if part is not None:
                places.setdefault(id(part), []).append(f"{name}.{child}".removeprefix("."))
    for name, conv in found.items():
        if isinstance(conv, torch.jit.ScriptModule):
            raise ValueError(
                f"{name} is in a ScriptModule, where no layer can be replaced; exclude it or script later."
            )
        weight = dense_kernel(conv)
        for part in (conv, *conv.parameters()):
            if len(places[id(part)]) > 1:
                raise ValueError(f"{' and '.join(places[id(part)])} are the same, a shared layer; exclude {name}.")
        if not torch.isfinite(weight).all():
            raise ValueError(f"{name}: its weights are not finite.")
