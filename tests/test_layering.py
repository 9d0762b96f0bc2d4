# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The direction of imports that docs/design.md draws."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: package or module -> what of cakes_monai it may import besides itself
ALLOWED = {
    "atomic_file": set(),
    "architecture": {"atomic_file"},
    "cost": {"architecture"},
    "search": {"architecture", "cost", "atomic_file"},
    "blocks": {"architecture", "cost", "search", "atomic_file"},
    "nets": {"architecture", "blocks", "search"},
    "inference": {"architecture", "blocks"},
    "losses": {"blocks", "search"},
    "data": {"atomic_file", "transforms"},
    "transforms": set(),
    "plots": {"architecture", "atomic_file", "search"},
    "handlers": {"architecture", "atomic_file", "blocks", "nets", "plots", "search"},
    "workflows": {"architecture", "blocks", "cost", "handlers", "nets", "plots", "search"},
    "__main__": {"architecture", "blocks", "cost", "nets", "plots", "search", "workflows"},
}
WITHOUT_TORCH = ("architecture", "cost", "search", "atomic_file")


def imports(path: Path) -> Iterator[str]:
    """Names of all modules a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield str(node.module)


def layer(path: Path, package: Path) -> str:
    """The part of the package a file belongs to."""
    return path.relative_to(package).with_suffix("").parts[0]


def test_imports_follow_the_diagram(repository: Path) -> None:
    """No part imports one that the diagram does not give it, and nothing imports cakes_video."""
    package = repository / "cakes_monai"
    for path in package.rglob("*.py"):
        part = layer(path, package)
        for name in imports(path):
            assert not name.startswith("cakes_video"), f"{path} imports {name}"
            if name.startswith("cakes_monai.") and part != "__init__":
                other = name.split(".")[1]
                assert other == part or other in ALLOWED[part], f"{path} ({part}) imports {name}"


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_deciders_do_not_import_torch(part: str) -> None:
    """Importing architecture, cost and search loads neither torch nor MONAI."""
    code = f"import sys, cakes_monai.{part}; sys.exit(any(m in sys.modules for m in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
