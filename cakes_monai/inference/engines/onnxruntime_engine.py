# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on CPUs, and on GPUs when it was built for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cakes_monai.inference.engines.engine import Engine, Run
from cakes_monai.inference.engines.silence import silent

__all__ = ["ONNXRuntimeEngine"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ONNXRuntimeEngine(Engine):
    """ONNX Runtime with as many threads as torch has; it computes in float32 when bfloat16 is allowed, too."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx", "onnxscript")
    install = "cakes-monai[onnx]"
    build_seconds = 8.0
    speed = 1.2

    def unsuited(self, device: torch.device) -> str | None:  # noqa: D102 - see Engine
        if device.type == "cpu":
            return None
        import onnxruntime  # which takes a moment

        provider = _PROVIDERS.get(device.type, device.type)
        if provider in onnxruntime.get_available_providers():
            return None
        return f"the installed onnxruntime has no {provider}; for GPUs: pip install onnxruntime-gpu"

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:  # noqa: D102 - see Engine
        import onnxruntime

        with silent("onnxscript", "onnx_ir"):
            program: Any = torch.onnx.export(network, (example,), dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        place, number = example.device.type, example.device.index or 0
        provider = _PROVIDERS[place] if place == "cpu" else (_PROVIDERS[place], {"device_id": number})
        content = program.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=[provider])
        source, target = session.get_inputs()[0].name, session.get_outputs()[0]

        def run(x: Tensor) -> Tensor:
            x, result = x.contiguous(), torch.empty(target.shape, device=x.device)
            binding = session.io_binding()
            binding.bind_input(source, place, number, np.float32, x.shape, x.data_ptr())
            binding.bind_output(target.name, place, number, np.float32, result.shape, result.data_ptr())
            if x.is_cuda:
                torch.cuda.current_stream(x.device).synchronize()  # what makes x runs on torch's stream
            session.run_with_iobinding(binding)
            return result

        return run
