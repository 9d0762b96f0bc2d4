# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a NIfTI header that nibabel and MONAI mend without asking."""

from __future__ import annotations

import os
from typing import Any

import nibabel
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

__all__ = ["check_nifti_header"]


def check_nifti_header(path: str | os.PathLike[str]) -> None:
    """
    Refuse a NIfTI file whose voxel spacing or orientation is unknown.

    Needed because of what readers do with it: nibabel sets a spacing of 0 to 1 mm, and MONAI then replaces an sform
    that contradicts the spacing, so the loaded image looks sound.

    Args:
        path: a .nii or .nii.gz file.

    Raises:
        ValueError: when the header's spacing is 0 or not finite, or an sform in use is singular or not finite.
        nibabel.filebasedimages.ImageFileError: when it is no NIfTI file.
    """
    header_class: Any = nibabel.load(path).header_class
    if not issubclass(header_class, nibabel.Nifti1Header):  # NIfTI-2 headers are, CIFTI's are not
        raise ValueError(f"{path}: a {header_class.__name__} file; allowed: NIfTI-1 and NIfTI-2 volumes.")
    with ImageOpener(os.fspath(path)) as stream:
        header: Any = header_class.from_fileobj(stream, check=False)
    spacing = np.abs(header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))])  # a sign is mended rightly
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        listed = "x".join(f"{size:g}" for size in spacing)
        raise ValueError(f"{path}: voxel spacing {listed} mm in the header (pixdim); allowed: above 0 along each axis.")
    axes = np.array([header[row][:3] for row in ("srow_x", "srow_y", "srow_z")], dtype=np.float64)
    if header["sform_code"] > 0 and not _spans_space(axes):
        raise ValueError(f"{path}: the header's sform affine is singular or not finite; allowed: axes that span space.")


def _spans_space(axes: NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(axes, axis=0)
    return bool(np.isfinite(axes).all() and (lengths > 0).all() and abs(np.linalg.det(axes / lengths)) > 1e-3)
