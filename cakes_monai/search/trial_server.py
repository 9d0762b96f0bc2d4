# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the process of a trial does: wait for the folder, run the function, send the outcome, end with its guard."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from cakes_monai.search.trial_outcome import Outcome, one_line

__all__ = ["serve"]


class _Terminated(SystemExit):
    """SIGTERM, as an exception, so that files are closed and temporary ones removed."""


def serve() -> None:
    """Be the process of a trial: read the request from the guard, run it, send the outcome to the driver."""
    channel, life = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    del sys.argv[1:]
    for descriptor in (channel.fileno(), life):
        os.set_inheritable(descriptor, False)
    request = json.loads(_line(life))
    guard_died = threading.Event()
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_watch, args=(life, guard_died, request["grace"]), daemon=True).start()
    faulthandler.enable()
    try:
        outcome = _run(request)
        with channel, suppress(ConnectionError):  # without a driver the guard is about to end this
            channel.sendall(json.dumps(asdict(outcome)).encode() + b"\n")
    except _Terminated:
        if guard_died.is_set():
            _leave(request["grace"])
        raise


def _terminate(number: int, frame: object) -> None:
    # Python ignores an exception while it forks or deletes an object; then SIGKILL ends the trial after the grace.
    raise _Terminated(128 + number)


def _line(descriptor: int) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        if not (chunk := os.read(descriptor, 65536)):
            raise SystemExit(0)  # nobody waits for the trial any more
        received += chunk
    return bytes(received)


def _watch(life: int, guard_died: threading.Event, grace: float) -> None:
    """Do the guard's work when it has died, which closes the pipe; it writes nothing but the request."""
    os.read(life, 1)
    guard_died.set()
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(grace)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _leave(grace: float) -> None:
    """Wait for the children, then end with what is left of the group."""
    deadline = time.monotonic() + grace
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.02)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _run(request: Mapping[str, Any]) -> Outcome:
    here = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        print(f"trial {request['index']}, attempt {request['attempt']}: {here}", flush=True)
        folder = Path(request["folder"])
        _lock(folder / ".lock", here, request["patience"])
        value = _function(request["function"])(folder=folder, **request["arguments"])
        return Outcome(value=_checked(value, request["function"]))
    except _Terminated:
        raise
    except BaseException as error:  # sys.exit as well: the trial has failed, not its process
        with suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return Outcome(error=one_line(error))


def _lock(path: Path, holder: str, seconds: float) -> None:
    """Hold the lock file until this process and those forked from it have ended, or raise an error."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT)  # never closed: the system does it at the end
    deadline = time.monotonic() + seconds
    while not _locked(lock):
        if time.monotonic() > deadline:
            other = os.pread(lock, 200, 0).decode(errors="replace")
            raise ValueError(f"{path.parent}: {other or 'another process'} runs in this folder, end that first.")
        time.sleep(0.1)
    with suppress(OSError):  # the text only helps
        os.ftruncate(lock, 0)
        os.pwrite(lock, holder.encode(), 0)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        print(f"this file system has no locks ({error}), do not run two searches here.", flush=True)
    return True


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    function = getattr(import_module(module), attribute, None)
    if not callable(function):
        raise ValueError(f"{name}: the module has no such function.")
    return function


def _checked(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} returned {type(value).__name__}, it must be a dict.")
    json.dumps(value)
    return value
