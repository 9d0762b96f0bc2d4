# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks for clips start from the weights of a ResNet for images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cakes_monai.architecture import kernel_size
from cakes_monai.blocks import CakesConv, ConcatenatedPaths, SampledPaths, SubKernelOperation

__all__ = ["inflate", "inflated_kernel", "load_image_weights"]

#: How the kernel of an image becomes one along time: by the mean over space (CAKES) or its sum (the authors' code).
TIME_RULES = ("mean", "sum")

#: How the second convolution of a P3D pair starts.
PAIR_STARTS = ("identity", "random")

Operation = SubKernelOperation | SampledPaths


def load_image_weights(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """
    The state dict of a ResNet for images, with the names of torchvision.

    Args:
        source: a file with a state dict, itself or as "state_dict", with or without the prefix "module."; or the name
            of weights that torchvision can fetch, e.g. "ResNet50_Weights.IMAGENET1K_V1".

    Raises:
        ValueError: when the file has no state dict, or the named weights cannot be had.
    """
    if str(source).split(".")[0].endswith("_Weights"):
        return _fetched(str(source))
    try:
        content: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise
        raise ValueError(f"{source}: cannot be read as weights ({_first_line(error)}).") from error
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{source}: has no state dict, neither itself nor as 'state_dict'.")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _fetched(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        return dict(get_weight(name).get_state_dict(progress=True, check_hash=True))
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"torchvision has no weights {name!r}: {_first_line(error)}") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot be fetched ({_first_line(error)}); give the path of a local file.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def inflated_kernel(weight: Tensor, sub_kernel: str, time_rule: str = "mean") -> Tensor:
    """
    The kernel of an image as a sub-kernel (CAKES, "Implementation Details" of action recognition).

    3D repeats it three times in time and divides by 3; 2D leaves it. 1D repeats its mean over space three times
    ("mean", the paper), or its sum divided by 3 ("sum", the authors' code, which keeps the scale).

    Args:
        weight: ``(out, in, 3, 3)``.
        sub_kernel: name of the sub-kernel.
        time_rule: "mean" or "sum", for sub-kernels that drop an axis of space.

    Returns:
        ``(out, in, D, H, W)`` with the sub-kernel's taps.
    """
    depth, height, width = kernel_size(sub_kernel)
    dropped = [axis for axis, taps in ((2, height), (3, width)) if taps == 1]
    kernel = weight
    if dropped:
        kernel = weight.mean(dropped, keepdim=True) if time_rule == "mean" else weight.sum(dropped, keepdim=True)
    divided = depth == 3 and not (dropped and time_rule == "mean")
    return kernel[:, :, None].repeat(1, 1, depth, 1, 1) / (3 if divided else 1)


def inflate(
    network: nn.Module, weights: Mapping[str, Tensor], time_rule: str = "mean", pair_start: str = "identity"
) -> list[str]:
    """
    Start a network for clips, or a super-network, from the weights of a ResNet for images.

    Channels of a convolution are cut by position in the order of its sub-kernels. In a super-network every sub-kernel
    starts from all channels and norms are repeated; with cost priority the 1x1x1 convolution that follows is repeated
    along its inputs and divided by the number of paths, so that it gives their mean.

    Args:
        network: :class:`cakes_video.resnet.VideoResNet` or its super-network, or a part of one; changed in place.
        weights: state dict of the network for images with the names of torchvision, see :func:`load_image_weights`.
        time_rule: "mean" (the paper) or "sum" (the authors' code), see :func:`inflated_kernel`.
        pair_start: how the convolution along time of P3D starts, "identity" or "random" (the authors' code).

    Returns:
        Names of the parts that are not started: the last layer, when the classes are others.

    Raises:
        ValueError: for an unknown rule, and for weights that are missing or of another shape.
    """
    for value, allowed in ((time_rule, TIME_RULES), (pair_start, PAIR_STARTS)):
        if value not in allowed:
            raise ValueError(f"unknown rule {value!r}, allowed are {', '.join(allowed)}.")
    left: list[str] = []
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, SubKernelOperation | SampledPaths):
                _start_operation(name, module, weights, time_rule, pair_start)
            elif isinstance(module, nn.Linear):
                left += _start_linear(name, module, weights)
            elif ".conv1." in name or ".conv2." in name:
                pass  # parts of an operation
            elif isinstance(module, nn.Conv3d | _NormBase):
                _start_plain(name, module, weights)
    return left


