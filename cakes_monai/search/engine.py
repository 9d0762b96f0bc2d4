# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The seam between a search and what runs its trials: tasks in, results out."""

from __future__ import annotations

import json
import logging
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from cakes_monai.search.trial_outcome import Outcome, one_line

__all__ = ["ENGINES", "Engine", "Outcome", "Result", "Task", "make_engine", "one_line"]

logger = logging.getLogger(__name__)

#: What :func:`make_engine` makes, by name.
ENGINES = {
    "processes": "cakes_monai.search.engine_processes:ProcessEngine",
    "ray": "cakes_monai.search.engine_ray:RayEngine",
}


@dataclass(frozen=True)
class Task:
    """
    One trial to run: ``function(folder=folder, **arguments)``, which returns a dict that JSON can say.

    The function is run again in the same folder after its process was lost or it raised an exception, so it writes
    checkpoints there and goes on from them. NaN passes as it is.

    Args:
        index: number of the trial in the search.
        function: "package.module:function", looked up in the trial's process only.
        arguments: what JSON can say.
        folder: the trial's own; made when it does not exist. What the trial prints is appended to its ``log.txt``.

    Raises:
        ValueError: for a function or arguments of another form.
    """

    index: int
    function: str
    arguments: Mapping[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).absolute())  # workers may have another working directory
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.function):
            raise ValueError(f"trial {self.index}: function {self.function!r}, it must be 'package.module:function'.")
        try:
            arguments = json.loads(json.dumps(dict(self.arguments)))  # as the trial gets them
        except (TypeError, ValueError) as error:
            raise ValueError(f"trial {self.index}: its arguments must be what JSON can say: {error}.") from error
        object.__setattr__(self, "arguments", arguments)


@dataclass(frozen=True)
class Result:
    """
    How a trial ended, after all its attempts.

    Args:
        index: the task's.
        value: what the function returned; None when the trial failed.
        error: why the last attempt failed, in one line; None for a trial that succeeded.
        attempts: how often it was started.
        seconds: from the first start to the end of the last attempt.
        lost: whether it failed because its process or machine was lost too often.
    """

    index: int
    value: dict[str, Any] | None
    error: str | None
    attempts: int
    seconds: float
    lost: bool


@dataclass
class _Attempts:
    task: Task
    begun: float
    attempts: int = 0
    losses: int = 0
    failures: int = 0


class Engine(ABC):
    """
    Runs trials, each in its own process, and reports them in the order in which they end.

    An engine does its work inside the calls: a lost trial starts again during :meth:`next_finished`. Use it as a
    context manager, so that nothing goes on running after an error or Ctrl-C.

    Args:
        max_losses: how often a trial is run again after its process was killed or its machine was lost.
        max_retries: how often a trial is run again after its function raised an exception.

    Raises:
        ValueError: for negative numbers.
    """

    def __init__(self, max_losses: int = 3, max_retries: int = 1) -> None:
        if min(max_losses, max_retries) < 0:
            raise ValueError(f"max_losses {max_losses} and max_retries {max_retries}, they must not be negative.")
        self.max_losses = max_losses
        self.max_retries = max_retries
        self._trials: dict[int, _Attempts] = {}
        self._results: deque[Result] = deque()

    @property
    @abstractmethod
    def slots(self) -> int:
        """Number of trials that can run at the same time."""

    @abstractmethod
    def _start(self, task: Task, attempt: int) -> None:
        """Start a process for the task."""

    @abstractmethod
    def _ended(self, timeout: float | None) -> Iterable[tuple[int, Outcome]]:
        """The attempts that have ended; waits for the first, at most ``timeout`` seconds."""

    @abstractmethod
    def _stop(self) -> None:
        """End all processes and give back what the engine holds."""

    @property
    def running(self) -> tuple[int, ...]:
        """Indices of the trials submitted and not yet reported."""
        return tuple(self._trials)

    @property
    def free_slots(self) -> int:
        """Number of trials that can be submitted now."""
        return max(0, self.slots - len(self._trials))

    def submit(self, task: Task) -> None:
        """
        Start a trial.

        Args:
            task: the trial.

        Raises:
            ValueError: without a free slot, and when its index or folder is that of a running trial.
        """
        for other in self._trials.values():
            if task.index == other.task.index or task.folder == other.task.folder:
                raise ValueError(f"trial {task.index} in {task.folder}: trial {other.task.index} is running there.")
        if not self.free_slots:
            raise ValueError(f"trial {task.index}: no free slot, {len(self._trials)} trials run in {self.slots}.")
        self._trials[task.index] = _Attempts(task, time.monotonic())
        self._begin(self._trials[task.index])

    def next_finished(self, timeout: float | None = None) -> Result | None:
        """
        Wait for the next trial to end and report it.

        Args:
            timeout: how many seconds to wait; None for as long as it takes.

        Returns:
            the result, or None after the timeout and when no trial is running.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._trials and not self._results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            for index, outcome in self._ended(left):
                self._settle(self._trials[index], outcome)
            if left == 0:
                break
        if not self._results:
            return None
        result = self._results.popleft()
        del self._trials[result.index]
        return result

    def close(self) -> None:
        """End all trials, SIGTERM first; their folders can be run again."""
        self._trials.clear()
        self._results.clear()
        self._stop()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, trial: _Attempts) -> None:
        trial.attempts += 1
        try:
            self._start(trial.task, trial.attempts)
        except OSError as error:  # no folder, no process
            self._settle(trial, Outcome(error=one_line(error)))

    def _settle(self, trial: _Attempts, outcome: Outcome) -> None:
        trial.losses += outcome.lost
        trial.failures += outcome.value is None and not outcome.lost
        again = trial.losses <= self.max_losses and trial.failures <= self.max_retries
        if outcome.value is None and again:
            logger.warning("Trial %d is run again: %s", trial.task.index, outcome.error)
            self._begin(trial)
            return
        index, seconds = trial.task.index, time.monotonic() - trial.begun
        self._results.append(Result(index, outcome.value, outcome.error, trial.attempts, seconds, outcome.lost))


def make_engine(name: str, **options: Any) -> Engine:
    """
    Make an engine by its name.

    Args:
        name: "processes" for this machine, "ray" for many.
        options: arguments of the engine's class.

    Raises:
        ValueError: for an unknown name or option, and from the engine.

    Example:
        >>> with make_engine("processes", slots=2) as engine:
        ...     engine.submit(Task(0, "package.module:train", {"seed": 0}, Path("search/trial_0")))
        ...     result = engine.next_finished()
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}, allowed are {', '.join(ENGINES)}.")
    module, _, kind = ENGINES[name].partition(":")
    engine = getattr(import_module(module), kind)
    allowed = signature(engine).parameters
    for option in options.keys() - allowed.keys():
        raise ValueError(f"engine {name!r} has no option {option!r}, allowed are {', '.join(allowed)}.")
    return engine(**options)
