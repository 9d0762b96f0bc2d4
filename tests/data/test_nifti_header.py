# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""NIfTI headers that readers would mend without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cakes_monai.data import check_nifti_header

Nifti = Callable[..., Path]


def patch(path: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes of a NIfTI-1 header; pixdim[1] is at 80, sform_code at 254, srow_x at 280."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)


def test_sound_headers(nifti: Nifti, volume: np.ndarray, data_root: Path, tmp_path: Path) -> None:
    """NIfTI-1 and NIfTI-2, compressed or not, oblique, 2D, and real files pass."""
    check_nifti_header(nifti("a.nii"))
    check_nifti_header(nifti("b.nii.gz", affine=np.array([[0, 2, 0, 5], [-1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])))
    check_nifti_header(nifti("c.nii.gz", volume[0]))
    nibabel.save(nibabel.Nifti2Image(volume, np.eye(4)), tmp_path / "d.nii.gz")
    check_nifti_header(tmp_path / "d.nii.gz")
    check_nifti_header(data_root / "ct" / "spleen_msd" / "sub-spleen2_ct.nii.gz")


@pytest.mark.parametrize(("value", "shown"), [(0, "0x1x1"), (np.nan, "nanx1x1"), (np.inf, "infx1x1")])
def test_spacing(nifti: Nifti, value: float, shown: str) -> None:
    """A spacing of 0, NaN or infinity is refused, with or without an sform."""
    path = nifti("a.nii")
    patch(path, 80, np.float32(value).tobytes())
    with pytest.raises(ValueError, match=f"a.nii: voxel spacing {shown} mm in the header"):
        check_nifti_header(path)
    patch(path, 254, bytes(2))
    with pytest.raises(ValueError, match=f"a.nii: voxel spacing {shown} mm in the header"):
        check_nifti_header(path)


def test_sform(nifti: Nifti) -> None:
    """An sform without a row is refused while it is in use, and ignored when its code is 0."""
    path = nifti("a.nii")
    patch(path, 280, bytes(16))
    with pytest.raises(ValueError, match="sform affine is singular"):
        check_nifti_header(path)
    patch(path, 254, bytes(2))
    check_nifti_header(path)
