# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels: made by the machine's C++ compiler when first needed, kept for the next time."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from cakes_monai.atomic_file import written_whole

__all__ = ["DTYPES", "Group", "Product", "Shape", "cache_folder", "lanes", "library", "missing", "prepare"]

logger = logging.getLogger(__name__)

#: Types that the kernels compute with; sums are always float32.
DTYPES = (torch.float32, torch.bfloat16)

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-O2", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


class Group(ctypes.Structure):
    """Blocks of output channels with the same taps, see kernels.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("first_block", "blocks", "first_tap", "taps")),
        ("weights", ctypes.c_int64),
    )


class Product(ctypes.Structure):
    """Rows of a weight gradient, see kernels.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("depth", "height", "width", "begin", "end")),
        ("row", ctypes.c_int64),
    )


class Shape(ctypes.Structure):
    """Sizes of a convolution, see kernels.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "depth", "height", "width")),
        *((name, ctypes.c_int64) for name in ("out_depth", "out_height", "out_width", "out_channels")),
        *((name, ctypes.c_int32) for name in ("stride_depth", "stride_height", "threads", "groups", "groups_first")),
    )


def missing(dtype: torch.dtype = torch.float32) -> str | None:
    """
    Why the kernels cannot run here; None when they can.

    Args:
        dtype: the type to compute with.
    """
    if dtype not in DTYPES:
        return f"the native kernels have no {dtype}; they have {' and '.join(map(str, DTYPES))}"
    if _compiler() is None:
        return "the native kernels need a C++ compiler (g++ or clang++, or the one named by CXX)"
    try:
        library(16, 1, dtype)
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return f"the native kernels for {dtype} do not compile here: {said[0] if said else error}"
    return None


def lanes() -> int:
    """Output channels of a block: the float32 numbers in a vector of this machine."""
    return int(library(16, 1, torch.float32).lanes())


@cache
def library(channels: int, stride: int, dtype: torch.dtype) -> ctypes.CDLL:
    """
    The kernels for a number of input channels.

    Compiled on the first call (a second or two) into :func:`cache_folder`.

    Args:
        channels: input channels; even for bfloat16.
        stride: along W.
        dtype: type of input, weights and output.

    Raises:
        OSError: when there is no compiler, or what it makes cannot be loaded.
        subprocess.CalledProcessError: when it does not compile.
    """
    options = [f"-DCHANNELS={channels}", f"-DSTRIDE={stride}", *(["-DBFLOAT16"] if dtype == torch.bfloat16 else [])]
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C++ compiler (g++ or clang++, or the one named by CXX).")
    path = cache_folder() / f"native_{_digest(compiler, options)}.so"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # what is loaded from here runs
    if not path.exists():
        logger.info("Compiling the kernels for %d channels, stride %d, %s.", channels, stride, dtype)
        with written_whole(path) as temporary:
            command = [compiler, *_FLAGS, *options, str(_SOURCE), "-o", str(temporary)]
            subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(path))


def prepare(keys: Iterable[tuple[int, int, torch.dtype]]) -> None:
    """
    Compile what :func:`library` will be asked for, several at a time.

    Args:
        keys: channels, stride and type of each.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda key: library(*key), dict.fromkeys(keys)))


def cache_folder() -> Path:
    """Where kernels and measurements are kept: ``CAKES_MONAI_CACHE``, by default ``~/.cache/cakes_monai``."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CAKES_MONAI_CACHE") or caches / "cakes_monai")


@cache
def _compiler() -> str | None:
    return next(
        (path for name in (os.environ.get("CXX"), "g++", "clang++") if name and (path := shutil.which(name))), None
    )


@cache
def _machine(compiler: str) -> str:
    """All that compiled code depends on: a shared home folder may be seen from other processors."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    target = subprocess.run([compiler, "-march=native", "-Q", "--help=target"], capture_output=True, text=True).stdout
    return "\n".join((platform.machine(), version, target))


def _digest(compiler: str, options: Sequence[str]) -> str:
    content = "\n".join((_machine(compiler), *_FLAGS, *options)) + _SOURCE.read_text(encoding="utf-8")
    return hashlib.sha256(content.encode()).hexdigest()[:20]
