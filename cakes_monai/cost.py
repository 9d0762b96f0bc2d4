# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-adds and the papers' FLOPs of a network in closed form, without building it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from cakes_monai.architecture import Architecture, KernelSplit

__all__ = ["PUBLISHED_COSTS", "Cost", "LayerCost", "PublishedCost", "c2fnas_cost"]


@dataclass(frozen=True)
class LayerCost:
    """
    Cost of one layer for one input.

    Args:
        name: where the layer is in the network.
        params: trainable numbers, those of the norm included.
        multiply_adds: of the convolution only.
        elementwise: what the papers add for norm (2 an element), ReLU, up-sampling and bias (1 an element each).
    """

    name: str
    params: int
    multiply_adds: int
    elementwise: int


@dataclass(frozen=True)
class Cost:
    """Cost of a network, layer by layer."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        """Trainable numbers."""
        return sum(layer.params for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolutions, what other tools call MACs."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def paper_flops(self) -> int:
        """FLOPs as both papers count them, multiply-adds and the element-wise operations."""
        return self.multiply_adds + sum(layer.elementwise for layer in self.layers)


def c2fnas_cost(
    architecture: Architecture | Mapping[str, Any],
    in_channels: int = 1,
    out_channels: int = 2,
    init_filters: int = 32,
    size: Sequence[int] = (96, 96, 96),
) -> Cost:
    """
    Cost of :class:`cakes_monai.nets.C2FNAS` with affine instance norm and ReLU.

    With the default arguments ``paper_flops`` is what CAKES (table 1) and C2FNAS (table 2) print.

    Args:
        architecture: the architecture or its JSON content.
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        init_filters: filters of the first convolution.
        size: voxels of the input along D, H and W; sizes that do not divide are padded as the network does.

    Raises:
        ValueError: when the splits are made for another ``init_filters``.
    """
    architecture = Architecture.of(architecture)
    architecture.check_channels(init_filters)
    divisor = architecture.topology.divisor
    voxels = prod(ceil(length / divisor) * divisor for length in size)
    filters = init_filters
    layers = [
        _convolution("stem.0", in_channels, _cube(filters), voxels),
        _convolution("stem.1", filters, _cube(2 * filters), voxels // 8),
    ]
    for index in range(len(architecture.cells)):
        layers += _cell(architecture, index, filters, voxels)
    layers += [
        _convolution("end.0", 2 * filters, _cube(filters), voxels // 8),
        LayerCost("end.upsample", 0, 0, filters * voxels),
        _convolution("end.1", filters, _cube(filters), voxels),
        LayerCost("end.2", (filters + 1) * out_channels, filters * out_channels * voxels, out_channels * voxels),
    ]
    return Cost(tuple(layers))


def _cell(architecture: Architecture, index: int, init_filters: int, input_voxels: int) -> list[LayerCost]:
    levels = architecture.topology.levels
    channels = init_filters * 2 ** (levels[index] + 1)
    voxels = input_voxels // 8 ** (levels[index] + 1)
    layers = []
    for branch, source in enumerate(architecture.topology.inputs[index]):
        name = f"cells.{index}.preprocessing.{branch}"
        step = levels[index] - (levels[source] if source >= 0 else 0)
        if step == 1:
            layers.append(_convolution(name, channels // 2, _cube(channels), voxels))
        elif step == -1:
            layers.append(LayerCost(f"{name}.upsample", 0, 0, 2 * channels * voxels))
            layers.append(_pointwise(name, 2 * channels, channels, voxels))
        else:
            layers.append(_pointwise(name, channels, channels, voxels))
        splits = architecture.cells[index].convolutions(branch, channels)
        for number, split in enumerate(splits):
            last = number == len(splits) - 1
            layers.append(_convolution(f"cells.{index}.operations.{branch}", channels, split, voxels, norm=last))
    return [*layers, _pointwise(f"cells.{index}.postprocessing", channels, channels, voxels)]


def _cube(out_channels: int) -> KernelSplit:
    return KernelSplit((("3x3x3", out_channels),))


def _convolution(name: str, in_channels: int, split: KernelSplit, voxels: int, norm: bool = True) -> LayerCost:
    """Bias-free convolution, then (unless ``norm`` is false) affine norm and ReLU."""
    return _layer(name, in_channels * split.taps, split.out_channels, voxels, norm)


def _pointwise(name: str, in_channels: int, out_channels: int, voxels: int) -> LayerCost:
    return _layer(name, in_channels * out_channels, out_channels, voxels, norm=True)


def _layer(name: str, weights: int, out_channels: int, voxels: int, norm: bool) -> LayerCost:
    return LayerCost(
        name,
        params=weights + (2 * out_channels if norm else 0),
        multiply_adds=weights * voxels,
        elementwise=3 * out_channels * voxels if norm else 0,
    )


@dataclass(frozen=True)
class PublishedCost:
    """
    A row of the papers' cost tables (input 1x96x96x96).

    Args:
        model: name of the network; where :meth:`Architecture.published` knows it, its cost is computed.
        source: paper, table and row.
        params_m: printed parameters in millions.
        flops_g: printed FLOPs in G, as the papers count them; None where the table prints none.
        same_cost_as: a published architecture of exactly this cost, for a row whose own split is not published.
    """

    model: str
    source: str
    params_m: float
    flops_g: float | None
    same_cost_as: str | None = None

    @property
    def architecture(self) -> str | None:
        """Published architecture with the cost of this row; None where only the printed figures are known."""
        return self.model if self.model in Architecture.published_names() else self.same_cost_as


#: Any assignment of 1D (2D) sub-kernels to channels costs the same, so the searched rows of one dimension have the
#: cost of the manual ones, though their splits were not published.
PUBLISHED_COSTS = (
    PublishedCost("c2fnas-2d", "CAKES table 1, 2D", 11.29, 97.77),
    PublishedCost("c2fnas-3d", "CAKES table 1, 3D", 22.50, 188.48),
    PublishedCost("c2fnas-p3d", "CAKES table 1, P3D", 13.16, 112.88),
    PublishedCost("cakes-manual-1d", "CAKES table 1, M 1D", 7.56, 67.53),
    PublishedCost("cakes-manual-2d", "CAKES table 1, M 2D", 11.29, 97.77),
    PublishedCost("cakes-manual-123d", "CAKES table 1, M 1,2,3D", 11.41, 99.17),
    PublishedCost("cakes-performance-1d", "CAKES table 1, P 1D", 7.56, 67.53, "cakes-manual-1d"),
    PublishedCost("cakes-performance-2d", "CAKES table 1, P 2D", 11.29, 97.77, "cakes-manual-2d"),
    PublishedCost("cakes-performance-123d", "CAKES table 1, P 1,2,3D", 11.26, 99.68),
    PublishedCost("cakes-cost-123d", "CAKES table 1, C 1,2,3D", 9.72, 87.16),
    PublishedCost("cakes-cost-123d", "CAKES table 2, C 1,2,3D", 9.27, None),
    PublishedCost("c2fnas-panc", "C2FNAS table 2", 17.02, 150.78),
    PublishedCost("3d-unet", "C2FNAS table 2", 19.07, 825.30),
    PublishedCost("vnet", "C2FNAS table 2", 45.59, 301.88),
    PublishedCost("voxresnet", "C2FNAS table 2", 6.92, 173.02),
    PublishedCost("resdsn", "C2FNAS table 2", 10.03, 188.37),
    PublishedCost("attention-unet", "C2FNAS table 2", 103.88, 1162.75),
)
