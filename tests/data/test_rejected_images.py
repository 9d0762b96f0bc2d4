# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What ImageList rejects, and in which words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cakes_monai.data import ImageList

Write = Callable[..., Path]


def reason(path: Path) -> str:
    """The one reason for which a path is rejected."""
    images = ImageList(path)
    assert images.data == []
    ((rejected, text),) = images.rejected
    assert rejected == str(path)
    assert "\n" not in text
    return text


def test_missing_empty_and_unknown(tmp_path: Path) -> None:
    """A missing path, a folder without images and a file of another suffix are rejected with what is allowed."""
    allowed = "; allowed: .nii, .nii.gz, .nrrd, .mha, .mhd or the folder of a DICOM series."
    (tmp_path / "empty").mkdir()
    (tmp_path / "1.dcm").write_bytes(b"")
    assert reason(tmp_path / "none") == "no such file or folder" + allowed
    assert reason(tmp_path / "empty") == "no images in this folder" + allowed
    assert reason(tmp_path / "1.dcm") == "unknown suffix" + allowed
    with pytest.raises(ValueError, match="the list of paths is empty"):
        ImageList([])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("content", ["", "some text"])
def test_text_for_an_image(tmp_path: Path, suffix: str, content: str) -> None:
    """A text file or an empty one with the suffix of an image is rejected, alone and in a folder."""
    path = tmp_path / f"scan{suffix}"
    path.write_text(content)
    assert re.search("Empty file|not a gzip file|Cannot work out file type|Could not create IO object", reason(path))
    assert [item[0] for item in ImageList(tmp_path).rejected] == [str(path)]


@pytest.mark.parametrize(("suffix", "cause"), [(".nii.gz", "end-of-stream"), (".nii", "Expected 8736 bytes, got")])
def test_truncated_nifti(nifti: Write, suffix: str, cause: str) -> None:
    """Half a NIfTI file, whose header is sound, is rejected for its missing voxels."""
    path = nifti(f"scan{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert cause in reason(path)


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_truncated_itk_file(itk_file: Write, suffix: str, compression: bool) -> None:
    """Half a NRRD or MetaImage file is rejected without ITK's source lines."""
    path = itk_file(f"scan{suffix}", compression=compression)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path).startswith("cannot be read: ")
    assert "hxx" not in reason(path)
    assert "ITK ERROR" not in reason(path)


def test_missing_raw_file(tmp_path: Path, itk_file: Write) -> None:
    """A .mhd whose .raw is not there is rejected."""
    path = itk_file("scan.mhd")
    (tmp_path / "scan.raw").unlink()
    assert reason(path).startswith("cannot be read: ")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.ones((4, 5)) * np.arange(5), "2D image of shape 4x5;"),
        (np.ones((4, 5, 1)) * np.arange(5)[:, None], "2D image of shape 4x5x1;"),
        (np.arange(120.0).reshape(4, 5, 3, 2), "4D or multi-channel image of shape 4x5x3 with 2 channel(s);"),
        (np.where(np.arange(60) < 3, np.nan, 1).reshape(4, 5, 3), "3 of 60 voxels are NaN or infinite;"),
        (np.where(np.arange(60) < 2, np.inf, 1).reshape(4, 5, 3), "2 of 60 voxels are NaN or infinite;"),
        (np.full((4, 5, 3), 7.0), "all voxels are 7;"),
        (np.ones((4, 5, 3), np.complex64), "cannot be read: Casting complex values"),
    ],
)
def test_unfit_image(nifti: Write, array: np.ndarray, text: str) -> None:
    """2D, 4D, NaN, infinite, constant and complex images are rejected with what was found."""
    path = nifti("scan.nii.gz", array if np.iscomplexobj(array) else array.astype(np.float32))
    assert text in reason(path)


def test_number_of_channels(nifti: Write) -> None:
    """With num_channels=2 the 4D image of two channels is taken and the 3D one rejected."""
    array = np.arange(120.0, dtype=np.float32).reshape(4, 5, 3, 2)
    two = nifti("two.nii.gz", array)
    assert ImageList(two, num_channels=2).data == [{"image": str(two)}]
    assert "with 1 channel(s); allowed" in ImageList(nifti("one.nii.gz"), num_channels=2).rejected[0][1]


def test_zero_spacing(nifti: Write, itk_file: Write) -> None:
    """Zero spacing in a header is rejected although nibabel would read it as 1 mm, and in NRRD by ITK's word."""
    path = nifti("scan.nii")
    content = bytearray(path.read_bytes())
    content[84:88] = bytes(4)  # pixdim[2]
    path.write_bytes(content)
    assert reason(path) == "voxel spacing 1x0x1 mm in the header (pixdim); allowed: above 0 along each axis."
    nrrd = itk_file("scan.nrrd")
    nrrd.write_bytes(nrrd.read_bytes().replace(b"(1,0,0)", b"(0,0,0)"))
    assert reason(nrrd).startswith("cannot be read: Zero-valued spacing is not supported")


def test_flat_affine(nifti: Write) -> None:
    """An affine whose axes lie in one plane is rejected."""
    affine = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]])
    path = nifti("scan.nii.gz")
    image = nibabel.load(path)
    data = np.asarray(image.dataobj).copy()
    image.header.set_sform(affine, code=1)
    nibabel.save(nibabel.Nifti1Image(data, None, image.header), path)
    assert "sform affine is singular" in reason(path)


def test_spoiled_dicom(series: Path, edit: Callable[..., None]) -> None:
    """A series is rejected for a damaged slice, and when the reader would take only the part of one slice thickness."""
    whole = (series / "5.dcm").read_bytes()
    (series / "5.dcm").write_bytes(whole[:-1000])
    assert reason(series).startswith("only 31 of 32 slices are read: some are damaged, or differ")
    (series / "5.dcm").write_bytes(whole)
    edit([series / f"{number}.dcm" for number in range(1, 17)], SliceThickness="0.999")
    assert reason(series).startswith("only 16 of 32 slices are read")


def test_missing_dicom_slice(series: Path) -> None:
    """A series with a missing slice is rejected before it is loaded, without its path in the reason."""
    (series / "10.dcm").unlink()
    assert reason(series).startswith("1 missing slice(s), first between 9.dcm")


def test_not_allowed_to_read(nifti: Write) -> None:
    """Files and folders that may not be read are rejected, and the others are taken."""
    good, file, other = nifti("a.nii.gz"), nifti("b.nii.gz"), nifti("c/scan.nii.gz")
    (good.parent / "notes.txt").touch(mode=0)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    other.parent.chmod(0)
    images = ImageList(good.parent)
    rejected = [path for path, _ in images.rejected]
    other.parent.chmod(0o700)
    assert images.data == [{"image": str(good)}]
    assert rejected == [str(file), str(other.parent)]
