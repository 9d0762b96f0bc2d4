# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""One driver for one journal."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

__all__ = ["JournalLock"]

logger = logging.getLogger(__name__)


class JournalLock:
    """
    Lock of the file ``<path>.lock``; the system releases it when the process ends, however it ends.

    The file stays, because deleting it would let two drivers lock two files of the same name. Where there are no locks
    (Windows, some network file systems) a warning is logged and nothing is locked.

    Args:
        path: the journal.

    Raises:
        ValueError: when another driver has it, with its process and host.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(path.name + ".lock").open("a+", encoding="utf-8")
        try:
            if fcntl is None:
                raise OSError("no locks on this system")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read() or "unknown"
            self.release()
            raise ValueError(f"{path}: another driver is running ({owner}), a journal has one writer.") from error
        except OSError as error:
            logger.warning("%s: cannot be locked (%s), see that only one driver runs.", path, error)
        with suppress(OSError):  # a full disk; it is only for the message
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._file.flush()

    def release(self) -> None:
        """Let others have it."""
        with suppress(OSError):  # what a full disk did not take is tried again
            self._file.close()
