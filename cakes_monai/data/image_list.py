# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The images under a path that can be segmented, and for each of the others the reason why not."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from monai.data.utils import create_file_basename
from monai.transforms import LoadImage
from monai.utils import string_list_all_gather
from tqdm import tqdm

from cakes_monai.data.dicom_series import check_dicom_series, dicom_files, is_dicom_folder
from cakes_monai.data.image_search import find_images
from cakes_monai.data.nifti_header import check_nifti_header
from cakes_monai.transforms.image_check import CheckImage

__all__ = ["ImageList"]

logger = logging.getLogger(__name__)

SHORT_LIST = 5  # images up to which no progress is shown; never where nobody watches (None: no terminal)


class ImageList:
    """
    Data list of the images under a path, each loaded once to see that it can be.

    Images are files (.nii, .nii.gz, .nrrd, .mha, .mhd) and folders of DICOM slices; a folder is searched for both.
    Looking for and at them happens when ``data`` or ``rejected`` is first asked for, and only once.

    Args:
        path: an image file, the folder of a DICOM series, a folder to search, or a list of these.
        num_channels: number of channels an image must have.
        shared: whether the processes of a distributed run divide the images among them to look at; all must ask for
            ``data`` or ``rejected`` then, and all know what each has found.

    Attributes:
        root: folder below which results keep the relative place of their image, for ``SaveImaged(data_root_dir=...)``:
            the searched folder, or what an image file or DICOM folder lies in; for a list what all have in common.

    Raises:
        ValueError: for an empty list of paths.

    Example:
        >>> images = ImageList("/scans")
        >>> dataset = monai.data.Dataset(images.data, transform)
        >>> images.raise_for_rejected()  # after the good ones are done
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        num_channels: int = 1,
        shared: bool = False,
    ) -> None:
        given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        if not given:
            raise ValueError("ImageList: the list of paths is empty; allowed: at least one path.")
        # normalised without following links, whose targets may have quite other names
        self._paths = [Path(os.path.abspath(Path(item).expanduser())) for item in given]  # noqa: PTH100
        self._load = LoadImage(ensure_channel_first=True)
        self._check = CheckImage(num_channels)
        self._shared = shared
        self.root = os.path.commonpath([_root(item) for item in self._paths])

    @property
    def data(self) -> list[dict[str, str]]:
        """The good images as ``{"image": path}``, sorted within each given path."""
        return [{"image": str(path)} for path in self._sorted_out[0].values()]

    @property
    def rejected(self) -> list[tuple[str, str]]:
        """Path and reason of everything that is given or found and no good image."""
        return [(str(path), reason) for path, reason in self._sorted_out[1]]

    def raise_for_rejected(self) -> None:
        """
        End the program with status 1 when anything was rejected; to be called after the good images are done.

        Raises:
            SystemExit: with a text that lists what was rejected and why. It ends ``python -m monai.bundle run`` without
                a traceback.
        """
        if self.rejected:
            lines = [f"  {path}: {reason}" for path, reason in self.rejected]
            total = len(self.data) + len(self.rejected)
            raise SystemExit("\n".join([f"{len(lines)} of {total} inputs were not segmented:", *lines]))

    @cached_property
    def _sorted_out(self) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
        """Good images by the name of their result, and rejected ones with the reason."""
        good: dict[str, Path] = {}
        rejected: list[tuple[Path, str]] = []
        found = self._find(rejected)
        problems = self._problems(found)
        for path in found:
            name = _result_name(path, self.root)
            problem = problems[path]
            if name in good:
                problem = f"its result would have the same name as that of {good[name]}; rename one of them."
            if problem is None:
                good[name] = path
            else:
                _reject(path, problem, rejected)
        return good, rejected

    def _problems(self, found: Sequence[Path]) -> dict[Path, str | None]:
        """What is wrong with each image, None for nothing."""
        own = found[idist.get_rank() :: idist.get_world_size()] if self._shared else found
        problems: dict[Path, str | None] = {}
        for path in tqdm(own, desc="checking images", leave=False, disable=len(own) <= SHORT_LIST or None):
            try:
                self._check_image(path)
                problems[path] = None
            except Exception as error:  # whatever a reader raises, the other images must go on
                problems[path] = _reason(path, error)
        if self._shared:
            texts = string_list_all_gather([json.dumps([str(path), problem]) for path, problem in problems.items()])
            problems = {Path(path): problem for path, problem in map(json.loads, filter(None, texts))}
        return problems

    def _find(self, rejected: list[tuple[Path, str]]) -> list[Path]:
        found: list[Path] = []
        for path in self._paths:
            try:
                found += find_images(path)
            except (ValueError, OSError) as error:
                _reject(path, _reason(path, error), rejected)
        return list(dict.fromkeys(found))

    def _check_image(self, path: Path) -> None:
        if path.is_dir():
            check_dicom_series(path)
        elif path.name.lower().endswith((".nii", ".nii.gz")):
            check_nifti_header(path)
        image = self._loaded(path)
        if path.is_dir() and image.shape[-1] != (count := len(dicom_files(path))):
            raise ValueError(
                f"only {image.shape[-1]} of {count} slices are read: some are damaged, or differ in series date or "
                "number, sequence name or slice thickness; allowed: sound slices that agree in these."
            )
        self._check(image)

    def _loaded(self, path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*more than one DICOM series")  # counted above
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            try:
                return self._load(path)
            except Exception as error:  # each reader has its own
                raise ValueError(f"cannot be read: {_cause(error)}") from error


def _root(path: Path) -> Path:
    return path if path.is_dir() and not is_dicom_folder(path) else path.parent


def _result_name(path: Path, root: str) -> str:
    """Return the name that SaveImaged gives the result of ``path``, without postfix and suffix."""
    return create_file_basename("", path, "", data_root_dir=root, separate_folder=False, makedirs=False)


def _reason(path: Path, error: Exception) -> str:
    return _cause(error).removeprefix(f"{path}: ")


def _reject(path: Path, reason: str, rejected: list[tuple[Path, str]]) -> None:
    logger.warning("%s: not segmented: %s", path, reason)
    rejected.append((path, reason))


def _cause(error: Exception) -> str:
    """Return the cause in one line: ITK puts its source line before it, and NRRD's cause comes last."""
    text = re.sub(r"^\S+:\d+:\s+(ITK ERROR: \w+\(\w+\): )?", "", str(error).strip())
    lines = text.splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") else lines[0]
