# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""bfloat16 on the devices that have it, CPUs included."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from monai.utils import str2bool
from torch import Tensor

__all__ = ["AutocastInferer", "has_fast_bfloat16"]


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether ``device`` computes in bfloat16 natively (emulation is slower than float32)."""
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


class AutocastInferer(Inferer):
    """
    Run another inferer under autocast to bfloat16 where the device has it, in float32 where it has not.

    MONAI's ``amp`` option only knows CUDA; this one serves CPUs too and, bfloat16 having the range of float32, needs
    no gradient scaler. Results are float32.

    Args:
        inferer: what runs the network, by default SimpleInferer.
        amp: whether to use bfloat16 at all; also "true" and "false", which is what a command line gives.
    """

    def __init__(self, inferer: Inferer | None = None, amp: bool | str = True) -> None:
        super().__init__()
        self.inferer = inferer or SimpleInferer()
        self.amp = str2bool(amp)

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs`` as the wrapped inferer does."""
        enabled = self.amp and has_fast_bfloat16(inputs.device)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=enabled):
            return self.inferer(inputs, network, *args, **kwargs).float()
