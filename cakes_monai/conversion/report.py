# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What a network was before it was shrunk, what it is now, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import monai
import torch
from torch import nn

from cakes_monai import __version__
from cakes_monai.architecture import SUB_KERNELS, KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.conversion.layer_search import LayerSearch, grouped_by_reason
from cakes_monai.conversion.network_cost import network_cost
from cakes_monai.cost import Cost, LayerCost

__all__ = ["ShrinkReport", "ShrunkLayer", "Totals", "report_of"]


@dataclass(frozen=True)
class Totals:
    """
    Cost of a layer or network.

    Args:
        params: numbers in its weights.
        multiply_adds: for one image of the report's input shape.
    """

    params: int
    multiply_adds: int


@dataclass(frozen=True)
class ShrunkLayer:
    """
    One convolution that was replaced.

    Args:
        name: its place.
        split: output channels of each sub-kernel.
        before: its cost with 3x3x3 kernels.
        after: its cost now.
        error: part of its output's energy that is lost, the mean of all channels; None where weights are random.
    """

    name: str
    split: KernelSplit
    before: Totals
    after: Totals
    error: float | None


@dataclass(frozen=True)
class ShrinkReport:
    """
    What :func:`~cakes_monai.conversion.shrink` did.

    Args:
        architecture: the splits by layer; with the original constructor it rebuilds the network.
        layers: the convolutions that were replaced.
        passed_over: all other convolutions with the reason.
        input_shape: ``(1, C, D, H, W)`` of the image for which multiply-adds are counted.
        before: cost of the whole network before.
        after: cost of the whole network now.
    """

    architecture: BackboneArchitecture
    layers: tuple[ShrunkLayer, ...]
    passed_over: Mapping[str, str]
    input_shape: tuple[int, ...]
    before: Totals
    after: Totals

    def to_json(self) -> dict[str, Any]:
        """The report in dicts and lists."""
        layers = [asdict(layer) | {"split": layer.split.as_dict()} for layer in self.layers]
        return {
            "input_shape": list(self.input_shape),
            "before": asdict(self.before),
            "after": asdict(self.after),
            "layers": layers,
            "passed_over": dict(self.passed_over),
        }

    def table(self) -> str:
        """One line for each layer: sub-kernels, parameters and multiply-adds in millions, error; then the totals."""
        width = max(len(layer.name) for layer in self.layers)
        kernels = " ".join(f"{name:>6}" for name in SUB_KERNELS)
        lines = [f"{'':{width}} {kernels} {'M params':>15} {'M multiply-adds':>19} {'error':>6}"]
        for layer in self.layers:
            counts = layer.split.as_dict()
            split = " ".join(f"{counts.get(name, 0):6d}" for name in SUB_KERNELS)
            error = "-" if layer.error is None else f"{layer.error:.3f}"
            lines.append(f"{layer.name:{width}} {split} {_change(layer.before, layer.after)} {error:>6}")
        lines.append(f"{'whole network':{width}} {'':{len(kernels)}} {_change(self.before, self.after)}")
        size = "x".join(map(str, self.input_shape))
        passed = grouped_by_reason(self.passed_over, "\n  ")
        return "\n".join([*lines, f"multiply-adds for an input of {size}", "passed over:", f"  {passed}"])


def report_of(
    network: nn.Module,
    shrunken: nn.Module,
    found: LayerSearch,
    splits: Mapping[str, KernelSplit],
    lost: Mapping[str, float],
    origin: Mapping[str, Any],
) -> ShrinkReport:
    """
    Compare a network before and after.

    Args:
        network: before.
        shrunken: after.
        found: the convolutions of the network before.
        splits: what those that were replaced have now.
        lost: the error of each of these, where it is known.
        origin: how the splits came about.
    """
    versions = {"cakes_monai": __version__, "torch": str(torch.__version__), "monai": monai.__version__}
    architecture = BackboneArchitecture.of_splits(type(network).__name__, splits, {**origin, "versions": versions})
    costs = [network_cost(version, found.trace.input_shape) for version in (network, shrunken)]
    before, after = ({layer.name: layer for layer in cost.layers} for cost in costs)
    layers = [
        ShrunkLayer(name, split, _totals(before[name]), _totals(after[name]), lost.get(name))
        for name, split in splits.items()
    ]
    left = {name: "no split is given" for name in found.layers if name not in splits}
    passed_over = {**found.passed_over, **left}
    totals = [_totals(cost) for cost in costs]
    return ShrinkReport(architecture, tuple(layers), passed_over, found.trace.input_shape, totals[0], totals[1])


def _totals(cost: Cost | LayerCost) -> Totals:
    return Totals(cost.params, cost.multiply_adds)


def _change(before: Totals, after: Totals) -> str:
    params = f"{before.params / 1e6:.3f} > {after.params / 1e6:.3f}"
    return f"{params:>15} {f'{before.multiply_adds / 1e6:.1f} > {after.multiply_adds / 1e6:.1f}':>19}"
