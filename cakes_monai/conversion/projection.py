# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The weights of a sub-kernel that stands for a dense kernel, and what is lost with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cakes_monai.architecture import kernel_size
from cakes_monai.conversion.replacement import sub_kernel_of

__all__ = ["INITS", "Candidates", "fit_again", "project", "restrict"]

#: Where the weights of a sub-kernel come from.
INITS = ("project", "slice", "sum", "random")

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean variance of what the kept taps read
_FEWEST = 8  # patches; with fewer nothing is learnt from them


@dataclass(frozen=True)
class Candidates:
    """
    Every sub-kernel of every output channel of one layer.

    Args:
        kernels: for each sub-kernel ``(out_channels, in_channels, kD, kH, kW)``.
        shifts: for each sub-kernel what is added to the bias of each output channel.
        errors: part of the output's energy that is lost, ``(sub-kernels, out_channels)``, see :func:`restrict`.
        outputs: what the dense kernels give for each patch, ``(patches, out_channels)``, if there were any.
        centred: whether the mean of an output does not matter.
    """

    kernels: dict[str, Tensor]
    shifts: dict[str, Tensor]
    errors: Tensor
    outputs: Tensor | None = None
    centred: bool = False


def restrict(
    kernel: Tensor, sub_kernels: Sequence[str], init: str, patches: Tensor | None, centred: bool
) -> Candidates:
    """
    Sub-kernels without a fit: the taps that they keep ("slice"), or the sums over the axes that they drop ("sum").

    The error of a channel is ``E|y - y'|^2 / E|y|^2`` over the patches, with y the dense kernel's and y' the
    sub-kernel's output; without patches it is the part of the kernel's squared weights outside the sub-kernel, which
    is the error of a slice that reads white noise.

    Args:
        kernel: dense kernels, ``(out_channels, in_channels, 3, 3, 3)``.
        sub_kernels: their names.
        init: "slice" or "sum".
        patches: what the layer reads, ``(patches, in_channels, 27)``, or None.
        centred: whether the mean of an output does not matter, because a bias or a norm takes it away.
    """
    make = _sum if init == "sum" else sub_kernel_of
    kernels = {name: make(kernel, name) for name in sub_kernels}
    none = torch.zeros(len(kernel), dtype=torch.float64, device=kernel.device)
    if patches is None:
        errors = [_lost(kernel, name) for name in sub_kernels]
        return Candidates(kernels, dict.fromkeys(sub_kernels, none), torch.stack(errors))
    x, dense = patches.double(), kernel.detach().double().flatten(2)
    wanted = _outputs(x, dense)
    missed = [
        wanted - _outputs(x[..., _taps(name)], kernels[name].detach().double().flatten(2)) for name in sub_kernels
    ]
    shifts = {name: part.mean(0) if centred else none for name, part in zip(sub_kernels, missed, strict=True)}
    errors = [_relative(part - shifts[name], wanted, centred) for name, part in zip(sub_kernels, missed, strict=True)]
    return Candidates(kernels, shifts, torch.stack(errors), wanted, centred)


def project(kernel: Tensor, sub_kernels: Sequence[str], patches: Tensor, centred: bool) -> Candidates:
    """
    Least squares: the weights with the smallest ``E|y - y'|^2`` on what the layer reads.

    The kept taps take over from the dropped ones as far as they can predict them. It is a ridge regression whose prior
    is the slice or the sum, so a kernel that is zero outside the sub-kernel is left as it is. Of both priors and
    several strengths of the ridge, up to the prior itself, every channel has what loses least on a quarter of the
    patches that the fit did not see, and that is the error given: see :func:`restrict`.

    Time is that of a Cholesky decomposition of ``9 * in_channels`` (or, if fewer, patches) for each strength and
    sub-kernel, in float64.

    Args:
        kernel: dense kernels, ``(out_channels, in_channels, 3, 3, 3)``.
        sub_kernels: their names.
        patches: what the layer reads, ``(patches, in_channels, 27)``.
        centred: whether the mean of an output does not matter, because a bias or a norm takes it away.
    """
    if len(patches) < _FEWEST:
        return restrict(kernel, sub_kernels, "slice", patches, centred)
    kernels, shifts, errors = {}, {}, []
    x, dense = patches.double(), kernel.detach().double().flatten(2)
    wanted = _outputs(x, dense)
    for name in sub_kernels:
        if name == "3x3x3":  # misses nothing
            whole = restrict(kernel, [name], "slice", patches, centred)
            kernels[name], shifts[name] = whole.kernels[name], whole.shifts[name]
            errors.append(whole.errors[0])
            continue
        taps = _taps(name)
        summed = (_sum(kernel, name) - sub_kernel_of(kernel, name)).detach().double().flatten(1).T
        missed = _outputs(x[..., ~taps], dense[..., ~taps])
        change, shift, error = _fit(x[..., taps].flatten(1), missed, summed, centred)
        weights = change.view(len(kernel), -1, *kernel_size(name)).to(kernel)
        kernels[name] = sub_kernel_of(kernel, name).detach() + weights
        shifts[name] = shift
        errors.append(_relative(error, wanted, centred))
    return Candidates(kernels, shifts, torch.stack(errors), wanted, centred)


