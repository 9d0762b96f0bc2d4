# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Results are written while the next volume is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from monai.config import PathLike

from cakes_monai.data.atomic_writer import AtomicNibabelWriter, check_suffix

__all__ = ["BackgroundNibabelWriter", "finish_writing"]

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")  # the interpreter waits for it before it ends
_pending: list[Future[None]] = []


class BackgroundNibabelWriter(AtomicNibabelWriter):
    """
    ``AtomicNibabelWriter`` that compresses and writes in another thread, so that the caller goes on at once.

    One file is written at a time, and no more than one waits in memory: a write first waits for the one before and
    raises what that one raised. :func:`finish_writing` does so for the last one. Voxels must not be changed in place
    after they were given to the writer.

    Takes the arguments of ``NibabelWriter``.

    Example:
        >>> SaveImaged(keys="pred", output_ext=".nii.gz", writer="cakes_monai.data.BackgroundNibabelWriter")
    """

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        """
        Begin to write the array set before to ``filename``; arguments as for ``NibabelWriter.write``.

        Raises:
            ValueError: for a suffix other than .nii and .nii.gz, which nibabel may write as two files.
            RuntimeError: what kept the file before from being written.
        """
        check_suffix(filename)
        finish_writing()
        _pending.append(_thread.submit(self._write, filename, verbose, obj_kwargs))

    def _write(self, filename: PathLike, verbose: bool, obj_kwargs: dict[str, Any]) -> None:
        try:
            super().write(filename, verbose, **obj_kwargs)
        except Exception as error:
            raise RuntimeError(f"{filename}: could not be written: {error}") from error


def finish_writing() -> None:
    """
    Wait until every result is on disk.

    Raises:
        RuntimeError: which file could not be written, and why.
    """
    while _pending:
        _pending.pop().result()
