# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The process between a driver and a trial, which ends all the trial has started: a script that imports no package."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["main"]

# The driver's path first; "-c" has put the working directory in front, which may hold anything.
_START = """
import sys
path = sys.argv[3:]
sys.path[:] = path + [entry for entry in sys.path[1:] if entry not in path]
from cakes_monai.search.trial_server import serve
serve()
"""
_SET_CHILD_SUBREAPER = 36  # of prctl


def main() -> None:
    """
    Start the trial; when it ends, SIGTERM comes or the driver dies, end all that is left, and only then end as it did.

    The command line has the descriptor of the channel, the grace in seconds and the trial's path for modules. The
    driver writes one line to the channel, the request; the trial gets it through a pipe that ends with this process.
    """
    number, grace = int(sys.argv[1]), float(sys.argv[2])
    channel = socket.socket(fileno=number)
    signals = _signals()
    if sys.platform == "linux":  # orphans of the trial, in whichever group, become children of this process
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    request = _line(channel)
    life, to_trial = os.pipe()
    command = [sys.executable, "-c", _START, str(number), str(life), *sys.argv[3:]]
    trial = subprocess.Popen(command, pass_fds=[number, life], start_new_session=True)
    os.close(life)
    pipe = os.fdopen(to_trial, "wb")  # closed by the end of this process, however it comes
    with suppress(BrokenPipeError):  # it has died already
        pipe.write(request)
        pipe.flush()
    while _processes_left(trial) and trial.returncode is None:
        ready, _, _ = select.select([number, signals], [], [])
        if number in ready or signal.SIGTERM in os.read(signals, 64):
            break
    _end(trial, grace)
    code = 1 if trial.returncode is None else trial.returncode
    sys.exit(code if code >= 0 else 128 - code)


def _signals() -> int:
    """A descriptor with the numbers of the signals that come."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return read


def _line(channel: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        if not (chunk := channel.recv(65536)):
            raise SystemExit(0)  # the driver has died
        received += chunk
    return bytes(received)


def _end(trial: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM to the trial's group, after the grace SIGKILL to it and to every orphan it leaves."""
    _kill_group(trial.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while _processes_left(trial) and time.monotonic() < deadline:
        time.sleep(0.02)
    _kill_group(trial.pid, signal.SIGKILL)
    while _processes_left(trial) and time.monotonic() < deadline + grace:  # no signal ends one that waits for a disk
        for number in _children():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)


def _kill_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS forbids it when only zombies are left
        os.killpg(group, number)


def _processes_left(trial: subprocess.Popen[bytes]) -> bool:
    """Whether the trial or, on Linux, anything it started is left; those that have ended are reaped."""
    try:
        while ended := os.waitpid(-1, os.WNOHANG):
            if not ended[0]:
                return True
            if ended[0] == trial.pid:
                trial.returncode = os.waitstatus_to_exitcode(ended[1])
    except ChildProcessError:
        pass
    return False


def _children() -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:  # no Linux
        return []


if __name__ == "__main__":
    main()
