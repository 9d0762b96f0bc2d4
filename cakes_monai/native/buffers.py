# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory for volumes that is used again: fresh memory costs as much as a convolution of few channels."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["empty_volume", "free_buffers"]

_LEAST = 1 << 24  # bytes from which the system is asked for fresh memory every time
_FREE_REFERENCES = 3  # the list's, the loop's and that of the count itself
_buffers: list[NDArray[np.uint8]] = []
_lock = threading.Lock()


def empty_volume(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """
    A volume whose values are whatever was there, in memory that no living tensor uses.

    Args:
        shape: ``(N, C, D, H, W)``; the memory format is ``torch.channels_last_3d``.
        dtype: its type.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LEAST:
        return torch.empty(tuple(shape), dtype=dtype, memory_format=torch.channels_last_3d)
    batch, channels, depth, height, width = shape
    flat = torch.frombuffer(_buffer(size), dtype=dtype, count=math.prod(shape))
    return flat.view(batch, depth, height, width, channels).permute(0, 4, 1, 2, 3)


def free_buffers() -> None:
    """Give all memory that no living tensor uses back to the system."""
    with _lock:
        _buffers[:] = [buffer for buffer in _buffers if sys.getrefcount(buffer) > _FREE_REFERENCES]


def _buffer(size: int) -> NDArray[np.uint8]:
    """The smallest free buffer that is large enough, of not more than twice the size; else a new one."""
    with _lock:
        free = [buffer for buffer in _buffers if sys.getrefcount(buffer) <= _FREE_REFERENCES]
        fitting = [buffer for buffer in free if size <= buffer.nbytes <= 2 * size]
        if fitting:
            return min(fitting, key=lambda buffer: buffer.nbytes)
        _buffers.append(np.empty(size, np.uint8))
        return _buffers[-1]