def fit_again(
    fitted: Candidates, channels: Mapping[str, Tensor], patches: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """
    Change sub-kernels so that they give what they were fitted to when they read something else.

    A ridge regression as in :func:`project`, whose prior are the kernels as they are.

    Args:
        fitted: the sub-kernels, fitted to as many patches.
        channels: output channels of each sub-kernel; only these are fitted.
        patches: what the layer reads now at the places of the patches before, ``(patches, in_channels, 27)``.

    Returns:
        Kernels and shifts as in :class:`Candidates`; those of other channels are as before.
    """
    kernels, shifts = ({name: values[name].clone() for name in channels} for values in (fitted.kernels, fitted.shifts))
    if len(patches) < _FEWEST:
        return kernels, shifts
    assert fitted.outputs is not None
    for name, chosen in channels.items():
        x, prior = patches[..., _taps(name)].double().flatten(1), kernels[name][chosen].double().flatten(1).T
        missed = fitted.outputs[:, chosen] - x @ prior
        change, shift, _ = _fit(x, missed, torch.zeros_like(prior), fitted.centred)
        kernels[name][chosen] += change.view_as(kernels[name][chosen]).to(kernels[name])
        shifts[name][chosen] = shift
    return kernels, shifts


def _fit(x: Tensor, missed: Tensor, summed: Tensor, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """
    What to add to a slice, so that it gives what it misses.

    Args:
        x: what the kept taps read, ``(patches, unknowns)``.
        missed: what the dropped taps give, ``(patches, out_channels)``.
        summed: what makes a slice a sum, ``(unknowns, out_channels)``.
        centred: whether there is a shift.

    Returns:
        Change of the weights ``(out_channels, unknowns)``, the shift, and what is still missed on unseen patches.
    """
    unseen = torch.arange(len(x), device=x.device) % 4 == 0
    x_mean, missed_mean = (part[~unseen].mean(0) * centred for part in (x, missed))
    x, missed = x - x_mean, missed - missed_mean
    priors = torch.stack([torch.zeros_like(summed), summed])
    targets = (missed - x @ priors)[:, ~unseen]
    changes = torch.cat([priors, *(priors + solution for solution in _ridge(x[~unseen], targets))])
    left = missed[unseen] - x[unseen] @ changes  # (priors and strengths, patches, out_channels)
    best = left.square().mean(1).argmin(0)
    channels = torch.arange(missed.shape[1], device=x.device)
    change = changes[best, :, channels]
    return change, missed_mean - change @ x_mean, left[best, :, channels].T


def _ridge(x: Tensor, y: Tensor) -> list[Tensor]:
    """Solutions of ``min |x w - y|^2 + ridge |w|^2`` for every strength of the ridge; dimensions in front are kept."""
    primal = x.shape[1] <= len(x)
    gram = x.T @ x if primal else x @ x.T
    unit = torch.eye(len(gram), dtype=x.dtype, device=x.device) * x.square().sum().clamp_min(1e-300) / x.shape[1]
    solutions = []
    for ridge in _RIDGES:
        factor = torch.linalg.cholesky(gram + ridge * unit)
        solved = torch.cholesky_solve(x.T @ y if primal else y, factor)
        solutions.append(solved if primal else x.T @ solved)
    return solutions


def _taps(sub_kernel: str) -> Tensor:
    """Which of the 27 taps a sub-kernel keeps."""
    every = torch.arange(27).view(3, 3, 3)
    kept = torch.zeros(27, dtype=torch.bool)
    kept[sub_kernel_of(every, sub_kernel).flatten()] = True
    return kept


def _outputs(patches: Tensor, kernel: Tensor) -> Tensor:
    """``(patches, out_channels)`` from ``(patches, in_channels, taps)`` and ``(out_channels, in_channels, taps)``."""
    return patches.flatten(1) @ kernel.flatten(1).T


def _relative(missed: Tensor, wanted: Tensor, centred: bool) -> Tensor:
    """Energy of what is missed over that of the output; of an output without energy all or nothing is lost."""
    rounding = 1e-24 * wanted.square().mean(0)
    energy = (wanted - wanted.mean(0) * centred).square().mean(0)
    lost = missed.square().mean(0)
    lost = torch.where(lost > rounding, lost, 0)
    return torch.where(energy > rounding, lost / energy, (lost > 0).double())


def _lost(kernel: Tensor, sub_kernel: str) -> Tensor:
    energy = kernel.detach().double().square().flatten(1).sum(1)
    kept = sub_kernel_of(kernel, sub_kernel).detach().double().square().flatten(1).sum(1)
    return torch.where(energy > kept, 1 - kept / energy.clamp_min(1e-300), 0.0)


def _sum(kernel: Tensor, sub_kernel: str) -> Tensor:
    dropped = [axis - 3 for axis, taps in enumerate(kernel_size(sub_kernel)) if taps == 1]
    return kernel.sum(dropped, keepdim=True) if dropped else kernel
