# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Intel's OpenVINO, on CPUs of all makers."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.engine import Engine, Run

__all__ = ["OpenVINOEngine"]

_PRECISION = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINOEngine(Engine):
    """
    OpenVINO on the CPU, with as many threads as torch has.

    The network is traced: torch.export takes norms apart, which makes the result half as fast.
    """

    name = "openvino"
    modules = ("openvino",)
    install = "cakes-monai[openvino]"
    build_seconds = 5.0
    speed = 2.0

    def unsuited(self, device: torch.device) -> str | None:  # noqa: D102 - see Engine
        return None if device.type == "cpu" else f"runs on CPUs, not on {device}"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:  # noqa: D102 - see Engine
        import openvino

        traced = torch.jit.trace(network, example, check_trace=False)
        model = openvino.convert_model(torch.jit.freeze(traced), input=[list(example.shape)])
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = _core().compile_model(model, "CPU", options).create_infer_request()
        lock = threading.Lock()  # a request runs once at a time

        def run(x: Tensor) -> Tensor:
            with lock:
                return torch.from_numpy(request.infer([x.contiguous().numpy()], share_inputs=True)[0])

        return run


@functools.cache
def _core() -> Any:
    """
    OpenVINO's runtime, one for as long as the process lives.

    Its CPU plugin gives the thread that loads it a stack for signals and frees that stack when it is unloaded,
    by whichever thread: the next signal that Python handles, as that of a DataLoader's finished worker, then ends the
    process.
    """
    import openvino

    return openvino.Core()
