# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The penalty that pushes the gates of expensive paths to zero."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cakes_monai.blocks import path_operations
from cakes_monai.inference.path_latency import measure_path_latency, path_layers
from cakes_monai.search import cost_betas, parameter_betas

__all__ = ["BETAS", "GateLasso", "gate_betas", "gate_penalty"]

#: What beta can be proportional to.
BETAS = ("params", "flops", "latency")

Betas = Mapping[str, Sequence[float]]


def gate_betas(
    network: nn.Module,
    beta: str = "params",
    input_shape: Sequence[int] | None = None,
    latency_cache: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, tuple[float, ...]]:
    """
    Weight of the gates of each sub-kernel in each layer.

    Args:
        network: super-network, on the device whose latency counts.
        beta: "params" is the paper's: taps over the sum of the taps of the set's dimensions, the same in all layers.
            "flops" (multiply-adds) and "latency" follow the real shapes, see :func:`cakes_monai.search.cost_betas`.
        input_shape: ``(N, C, D, H, W)`` of the network's input, for "flops" and "latency".
        latency_cache: JSON file that keeps measured times.
        dtype: type in which latency is measured.

    Returns:
        Beta of each sub-kernel by layer, the same on all ranks.

    Raises:
        ValueError: for an unknown beta, or one that lacks the input shape.
    """
    if beta not in BETAS:
        raise ValueError(f"unknown beta {beta!r}, allowed are {', '.join(BETAS)}.")
    if beta == "params":
        return {name: parameter_betas(operation.sub_kernels) for name, operation in path_operations(network).items()}
    if input_shape is None:
        raise ValueError(f"beta {beta!r} depends on the input_shape (N, C, D, H, W), which is not given.")
    layers = path_layers(network, input_shape)
    if beta == "flops":
        return cost_betas(layers, {name: layer.multiply_adds for name, layer in layers.items()})
    device = next(network.parameters()).device
    milliseconds = measure_path_latency(layers, device, dtype, latency_cache)
    return cost_betas(layers, {n: [ms / layer.out_channels for ms in milliseconds[n]] for n, layer in layers.items()})


def gate_penalty(network: nn.Module, betas: str | Betas = "params") -> Tensor:
    """
    Sum of ``beta * |alpha|`` over all gates (CAKES, equation 10), in float32 also under autocast.

    Args:
        network: super-network; every gate counts once.
        betas: for each layer the weight of each sub-kernel, see :func:`gate_betas`; or "params".

    Raises:
        ValueError: when betas do not fit the network.
    """
    given = gate_betas(network, betas) if isinstance(betas, str) else betas
    return _penalty(network, _beta_of_every_gate(network, given))


def _beta_of_every_gate(network: nn.Module, betas: Betas) -> Tensor:
    values: list[float] = []
    for name, operation in path_operations(network).items():
        if len(betas.get(name, ())) != len(operation.sub_kernels):
            raise ValueError(f"{name}: betas {betas.get(name)}, there must be {len(operation.sub_kernels)}.")
        values += [beta for beta in betas[name] for _ in range(operation.channels)]
    return torch.tensor(values)


def _penalty(network: nn.Module, beta: Tensor) -> Tensor:
    gates = torch.cat([operation.gates.float().flatten() for operation in path_operations(network).values()])
    return (gates.abs() * beta.to(gates.device)).sum()


class GateLasso(nn.Module):
    """
    A loss plus ``lambda * sum(beta * |alpha|)`` over the gates of a super-network (CAKES, equation 10).

    As part of the loss the penalty is scaled, clipped and reduced over ranks together with it.

    Args:
        loss: loss of prediction and target.
        network: super-network; it does not become a part of this module.
        weight: lambda.
        beta: "params" (the paper's), "flops" or "latency", see :func:`gate_betas`, or its result.
        input_shape: ``(N, C, D, H, W)`` of the network's input, for "flops" and "latency".
        latency_cache: JSON file that keeps measured times, for "latency".
        dtype: type in which latency is measured, for "latency".

    Raises:
        ValueError: for a weight below 0, an unknown beta, or a network without paths.

    Example:
        >>> loss = GateLasso(DiceCELoss(softmax=True), supernet, beta="flops", input_shape=(1, 1, 96, 96, 96))
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        network: nn.Module,
        weight: float = 1e-4,
        beta: str | Betas = "params",
        input_shape: Sequence[int] | None = None,
        latency_cache: str | os.PathLike[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight {weight} of the penalty (lambda) must be at least 0.")
        if isinstance(beta, str):
            beta = gate_betas(network, beta, input_shape, latency_cache, dtype)
        self.loss = loss
        self.weight = weight
        self.betas = dict(beta)
        self._networks = (network,)  # in a tuple, so that its weights are not the loss's
        self.beta_of_every_gate: Tensor
        self.register_buffer("beta_of_every_gate", _beta_of_every_gate(network, beta), persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: D102 - described above
        if self.beta_of_every_gate.device != prediction.device:
            self.beta_of_every_gate = self.beta_of_every_gate.to(prediction.device)
        return self.loss(prediction, target) + self.weight * _penalty(self._networks[0], self.beta_of_every_gate)