def _start_operation(
    name: str, operation: Operation, weights: Mapping[str, Tensor], time_rule: str, pair_start: str
) -> None:
    kernel = _found(weights, f"{name}.weight")
    is_supernet = isinstance(operation, SampledPaths | ConcatenatedPaths)
    convs = [operation.conv] if isinstance(operation, SampledPaths) else list(operation.convs)
    first = convs[0]
    assert isinstance(first, CakesConv)
    start = 0
    for sub_kernel, part in first.sub_kernels.items():
        parameter = part.get_parameter("weight")
        rows = kernel if is_supernet else kernel[start : start + len(parameter)]
        _copy(parameter, inflated_kernel(rows, sub_kernel, time_rule), f"{name}.weight")
        start += len(parameter)
    for pair in convs[1:] if pair_start == "identity" else ():
        _start_as_identity(pair)
    norm = operation.norm.norm if isinstance(operation, SampledPaths) else operation.adn.N
    paths = len(operation.sub_kernels) if isinstance(operation, SampledPaths | ConcatenatedPaths) else 1
    before, _, last = name.rpartition("conv")
    for key, value in norm.state_dict().items():
        source = _found(weights, f"{before}bn{last}.{key}", like=value)
        if source.dim() and source.numel() * paths == value.numel():
            source = source.repeat(paths).view(value.shape)
        _copy(value, source, f"{before}bn{last}.{key}")


def _start_as_identity(conv: nn.Module) -> None:
    """The middle tap of every channel passes its own input on."""
    assert isinstance(conv, CakesConv)
    for part in conv.sub_kernels.values():
        weight = part.get_parameter("weight")
        middle = [taps // 2 for taps in weight.shape[2:]]
        weight.zero_()
        weight[:, :, middle[0], middle[1], middle[2]] = torch.eye(len(weight))


def _start_linear(name: str, layer: nn.Linear, weights: Mapping[str, Tensor]) -> list[str]:
    source = weights.get(f"{name}.weight")
    if source is None or source.shape != layer.weight.shape:
        return [name]
    layer.weight.copy_(source)
    layer.bias.copy_(_found(weights, f"{name}.bias"))
    return []


def _start_plain(name: str, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for key, value in module.state_dict().items():
        source = _found(weights, f"{name}.{key}", like=value)
        if isinstance(module, nn.Conv3d):
            paths = module.in_channels // source.shape[1] if source.dim() == 4 else 1
            source = source[:, :, None].repeat(1, paths, 1, 1, 1) / paths
        _copy(value, source, f"{name}.{key}")


def _found(weights: Mapping[str, Tensor], name: str, like: Tensor | None = None) -> Tensor:
    if name in weights:
        return weights[name]
    if name.endswith("num_batches_tracked") and like is not None:  # weights of old versions have none
        return torch.zeros_like(like)
    raise ValueError(f"the weights have no {name!r}; they must be those of a ResNet with the names of torchvision.")


def _copy(target: Tensor, source: Tensor, name: str) -> None:
    if target.shape != source.shape:
        _refuse(name, source, target)
    target.copy_(source)


def _refuse(name: str, source: Tensor, target: Tensor) -> None:
    raise ValueError(f"{name}: the weights give {_shape(source)}, the network has {_shape(target)}.")


def _shape(value: Tensor | Sequence[int]) -> str:
    return "x".join(str(length) for length in (value.shape if isinstance(value, Tensor) else value)) or "one number"
