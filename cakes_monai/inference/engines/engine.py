# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What runs a whole network: the contract that every engine keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

__all__ = ["Engine", "Run"]

#: A built network: float32 input and logits, both on the device it was built for.
Run = Callable[[Tensor], Tensor]


class Engine(ABC):
    """
    What runs a whole network on inputs of one shape.

    Attributes:
        name: as it is called in a config.
        modules: what must be installed.
        install: what pip must install to that end.
        build_seconds: how long a build takes, besides a few runs of the network, as long as that was never measured.
        speed: how many times faster than eager torch it is on the devices it suits, as long as that was never measured.
    """

    name: str
    modules: tuple[str, ...] = ()
    install: str = ""
    build_seconds: float = 0.0
    speed: float = 1.0

    def missing(self, device: torch.device | str | None = None) -> str | None:
        """
        Say in one line why the engine cannot run here, None when it can.

        Args:
            device: where the network is to run; None asks only whether the engine is installed.
        """
        for module in self.modules:
            if find_spec(module) is None:
                return f"engine {self.name}: {module} is not installed: pip install {self.install}"
        reason = None if device is None else self.unsuited(torch.device(device))
        return reason and f"engine {self.name}: {reason}"

    def unsuited(self, device: torch.device) -> str | None:
        """Why the installed engine cannot run on ``device``, None when it can."""
        return None

    def version(self) -> str:
        """Names and versions of what times depend on, besides torch."""
        return " ".join((self.name, *(_version(module) for module in self.modules)))

    @abstractmethod
    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:
        """
        Prepare a network for inputs of one shape.

        Args:
            network: float32 weights, in evaluation mode, without gradients; it belongs to the engine.
            example: an input, float32, on the device where the network is.
            dtype: float32 or bfloat16, the least precise type that may be computed in.
        """


@cache
def _version(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:  # a distribution of another name, e.g. onnxruntime-gpu
        return "of unknown version"
