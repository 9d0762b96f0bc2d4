# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old one or the whole new one, never half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a temporary path beside ``path`` to write to; it takes the place of ``path`` when the block ends without error.

    The temporary name keeps the suffixes, because writers such as nibabel choose the format by them.

    Args:
        path: the file to write; its folder is made when it does not exist.

    Example:
        >>> with written_whole("eval/volumes.json") as temporary:
        ...     temporary.write_text("[]")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
