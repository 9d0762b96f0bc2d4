# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A trial as its driver sees it: started, watched and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import connection
from pathlib import Path

from cakes_monai.search import trial_guard
from cakes_monai.search.engine import Task
from cakes_monai.search.trial_outcome import Outcome

__all__ = ["GRACE_SECONDS", "LOCK_SECONDS", "TrialProcess", "stop", "wait"]

#: How long a process may take to end by itself: after SIGTERM, or after it has sent its outcome.
GRACE_SECONDS = 10.0
#: How long a trial waits for an earlier process to leave its folder; NFS keeps locks of a lost machine for 90 s.
LOCK_SECONDS = 180.0


class TrialProcess:
    """
    A trial in a new interpreter, under a guard that ends all the trial has started.

    These are no children by ``multiprocessing``: that imports the driver's ``__main__``, and whatever it imports,
    before the environment of the trial could be set. The guard is a process of a few megabytes. When it, its driver
    or the trial dies, by whatever signal, one of the others sees to the rest.

    Args:
        task: the trial.
        attempt: number of this attempt, for the log.
        environment: variables of this trial, over those of this process.
        path: where the trial looks for modules first; ``sys.path`` by default.
        directory: working directory of the trial; by default, and when it does not exist, that of this process.

    Raises:
        OSError: when the folder, the log or the process cannot be made.
    """

    def __init__(
        self,
        task: Task,
        attempt: int,
        environment: Mapping[str, str],
        path: Sequence[str] | None = None,
        directory: Path | None = None,
    ) -> None:
        task.folder.mkdir(parents=True, exist_ok=True)
        self.channel, theirs = socket.socketpair()
        self.quiet = False  # the other end is closed
        self._received = bytearray()
        self._sent_at: float | None = None
        script = [sys.executable, "-I", "-S", trial_guard.__file__, str(theirs.fileno()), str(GRACE_SECONDS)]
        try:
            with theirs, (task.folder / "log.txt").open("ab") as log:
                self.process = subprocess.Popen(
                    [*script, *(sys.path if path is None else path)],
                    cwd=directory if directory is not None and directory.is_dir() else None,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError:
            self.channel.close()
            raise
        request = {**asdict(task), "folder": str(task.folder), "attempt": attempt}
        request |= {"grace": GRACE_SECONDS, "patience": LOCK_SECONDS}
        with suppress(ConnectionError):  # it has died already, which outcome() tells
            self.channel.sendall(json.dumps(request).encode() + b"\n")
        self.channel.setblocking(False)

    def outcome(self) -> Outcome | None:
        """How the trial ended, once nothing of it is left; None while it runs."""
        code = self.process.poll()
        self._receive()
        if code is None and (self._sent_at is None or time.monotonic() < self._sent_at + GRACE_SECONDS):
            return None
        stop([self])
        if self._sent_at is not None:
            return Outcome(**json.loads(self._received))
        return Outcome(error=_loss(self.process.returncode), lost=True)

    def _receive(self) -> None:
        try:
            while not self.quiet:
                chunk = self.channel.recv(65536)
                self._received += chunk
                self.quiet = not chunk
        except BlockingIOError:
            pass
        except ConnectionError:
            self.quiet = True
        if self._sent_at is None and self._received.endswith(b"\n"):
            self._sent_at = time.monotonic()


def wait(trials: Collection[TrialProcess], timeout: float | None) -> None:
    """
    Return when one of the trials may have ended, or after the timeout.

    Args:
        trials: those to watch.
        timeout: in seconds; None for as long as it takes. It may return earlier.
    """
    # A trial that does not end after its outcome is to be noticed, and a process it forked may keep the channel open.
    timeout = 0.5 if timeout is None else min(timeout, 0.5)
    if all(not trial.quiet for trial in trials):
        connection.wait([trial.channel for trial in trials], timeout)
    else:
        time.sleep(min(timeout, 0.02))  # one has closed its channel and is about to end


def stop(trials: Collection[TrialProcess]) -> None:
    """
    End the trials and all they started: SIGTERM, and SIGKILL for what is left after the grace.

    Args:
        trials: any, also those that have ended.
    """
    for trial in trials:
        trial.process.terminate()
    deadline = time.monotonic() + 3 * GRACE_SECONDS  # the guard takes two at most
    for trial in trials:
        try:
            trial.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            trial.process.kill()
            trial.process.wait()
        trial.channel.close()


def _loss(code: int) -> str:
    number = -code if code < 0 else code - 128  # negative when no signal ended it
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"ended with exit code {code} and no result"
