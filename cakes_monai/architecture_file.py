# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What every kind of architecture.json has in common: it is read whole and checked, and written whole."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cakes_monai.atomic_file import written_whole

__all__ = ["FORMAT", "ArchitectureFile", "check_format", "check_keys", "made"]

FORMAT = 1

Self = TypeVar("Self", bound="ArchitectureFile")


class ArchitectureFile(ABC):
    """A value that is stored as architecture.json."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The architecture in dicts and lists, as in architecture.json."""

    @classmethod
    @abstractmethod
    def from_json(cls: type[Self], content: Mapping[str, Any]) -> Self:
        """
        The inverse of :meth:`to_json`.

        Raises:
            ValueError: for an unknown format, missing or unknown keys and everything the parts refuse.
        """

    @abstractmethod
    def dumps(self) -> str:
        """The text of architecture.json."""

    @classmethod
    def of(cls: type[Self], architecture: Self | Mapping[str, Any]) -> Self:
        """``architecture`` itself, or the one that a mapping as in architecture.json describes."""
        return architecture if isinstance(architecture, cls) else cls.from_json(architecture)  # type: ignore[arg-type]

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """
        Read architecture.json.

        Raises:
            ValueError: naming the file, the place in it, what is wrong and what is allowed.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write architecture.json, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(self.dumps(), encoding="utf-8")


def check_format(content: Any) -> None:
    """Raise a ValueError unless ``content`` is an object of the known format."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"format {found!r} is unknown, allowed is {FORMAT}.")


def made(place: str, make: Any, content: Any) -> Any:
    """``make(content)``, with the place in the file put before what is wrong."""
    try:
        return make(content)
    except ValueError as error:
        separator = "." if str(error).startswith("kernels[") else ": "
        raise ValueError(f"{place}{separator}{error}") from error


def check_keys(content: Any, place: str, required: set[str], optional: Iterable[str] = ()) -> None:
    """Raise a ValueError unless ``content`` is an object with the required keys and no others than these."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{place} must be an object with {', '.join(sorted(required))}, not {content!r}.")
    if missing := required - content.keys():
        raise ValueError(f"{place} lacks {', '.join(sorted(missing))}.")
    allowed = required.union(optional)
    if unknown := content.keys() - allowed:
        raise ValueError(f"{place} has unknown {', '.join(sorted(unknown))}, allowed are {', '.join(sorted(allowed))}.")
