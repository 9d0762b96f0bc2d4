# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The imports are those that docs/design.md allows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHOUT_TORCH = ("architecture", "backbone_architecture", "cost", "search", "atomic_file")


def allowed(repository: Path) -> dict[str, set[str]]:
    """What each part may import, from the table in docs/design.md."""
    page = (repository / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    return {part: set(re.findall(r"`(\w+)`", others)) for part, others in rows}


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


def test_imports_follow_the_table(repository: Path) -> None:
    """No part imports one that the table does not give it, and nothing imports cakes_video."""
    package, table = repository / "cakes_monai", allowed(repository)
    for path in package.rglob("*.py"):
        part = layer(path, package)
        for name in imports(path):
            assert not name.startswith("cakes_video"), f"{path} imports {name}"
            if name.startswith("cakes_monai.") and part != "__init__":
                other = name.split(".")[1]
                assert other == part or other in table[part], f"{path} ({part}) imports {name}"


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_deciders_do_not_import_torch(part: str) -> None:
    """Importing architecture, cost and search loads neither torch nor MONAI."""
    code = f"import sys, cakes_monai.{part}; sys.exit(any(m in sys.modules for m in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
