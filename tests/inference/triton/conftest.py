# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter, and its compiler for GPUs that are not there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KERNELS = ("convolution_kernel", "norm_kernels")


def reload_kernels() -> None:
    """Make the kernels anew: where they run is decided when they are made."""
    for name in KERNELS:
        importlib.reload(importlib.import_module(f"cakes_monai.inference.triton.{name}"))


@pytest.fixture(scope="module")
def interpreter() -> Iterator[None]:
    """Kernels run on CPU tensors in this module's tests, and as before in those of others."""
    pytest.importorskip("triton")  # before the variable is set, so that other users of Triton find it as it is
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        reload_kernels()
        yield
    reload_kernels()


@pytest.fixture
def assembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the compiler makes of a kernel for compute capability 9.0: needs no GPU, and finds what it does not know."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compiled(kernel: Any, arguments: dict[str, Any], **options: Any) -> str:
        signature = {name: _type(value) for name, value in arguments.items()}
        constants = {name: value for name, value in arguments.items() if signature[name] == "constexpr"}
        pointers = [name for name, kind in signature.items() if kind.startswith("*")]
        aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in pointers}
        source = ASTSource(kernel, signature, constants, aligned)
        options = {"enable_fp_fusion": True, **options}
        return str(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"])

    return compiled


def _type(argument: Any) -> str:
    """``argument`` where it names a type, such as ``*fp16`` or ``i32``; else it is a constant."""
    return (
        argument if isinstance(argument, str) and (argument in ("i32", "fp32") or argument[0] == "*") else "constexpr"
    )
