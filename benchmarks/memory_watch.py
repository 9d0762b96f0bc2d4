# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""How much memory a process has, and what it is doing when it has most."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["GB", "MemoryWatch", "Step", "in_own_process", "peak_resident_gb", "resident_gb"]

GB = 1e9
SECONDS = 0.004  # between two looks at the memory
PARTS = ("monai/transforms/", "monai/inferers/", "cakes_monai/")  # of the paths of code that is a step
WRAPPERS = ("Compose", "BackgroundNibabelWriter")  # what only calls or is called by a step


@dataclass
class Step:
    """What a process did until it did something else: the class at work, its time and the most memory meanwhile."""

    name: str
    seconds: float
    peak_gb: float

    def rounded(self) -> Step:
        """With digits that mean something."""
        return Step(self.name, round(self.seconds, 2), round(self.peak_gb, 3))


class MemoryWatch:
    """
    Context that looks again and again at the memory of this process and at what its main thread is doing.

    Attributes:
        steps: one after the other.
        peak: memory of the highest look, and the functions at work, from the outermost.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.peak: tuple[float, list[str]] = (0.0, [])
        self._main, self._done = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        before = time.perf_counter()
        while not self._done.wait(SECONDS):
            memory, names = resident_gb(), _working(sys._current_frames()[self._main])
            name, now = (names or ["other"])[0].split(".")[0], time.perf_counter()
            if not self.steps or self.steps[-1].name != name:
                self.steps.append(Step(name, 0.0, 0.0))
            self.steps[-1].seconds += now - before
            self.steps[-1].peak_gb = max(self.steps[-1].peak_gb, memory)
            if memory > self.peak[0]:
                self.peak = (memory, names)
            before = now


def _working(frame: FrameType | None) -> list[str]:
    """Methods and functions of MONAI and this project on a stack, outermost first, from the first step on."""
    names: list[str] = []
    while frame is not None:  # only code is looked at: to ask for local variables would keep them
        if any(part in frame.f_code.co_filename for part in PARTS):
            names.insert(0, getattr(frame.f_code, "co_qualname", frame.f_code.co_name))
        frame = frame.f_back
    first = next((n for n, name in enumerate(names) if "." in name and name.split(".")[0] not in WRAPPERS), len(names))
    return names[first:]


def resident_gb() -> float:
    """Memory of this process now."""
    return _status_gb("VmRSS")


def peak_resident_gb() -> float:
    """The most memory this process had; getrusage would count what its parent had as well."""
    return _status_gb("VmHWM")


def _status_gb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / GB


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """
    Call ``function`` in a process that did nothing before.

    Raises:
        RuntimeError: when the process ends without a result, as it does when the system is out of memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, function, *args))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the measured process ended with status {process.exitcode}.") from None


def _send(pipe: Any, function: Callable[..., Any], *args: Any) -> None:
    pipe.send(function(*args))
