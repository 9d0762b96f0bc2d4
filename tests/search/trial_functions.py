# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Small functions that the tests of the engines run as trials."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cakes_monai.atomic_file import written_whole

__all__ = [
    "answer",
    "brood",
    "clean_up",
    "count",
    "exit_hard",
    "exit_softly",
    "fail",
    "fill_disk",
    "kill_itself",
    "no_dict",
    "surroundings",
]


def answer(folder: Path, wait_for: str | None = None, **arguments: Any) -> dict[str, Any]:
    """Return the arguments, once the file to wait for exists; ``running`` says that it waits."""
    _write(folder / "running", os.getpid())
    print("waiting")
    print("for a file", file=sys.stderr)
    while wait_for is not None and not Path(wait_for).exists():
        time.sleep(0.02)
    (folder / "running").unlink()
    return {"folder": folder.name, **arguments}


def surroundings(folder: Path) -> dict[str, Any]:
    """Return what the process sees."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {
        "variables": {name: os.environ.get(name) for name in names},
        "process": os.getpid(),
        "directory": str(Path.cwd()),
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "libraries": [name for name in ("torch", "ray") if name in sys.modules],
    }


def count(folder: Path, total: int, stop_at: int, after: str) -> dict[str, Any]:
    """Count to ``total`` with a checkpoint after each number; at ``stop_at`` wait for the file ``after``."""
    checkpoint = folder / "checkpoint.json"
    numbers = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    start = len(numbers)
    while len(numbers) < total:
        numbers.append(os.getpid())
        _write(checkpoint, numbers)
        while len(numbers) == stop_at and not Path(after).exists():
            time.sleep(0.02)
    return {"start": start, "processes": numbers}


def fail(folder: Path, times: int) -> dict[str, Any]:
    """Raise an exception of two lines the first ``times`` times, then return how often it was called."""
    calls = folder / "calls.json"
    called = 1 + (json.loads(calls.read_text()) if calls.exists() else 0)
    _write(calls, called)
    if called <= times:
        raise RuntimeError(f"first line\nsecond line of call {called}")
    return {"calls": called}


def kill_itself(folder: Path, number: int = signal.SIGKILL) -> dict[str, Any]:
    """Die of a signal, as of the system's when memory is short."""
    with (folder / "deaths.txt").open("a") as file:
        file.write("x")
    os.kill(os.getpid(), number)
    time.sleep(60)
    return {}


def exit_hard(folder: Path) -> dict[str, Any]:
    """Leave the interpreter at once."""
    os._exit(7)


def exit_softly(folder: Path) -> dict[str, Any]:
    """Leave the interpreter by an exception, as commands do."""
    sys.exit(7)


def no_dict(folder: Path) -> int:
    """Return what is no dict."""
    return 1


def clean_up(folder: Path) -> dict[str, Any]:
    """Have a temporary file that is removed at the end."""
    _write(folder / "open", os.getpid())
    try:
        time.sleep(600)
    finally:
        (folder / "open").unlink()
    return {}


def fill_disk(folder: Path) -> dict[str, Any]:
    """Fail as writing to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.pt")


def brood(folder: Path, then: str, deaf: bool = True) -> dict[str, Any]:
    """Start a program and fork a process, perhaps hard to end; write their numbers; wait, return, die or linger."""
    session = deaf and sys.platform == "linux"
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=session)
    forked = os.fork()
    if not forked:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else signal.SIG_DFL)
        (folder / "forked").touch()
        time.sleep(600)
        os._exit(0)
    while not (folder / "forked").exists():
        time.sleep(0.02)
    _write(folder / "processes.json", [os.getpid(), forked, program.pid])
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "linger":  # at its end the interpreter waits for this thread
        threading.Thread(target=time.sleep, args=(600,)).start()
    if then == "wait":
        time.sleep(600)
    return {"then": then}


def _write(path: Path, content: Any) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content))
