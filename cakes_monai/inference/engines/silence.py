# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A log without what a build has to tell of every layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silent"]


@contextmanager
def silent(*names: str) -> Iterator[None]:
    """
    Let only errors through.

    Args:
        names: of the loggers, with all below them.
    """
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
