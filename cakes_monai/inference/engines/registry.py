# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""All engines by name."""

from __future__ import annotations

from cakes_monai.inference.engines.engine import Engine
from cakes_monai.inference.engines.onnxruntime_engine import ONNXRuntimeEngine
from cakes_monai.inference.engines.openvino_engine import OpenVINOEngine
from cakes_monai.inference.engines.planned_engine import PlannedEngine
from cakes_monai.inference.engines.tensorrt_engine import TensorRTEngine
from cakes_monai.inference.engines.torch_engines import CompileEngine, TorchEngine

__all__ = ["ENGINES", "check_engine"]

#: Engines by name; eager torch first.
ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        TorchEngine(),
        OpenVINOEngine(),
        ONNXRuntimeEngine(),
        PlannedEngine(),
        CompileEngine(),
        TensorRTEngine(),
    )
}


def check_engine(name: str) -> str:
    """
    Give the name back when it is that of an engine that is installed, or "auto".

    Raises:
        ValueError: when it is not.
    """
    if name == "auto":
        return name
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}, allowed are auto, {', '.join(ENGINES)}.")
    if reason := ENGINES[name].missing():
        raise ValueError(f"{reason}.")
    return name
