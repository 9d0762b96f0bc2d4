# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The fastest engine of this machine under any of MONAI's inferers."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.utils import ensure_tuple_rep, fall_back_tuple, str2bool
from torch import Tensor, nn

from cakes_monai.inference.autocast_inferer import AutocastInferer, has_fast_bfloat16
from cakes_monai.inference.engines import NetworkEngines, check_engine, engines_of
from cakes_monai.inference.timing import Cache

__all__ = ["EngineInferer", "num_windows"]


class EngineInferer(Inferer):
    """
    Run another inferer with a network that is run by an engine: torch, OpenVINO, ONNX Runtime, ...

    With "auto" eager torch starts, and an engine takes over as soon as that saves more time than its build takes and
    its results for the window at hand agree with those of torch; short jobs stay with torch. A chosen engine is built
    before the first window. One that fails or disagrees is reported in the log, and torch does its work.

    For inference: results have no gradient. A network in training mode, or one that is called with more than a tensor,
    is run by torch.

    Args:
        inferer: what cuts the input into windows, by default SimpleInferer.
        engine: "auto" or a name in :data:`~cakes_monai.inference.ENGINES`.
        amp: whether to compute in bfloat16 where the device has it; also "true" and "false". Results are float32.
        cache: JSON file of what was measured before; None for the user's cache folder, "" for no file.

    Raises:
        ValueError: for an unknown engine, one that is not installed, and, when called, one that does not run there.
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        engine: str = "auto",
        amp: bool | str = False,
        cache: Cache = None,
    ) -> None:
        super().__init__()
        self.inferer = inferer or SimpleInferer()
        self.engine = check_engine(engine)
        self.amp = str2bool(amp)
        self.cache = cache

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs`` as the wrapped inferer does."""
        if not isinstance(network, nn.Module) or network.training:
            return AutocastInferer(self.inferer, self.amp)(inputs, network, *args, **kwargs)
        engines = engines_of(network, self.engine, self.cache)
        run = _EngineNetwork(network, engines, self.amp, num_windows(self.inferer, inputs))
        with torch.no_grad():
            return self.inferer(inputs, run, *args, **kwargs)


class _EngineNetwork:
    """What the wrapped inferer calls; it counts the windows that are still to come."""

    def __init__(self, network: nn.Module, engines: NetworkEngines, amp: bool, ahead: int) -> None:
        self.network, self.engines, self.amp, self.ahead = network, engines, amp, ahead

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        dtype = torch.bfloat16 if self.amp and has_fast_bfloat16(x.device) else torch.float32
        if args or kwargs or x.dtype != torch.float32:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                return self.network(x, *args, **kwargs)
        self.ahead = max(0, self.ahead - len(x))
        window = x.as_tensor() if isinstance(x, MetaTensor) else x
        result = self.engines.choice(self.network, window, dtype)(self.network, window, self.ahead)
        return MetaTensor(result).copy_meta_from(x) if isinstance(x, MetaTensor) else result


def num_windows(inferer: Inferer, inputs: Tensor) -> int:
    """How many windows an inferer will give to the network, all items of the batch together."""
    if not isinstance(inferer, SlidingWindowInferer):
        return len(inputs)
    sizes = inputs.shape[2:]
    window = fall_back_tuple(inferer.roi_size, sizes)
    overlaps = ensure_tuple_rep(inferer.overlap, len(sizes))
    along = (
        1 + ceil(max(0, size - side) / max(1, int(side * (1 - overlap))))
        for size, side, overlap in zip(sizes, window, overlaps, strict=True)
    )
    return len(inputs) * prod(along)
