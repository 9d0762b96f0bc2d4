# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of the cases of an iteration, and of the structures that are found in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from monai.data.utils import create_file_basename
from monai.utils import ImageMetaKey

__all__ = ["CaseNames", "checked_names"]

logger = logging.getLogger(__name__)


class CaseNames:
    """
    Names the cases of an iteration as ``SaveImaged`` names their files, and says when two get the same name.

    The name is the file's without suffix, or the folder's for a DICOM series, after the path below ``data_root_dir``.
    Images without a file are numbered.

    Args:
        image_key: key of the image.
        data_root_dir: folder the names are relative to; "" leaves the file name alone.
    """

    def __init__(self, image_key: str = "image", data_root_dir: str = "") -> None:
        self.image_key = image_key
        self.data_root_dir = data_root_dir
        self._files: dict[str, str] = {}
        self._numbered = 0

    def start(self) -> None:
        """Forget the cases so far."""
        self._files, self._numbered = {}, 0

    def __call__(self, engine: Engine) -> list[tuple[str, str]]:
        """Name and file of every case of the iteration that ``engine`` has completed."""
        batch, output = engine.state.batch, engine.state.output
        if not isinstance(batch, list) or not isinstance(output, list):
            raise ValueError("engine: the output of an iteration is not a list of cases; set decollate to true.")
        return [self._name({**b, **o}.get(self.image_key)) for b, o in zip(batch, output, strict=True)]

    def _name(self, image: Any) -> tuple[str, str]:
        file = str(getattr(image, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, "")).rstrip("/\\")
        if not file:
            self._numbered += 1
            rank = f"{idist.get_rank()}_" if idist.get_world_size() > 1 else ""
            return f"{rank}{self._numbered - 1}", ""
        name = create_file_basename("", file, "", self.data_root_dir, separate_folder=False, makedirs=False)
        name = Path(name).as_posix()
        if self._files.setdefault(name, file) != file:
            logger.warning(
                "%s and %s are both named %s; data_root_dir can tell them apart.", self._files[name], file, name
            )
        return name, file


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """
    Names of structures as a tuple.

    Raises:
        ValueError: when it is a single string, is empty, or has a name twice.
    """
    if isinstance(names, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"names: {names!r}; allowed is a list of different names, the first for label 1.")
    return tuple(names)
