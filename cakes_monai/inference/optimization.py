# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The same network, run the fastest way that this machine has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from monai.networks.blocks import Convolution
from monai.networks.utils import set_named_module
from torch import Tensor, nn

from cakes_monai import native
from cakes_monai.blocks.cell import SubKernelOperation
from cakes_monai.blocks.network_copy import copied
from cakes_monai.blocks.transition import UpTransition
from cakes_monai.inference import triton
from cakes_monai.inference.plans import PLANS, Kernel, kernel_of
from cakes_monai.inference.timing import Cache, machine, median_milliseconds, read_times, write_times

__all__ = ["LayerPlan", "OptimizedNetwork", "optimize_for_inference"]

_ROUNDS = 5
_HOPELESS = 1.5  # times the fastest: such a plan is not measured further


@dataclass(frozen=True)
class LayerPlan:
    """
    How a convolution is run.

    Args:
        layer: its name in the network.
        size: of its input, ``(N, C, D, H, W)``.
        plan: the one that was chosen.
        milliseconds: of each plan that can run here.
    """

    layer: str
    size: tuple[int, ...]
    plan: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)


class OptimizedNetwork(nn.Module):
    """
    A network for inference, made by :func:`optimize_for_inference`.

    Args:
        network: what is run.
        plans: how its convolutions are run.
        device: where.
        dtype: in which type.

    Shapes:
        - input: as the original network's; other sizes than the example's may be run, with the plans chosen for it
        - output: as the original network's, float32
    """

    def __init__(
        self, network: nn.Module, plans: Sequence[LayerPlan], device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.network, self.plans, self.device, self.dtype = network, tuple(plans), device, dtype

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - described above
        with torch.no_grad():
            x = x.to(self.device, self.dtype, memory_format=torch.channels_last_3d)
            return self.network(x).float().contiguous()

    def table(self) -> str:
        """Plan and milliseconds of every convolution, those of equal ones once."""
        names = [name for name in PLANS if any(name in plan.milliseconds for plan in self.plans)]
        width = max((len(plan.layer) for plan in self.plans), default=5)
        lines = [f"{'ms':{width}} {'input':>17} {'plan':>9} " + " ".join(f"{name:>9}" for name in names)]
        for plan in self.plans:
            times = (f"{plan.milliseconds[name]:9.3f}" if name in plan.milliseconds else f"{'':9}" for name in names)
            size = "x".join(map(str, plan.size))
            lines.append(f"{plan.layer:{width}} {size:>17} {plan.plan:>9} " + " ".join(times))
        return "\n".join(lines)


def optimize_for_inference(
    network: nn.Module,
    example: Tensor,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cache: Cache = None,
    plans: Sequence[str] = tuple(PLANS),
) -> OptimizedNetwork:
    """
    Copy a network and run every convolution of the copy by the plan that is the fastest for its real input here.

    Volumes stay in the memory format ``torch.channels_last_3d``; instance norms and the activations behind them are one
    step; a 1x1x1 convolution behind a trilinear up-sampling, which commutes with it, is done before it, on an eighth of
    the voxels.

    Args:
        network: trained; it stays as it is.
        example: an input of the size that will be used.
        device: where to run; that of the example by default.
        dtype: float32, bfloat16 or, on a GPU, float16. The output is float32.
        cache: JSON file of former measurements; it is completed, and made when it does not exist.
        plans: names of the plans to choose from, see :data:`~cakes_monai.inference.PLANS`.

    Raises:
        ValueError: for an unknown plan, when none of them can run, or when ``cache`` is not such a file.

    Example:
        >>> fast = optimize_for_inference(network, torch.zeros(1, 1, 96, 96, 96))
        >>> print(fast.table())  # what was chosen, and why
    """
    if unknown := set(plans) - set(PLANS):
        raise ValueError(f"unknown plan {sorted(unknown)[0]!r}, allowed are {', '.join(PLANS)}.")
    device = torch.device(example.device if device is None else device)
    with torch.no_grad():
        fast = copied(network).eval().to(device)
    _convolve_before_upsampling(fast)
    sizes = _input_sizes(fast, example.to(device))
    kernels = {name: kernel for name in sizes if (kernel := kernel_of(fast.get_submodule(name))) is not None}
    if device.type == "cpu" and native.missing(dtype) is None:
        native.prepare((kernel.weight.shape[1], kernel.stride[2], dtype) for kernel in kernels.values())
    _fuse_norms(fast, device, dtype)
    _replace_upsampling(fast, device, dtype)
    fast.to(dtype)
    chosen = []
    for name, kernel in kernels.items():
        plan, module = _fastest(name, kernel, sizes[name], device, dtype, cache, plans)
        set_named_module(fast, name, module)
        chosen.append(plan)
    return OptimizedNetwork(fast, chosen, device, dtype)


def _input_sizes(network: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """The size of every convolution's input, in the order in which they run."""
    sizes: dict[str, tuple[int, ...]] = {}
    hooks = []
    for name, module in network.named_modules():
        if kernel_of(module) is not None:
            note = partial(_note_size, sizes, name)
            hooks.append(module.register_forward_pre_hook(note))
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    return sizes


def _note_size(sizes: dict[str, tuple[int, ...]], name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    sizes[name] = tuple(inputs[0].shape)


def _convolve_before_upsampling(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, UpTransition):
            module.convolve_first = True


def _replace_upsampling(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cpu" or native.missing(dtype) is not None:
        return
    for name, module in list(network.named_modules()):
        trilinear = isinstance(module, nn.Upsample) and module.mode == "trilinear" and not module.align_corners
        if trilinear and module.size is None and module.scale_factor in (2.0, (2.0, 2.0, 2.0)):
            set_named_module(network, name, native.NativeUpsample())


def _fuse_norms(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Replace instance norms, with the ReLU that follows them directly in a Sequential, by one module."""
    # nobody else reads what these convolutions give to their norms
    behind = [
        m.adn for m in network.modules() if isinstance(m, (Convolution, SubKernelOperation)) and hasattr(m, "adn")
    ]
    for parent in list(network.modules()):
        children = list(parent.named_children())
        following = [child for _, child in children[1:]] if isinstance(parent, nn.Sequential) else []
        inplace = any(parent is norm for norm in behind)
        for number, (name, norm) in enumerate(children):
            if not isinstance(norm, nn.InstanceNorm3d) or norm.track_running_stats:
                continue
            slope = _slope(following[number]) if number < len(following) else None
            fused = None if slope is None else _norm(norm, slope, device, dtype, inplace)
            if fused is not None:
                setattr(parent, children[number + 1][0], nn.Identity())
            setattr(parent, name, fused or _norm(norm, 1.0, device, dtype, inplace) or norm)


def _slope(module: nn.Module) -> float | None:
    """What negative numbers are multiplied by; None for another activation."""
    if isinstance(module, nn.ReLU):
        return 0.0
    return module.negative_slope if isinstance(module, nn.LeakyReLU) else None


def _norm(
    norm: nn.InstanceNorm3d, slope: float, device: torch.device, dtype: torch.dtype, inplace: bool
) -> nn.Module | None:
    """The norm and a (leaky) ReLU as one module; None where there is none."""
    if device.type == "cpu" and native.missing(dtype) is None:
        return native.NativeInstanceNorm(norm, slope, dtype, inplace)
    if device.type == "cuda" and triton.missing() is None and slope in (0.0, 1.0):
        return triton.TritonInstanceNormAct.from_layer(norm, "relu" if slope == 0.0 else None)
    return None


def _fastest(
    name: str,
    kernel: Kernel,
    size: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    cache: Cache,
    plans: Sequence[str],
) -> tuple[LayerPlan, nn.Module]:
    modules = {plan: module for plan in plans if (module := PLANS[plan](kernel, device, dtype)) is not None}
    if not modules:
        raise ValueError(f"{name}: none of the plans {', '.join(plans)} can run on {device} in {dtype}.")
    known = read_times(cache)
    keys = {plan: _key(kernel, size, device, dtype, plan) for plan in modules}
    if len(modules) > 1 and not any(key in known for key in keys.values()):
        example = torch.randn(size, device=device).to(dtype, memory_format=torch.channels_last_3d)
        known |= {keys[plan]: ms for plan, ms in _race(name, modules, example).items()}
        write_times(cache, known)
    times = {plan: known[key] for plan, key in keys.items() if key in known}
    best = min(times, key=lambda plan: times[plan]) if times else next(iter(modules))
    return LayerPlan(name, size, best, times), modules[best]


def _race(name: str, modules: Mapping[str, nn.Module], example: Tensor) -> dict[str, float]:
    """Milliseconds of every plan, measured well for those that may win."""
    runs = {plan: partial(module, example) for plan, module in modules.items()}
    times = dict(zip(runs, median_milliseconds(name, list(runs.values()), example.device, 1), strict=True))
    close = [plan for plan in runs if times[plan] < _HOPELESS * min(times.values())]
    if len(close) > 1:
        again = median_milliseconds(name, [runs[plan] for plan in close], example.device, _ROUNDS)
        times |= dict(zip(close, again, strict=True))
    return times


def _key(kernel: Kernel, size: tuple[int, ...], device: torch.device, dtype: torch.dtype, plan: str) -> str:
    """All that the time depends on, in words; kernels with the same taps take the same time."""
    taps = hashlib.sha256(repr([sorted(own) for own in kernel.taps]).encode()).hexdigest()[:12]
    bias = "" if kernel.bias is None else ", bias"
    return (
        f"{machine(device)}, {dtype}, input {'x'.join(map(str, size))}, {len(kernel.taps)} channels, taps {taps}, "
        f"stride {kernel.stride}{bias}, {plan}"
    )
