# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How long something takes on this machine, measured in turns and written down for the next time."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cakes_monai.atomic_file import written_whole

__all__ = ["Cache", "machine", "median_milliseconds", "read_times", "write_times"]

logger = logging.getLogger(__name__)

#: JSON file of measured times, None for none.
Cache = str | os.PathLike[str] | None

_LEAST_SECONDS = 1e-3  # of one measurement
_BUSY = 0.5  # interquartile range over median
_WARM_UP = 2  # rounds in which libraries set themselves up


def median_milliseconds(
    name: str, runs: Sequence[Callable[[], Any]], device: torch.device, rounds: int = 15
) -> list[float]:
    """
    Time alternatives in turns, round after round, so that what else the machine does meets all of them.

    Args:
        name: what is measured, for the log; a busy machine is warned of.
        runs: the alternatives.
        device: on which they run.
        rounds: number of measurements.

    Returns:
        the median of each.
    """
    with torch.inference_mode():
        times = np.array([[_milliseconds(run, device) for run in runs] for _ in range(rounds + _WARM_UP)])[_WARM_UP:]
    medians = np.median(times, axis=0)
    spread = float(np.max(np.subtract(*np.percentile(times, (75, 25), axis=0)) / medians))
    logger.info("%s: %s ms", name, ", ".join(f"{ms:.4f}" for ms in medians))
    if spread > _BUSY:
        logger.warning("%s: measured times differ by %.0f %%, is the machine busy?", name, 100 * spread)
    return [float(ms) for ms in medians]


def _milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Mean time of a few runs, which together are long enough for the clock."""
    count = 0
    start = end = time.perf_counter()
    while end - start < _LEAST_SECONDS:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count, end = count + 1, time.perf_counter()
    return (end - start) / count * 1e3


def machine(device: torch.device) -> str:
    """What a time depends on besides what is run, in words."""
    name = f"{platform.node()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def read_times(cache: Cache) -> dict[str, float]:
    """
    Former measurements, none when there is no file.

    Raises:
        ValueError: when it is not such a file.
    """
    if cache is None or not Path(cache).exists():
        return {}
    try:
        return {str(key): float(value) for key, value in json.loads(Path(cache).read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{cache}: is no file of measured times ({error}); delete it to measure anew.") from error


def write_times(cache: Cache, times: Mapping[str, float]) -> None:
    """Write all measurements down."""
    if cache is not None:
        with written_whole(cache) as temporary:
            temporary.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
