# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Trials as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from itertools import takewhile

from cakes_monai.search.engine import Engine, Task
from cakes_monai.search.trial_outcome import Outcome
from cakes_monai.search.trial_process import TrialProcess, stop, wait

__all__ = ["ProcessEngine", "gpu_ids"]


class ProcessEngine(Engine):
    """
    Runs trials on this machine, each in an interpreter of its own with its share of the GPUs and CPU threads.

    A trial sees its GPUs only, through ``CUDA_VISIBLE_DEVICES``, and its threads through ``OMP_NUM_THREADS`` and
    ``MKL_NUM_THREADS``; all other variables and ``sys.path`` are the driver's. When the driver dies, however it dies,
    its trials end within seconds.

    Args:
        slots: number of trials at the same time.
        gpus_per_trial: by default all GPUs are divided evenly among the slots; 0 hides them from the trials.
        num_gpus: number of GPUs to use; by default those of ``CUDA_VISIBLE_DEVICES``, else those ``nvidia-smi`` lists.
        threads_per_trial: by default the CPUs of this process are divided among the slots.
        max_losses: how often a trial is run again after its process was killed.
        max_retries: how often a trial is run again after its function raised an exception.

    Raises:
        ValueError: when there are fewer GPUs than asked for or they cannot be divided, for numbers out of range, and
            on Windows.
    """

    def __init__(
        self,
        slots: int = 1,
        gpus_per_trial: int | None = None,
        num_gpus: int | None = None,
        threads_per_trial: int | None = None,
        max_losses: int = 3,
        max_retries: int = 1,
    ) -> None:
        super().__init__(max_losses, max_retries)
        if os.name != "posix":
            raise ValueError("the engine 'processes' needs Linux or macOS.")
        if slots < 1:
            raise ValueError(f"{slots} slots, there must be at least 1.")
        self._slots = slots
        self.threads_per_trial = max(1, _num_cpus() // slots) if threads_per_trial is None else threads_per_trial
        if self.threads_per_trial < 1:
            raise ValueError(f"{threads_per_trial} threads for a trial, there must be at least 1.")
        gpus = gpu_ids(num_gpus)
        each = _share(len(gpus), slots, gpus_per_trial)
        self._gpus = [gpus[slot * each : (slot + 1) * each] for slot in range(slots)]
        self._places: dict[int, int] = {}  # slot of each trial
        self._processes: dict[int, TrialProcess] = {}

    @property
    def slots(self) -> int:
        """Number of trials at the same time."""
        return self._slots

    def _start(self, task: Task, attempt: int) -> None:
        if attempt == 1:
            taken = {self._places[index] for index in self._trials if index in self._places and index != task.index}
            self._places[task.index] = min(set(range(self._slots)) - taken)
        threads = str(self.threads_per_trial)
        gpus = ",".join(self._gpus[self._places[task.index]])
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": gpus}
        self._processes[task.index] = TrialProcess(task, attempt, environment)

    def _ended(self, timeout: float | None) -> Iterable[tuple[int, Outcome]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            outcomes = [(index, process.outcome()) for index, process in self._processes.items()]
            ended = [(index, outcome) for index, outcome in outcomes if outcome is not None]
            left = None if deadline is None else deadline - time.monotonic()
            if ended or (left is not None and left <= 0):
                break
            wait(self._processes.values(), left)
        for index, _ in ended:
            del self._processes[index]
        return ended

    def _stop(self) -> None:
        stop(self._processes.values())
        self._processes.clear()
        self._places.clear()


def gpu_ids(num_gpus: int | None = None) -> tuple[str, ...]:
    """
    What ``CUDA_VISIBLE_DEVICES`` may name.

    Args:
        num_gpus: how many of them; all by default.

    Raises:
        ValueError: when there are fewer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        entries = (entry.strip() for entry in visible.split(","))
        found = tuple(takewhile(lambda entry: entry not in ("", "-1", "NoDevFiles"), entries))
    else:
        found = tuple(map(str, range(_nvidia_smi() if num_gpus is None else num_gpus)))
    if num_gpus is not None and not 0 <= num_gpus <= len(found):
        raise ValueError(f"{num_gpus} GPUs, but CUDA_VISIBLE_DEVICES is {visible!r}.")
    return found[:num_gpus]


def _nvidia_smi() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # no driver, no GPUs
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _share(gpus: int, slots: int, each: int | None) -> int:
    if each is None and gpus % slots:
        raise ValueError(f"{gpus} GPUs cannot be divided evenly among {slots} slots; give gpus_per_trial.")
    each = gpus // slots if each is None else each
    if each < 0 or each * slots > gpus:
        raise ValueError(f"{slots} slots with {each} GPUs each, there are {gpus} GPUs.")
    return each
