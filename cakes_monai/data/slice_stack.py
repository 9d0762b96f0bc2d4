# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Which DICOM slice is which plane of a loaded image."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray

from cakes_monai.data.dicom_series import series_headers

__all__ = ["stacked_slices"]

# Voxels a corner may lie off. Axes that are turned or swapped must be found out; slices that are shifted sideways by a
# pixel, and uneven ones, which readers lay on an even grid, still have their order.
TOLERANCE = 1.5


def stacked_slices(
    folder: str | os.PathLike[str], affine: ArrayLike, shape: Sequence[int], tags: Sequence[str] | None = ()
) -> list[pydicom.Dataset]:
    """
    Headers of the slices of a DICOM series in the order in which an image that was loaded from it stacks them.

    MONAI's readers give a series as ``(columns, rows, slices)`` with an affine in RAS. ``ITKReader`` stacks the slices
    upwards along the cross product of row and column direction, ``PydicomReader`` also downwards. Neither the order of
    files nor InstanceNumber tells which is which, so the affine is asked where it puts the corners of each slice.

    Args:
        folder: the folder of the series.
        affine: of the image, from voxels to RAS in mm, as its reader gave it or as ``Invertd`` has restored it.
        shape: of the image, without channel.
        tags: keywords to read beside those of the geometry; None reads all but the pixels.

    Returns:
        ``shape[2]`` headers; the image's plane ``[:, :, k]`` is the transposed pixels of the k-th.

    Raises:
        ValueError: when the folder is no single series, the image has another shape, or its affine does not belong to
            the series laid out as columns, rows, slices.
    """
    headers = series_headers(folder, tags)
    size = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    if tuple(shape) != size:
        raise ValueError(
            f"{folder}: the image is of shape {_times(shape)}, the series of {_times(size)} (columns, rows, slices); "
            "allowed: the image as it was loaded."
        )
    corners = np.stack([_corners(header) for header in headers])
    inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    voxels = corners @ inverse[:3, :3].T + inverse[:3, 3]  # (slices, 3 corners, xyz)
    order = np.argsort(voxels[:, 0, 2], kind="stable")
    planes = np.arange(size[2])[:, None, None] * [0, 0, 1]
    expected = planes + np.array([[0, 0, 0], [size[0] - 1, 0, 0], [0, size[1] - 1, 0]])
    off = float(np.abs(voxels[order] - expected).max())
    if not off <= TOLERANCE:  # NaN too
        raise ValueError(
            f"{folder}: the image's affine puts slices up to {off:.3g} voxels from where the series has them; "
            "allowed: an image whose axes are columns, rows and slices of the series, as it was loaded."
        )
    return [headers[index] for index in order]


def _corners(header: pydicom.Dataset) -> NDArray[np.float64]:
    """First pixel, last one of the first row and last one of the first column, in RAS and mm."""
    position, orientation, spacing = (
        np.array([float(number) for number in header[tag].value])
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    along_row = orientation[:3] * spacing[1] * (int(header.Columns) - 1)
    down_column = orientation[3:] * spacing[0] * (int(header.Rows) - 1)
    in_lps = np.stack([position, position + along_row, position + down_column])
    return in_lps * [-1, -1, 1]


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(int(number)) for number in shape)
