# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What runs a whole network: PyTorch, or an engine that is faster on this machine."""

from __future__ import annotations

from cakes_monai.inference.engines.agreement import disagreement
from cakes_monai.inference.engines.engine import Engine, Run
from cakes_monai.inference.engines.engine_choice import EngineChoice, build_checked
from cakes_monai.inference.engines.engine_times import EngineTimes, default_cache
from cakes_monai.inference.engines.network_engines import NetworkEngines, engines_of
from cakes_monai.inference.engines.registry import ENGINES, check_engine

__all__ = [
    "ENGINES",
    "Engine",
    "EngineChoice",
    "EngineTimes",
    "NetworkEngines",
    "Run",
    "build_checked",
    "check_engine",
    "default_cache",
    "disagreement",
    "engines_of",
]
