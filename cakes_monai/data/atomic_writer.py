# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A NIfTI writer that never leaves half a file."""

from __future__ import annotations

from typing import Any

from monai.config import PathLike
from monai.data import NibabelWriter
from monai.data.image_writer import ImageWriter

from cakes_monai.atomic_file import written_whole

__all__ = ["AtomicNibabelWriter"]

SUFFIXES = (".nii", ".nii.gz")


class AtomicNibabelWriter(NibabelWriter):
    """
    ``NibabelWriter`` that writes beside the target and then renames, so that a stopped run leaves no broken result.

    Takes the arguments of ``NibabelWriter``.

    Example:
        >>> SaveImaged(keys="pred", output_ext=".nii.gz", writer="cakes_monai.data.AtomicNibabelWriter")
    """

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        """
        Write the array set before to ``filename``; arguments as for ``NibabelWriter.write``.

        Raises:
            ValueError: for a suffix other than .nii and .nii.gz, which nibabel may write as two files.
        """
        check_suffix(filename)
        ImageWriter.write(self, filename, verbose=verbose)  # only logs, here the name that stays
        with written_whole(filename) as temporary:
            super().write(temporary, verbose=False, **obj_kwargs)


def check_suffix(filename: PathLike) -> None:
    """Raise a ValueError for a format of two files, which cannot be renamed at once."""
    if not str(filename).lower().endswith(SUFFIXES):
        raise ValueError(f"{filename}: cannot be written as one NIfTI file; allowed: {', '.join(SUFFIXES)}.")
