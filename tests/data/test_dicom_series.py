# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of a folder of DICOM slices, on real series and on copies with one thing spoiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cakes_monai.data import check_dicom_series, dicom_files, is_dicom_folder

SOUND = (
    "hippocampus_dicom/Study1/13_HCropVolume",
    "hippocampus_dicom/Study2/14_HCropVolume",
    "hippocampus_dicom/Study3/11_HCropVolume",
    "brain_mr_dicom/11-T1post-18670",
    "ct/totalsegmentator/example_ct_dicom",
)
Edit = Callable[..., None]


def rewrite(file: Path, move: Callable[[np.ndarray], np.ndarray], orientation: list[float] | None = None) -> None:
    """Replace position (and orientation) of a slice."""
    header = pydicom.dcmread(file)
    header.ImagePositionPatient = [f"{x:.10g}" for x in move(np.array(header.ImagePositionPatient, dtype=float))]
    if orientation is not None:
        header.ImageOrientationPatient = [f"{x:.10g}" for x in orientation]
    header.save_as(file)


@pytest.mark.parametrize("name", SOUND)
def test_real_series_pass(data_root: Path, name: str) -> None:
    """Real series of even slices pass: MR and CT, oblique, with and without suffix, with an empty series UID."""
    check_dicom_series(data_root / name)


def test_real_uneven_series_is_refused(data_root: Path) -> None:
    """The real series whose first gap is 1.6 mm and the others 0.8 mm is refused with files, positions and gap."""
    with pytest.raises(ValueError, match=r"1 missing slice.*CT000081.dcm \(at -821.001 mm\).*gap of 1.6 mm where.*0.8"):
        check_dicom_series(data_root / "ct" / "uneven_slices_dicom")


def test_other_files_do_not_matter(series: Path) -> None:
    """Text, hidden copies of slices and a DICOMDIR beside the slices are ignored; slices need no suffix."""
    (series / "notes.txt").write_text("notes")
    shutil.copy(series / "3.dcm", series / ".3.dcm")
    shutil.copy(series / "3.dcm", series / "DICOMDIR")
    (series / "4.dcm").rename(series / "IM4")
    check_dicom_series(series)
    assert len(dicom_files(series)) == 32


def test_missing_slice(series: Path) -> None:
    """Without slice 10 the error names its neighbours and counts one missing slice; without 10 and 11 two."""
    (series / "10.dcm").unlink()
    with pytest.raises(ValueError, match=r"1 missing slice.*9.dcm \(at 9 mm\) and 11.dcm \(at 11 mm\), a gap of 2 mm"):
        check_dicom_series(series)
    (series / "11.dcm").unlink()
    with pytest.raises(ValueError, match=r"2 missing slice.*9.dcm \(at 9 mm\) and 12.dcm \(at 12 mm\), a gap of 3 mm"):
        check_dicom_series(series)


def test_missing_slice_among_three(series: Path) -> None:
    """Slices at 1, 2 and 4 mm have the gaps 1 and 2 mm: the smaller is the spacing, one slice is missing."""
    for number in (3, *range(5, 33)):
        (series / f"{number}.dcm").unlink()
    with pytest.raises(ValueError, match="1 missing slice"):
        check_dicom_series(series)


def test_two_series(series: Path, data_root: Path) -> None:
    """Two series in one folder are refused with UID and description of both."""
    for file in (data_root / "brain_mr_dicom" / "11-T1post-18670").iterdir():
        shutil.copy(file, series)
    with pytest.raises(
        ValueError, match=r"2 DICOM series: 1\.\S+ \((T1post|HippoCrop)\), 1\.\S+ \((T1post|HippoCrop)\)"
    ):
        check_dicom_series(series)


def test_many_series_are_counted(series: Path, edit: Edit) -> None:
    """Of 32 series in a folder three are named and 29 counted."""
    for number in range(1, 33):
        edit([series / f"{number}.dcm"], SeriesInstanceUID=f"1.2.{number}")
    with pytest.raises(ValueError, match=r"32 DICOM series: 1\.2\.1 .* and 29 more; allowed: one"):
        check_dicom_series(series)


def test_uneven_spacing(series: Path) -> None:
    """One slice 0.4 mm off makes the spacing uneven; 0.05 mm of 1 mm is still within the 10 % allowed."""
    rewrite(series / "10.dcm", lambda position: position + 0.05 * np.eye(3)[2])
    check_dicom_series(series)
    rewrite(series / "10.dcm", lambda position: position + 0.35 * np.eye(3)[2])
    with pytest.raises(ValueError, match=r"uneven slice spacing: (1.4|0.6) mm between .*10.dcm.*median 1 mm; .*10%"):
        check_dicom_series(series)


def test_rounded_positions_pass(series: Path) -> None:
    """Steps of 1.25 mm that the header rounds to 0.1 mm, so that gaps are 1.2 and 1.3 mm, are even."""
    for number in range(1, 33):
        rewrite(series / f"{number}.dcm", lambda position: np.round(position * [1, 1, 1.25], 1))
    check_dicom_series(series)


def test_spacing_that_changes_midway(series: Path) -> None:
    """Spacing of 1 mm in one half and 1.08 mm in the other is uneven, though each gap is near the median."""
    for number in range(17, 33):
        rewrite(series / f"{number}.dcm", lambda position: position + 0.08 * (position[2] - 16) * np.eye(3)[2])
    with pytest.raises(ValueError, match="uneven slice spacing"):
        check_dicom_series(series)


def test_duplicate_position(series: Path) -> None:
    """A copied slice is refused with both file names."""
    shutil.copy(series / "7.dcm", series / "copy.dcm")
    with pytest.raises(ValueError, match=r"1 slice\(s\) at the position of another.*7.dcm \(at 7 mm\) and copy.dcm"):
        check_dicom_series(series)


def test_one_position_only(series: Path) -> None:
    """Slices that all lie at one place, as of a time series, are duplicates and no division by zero."""
    for number in range(1, 33):
        rewrite(series / f"{number}.dcm", lambda position: position * 0)
    with pytest.raises(ValueError, match=r"31 slice\(s\) at the position of another"):
        check_dicom_series(series)


def test_other_size(series: Path, edit: Edit) -> None:
    """A slice of another matrix or pixel spacing is refused with both sizes."""
    edit([series / "5.dcm"], Rows=50)
    with pytest.raises(ValueError, match=r"1 of 32 slices differ in size.*50 35 1 1 in 5.dcm, 51 35 1 1 in 1.dcm"):
        check_dicom_series(series)
    edit([series / "5.dcm"], Rows=51, PixelSpacing=[1, 1.1])
    with pytest.raises(ValueError, match=r"differ in size or pixel spacing: 51 35 1 1\.1 in 5.dcm"):
        check_dicom_series(series)


def test_other_orientation(series: Path, edit: Edit) -> None:
    """A slice of another orientation, as a scout has, is refused."""
    edit([series / "5.dcm"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    with pytest.raises(ValueError, match=r"1 of 32 slices differ in orientation: 1 0 0 0 0 -1 in 5.dcm"):
        check_dicom_series(series)


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_no_place_in_space(series: Path, edit: Edit, tag: str) -> None:
    """A slice without position, orientation or pixel spacing, or with part of it, is refused with file and tag."""
    edit([series / "5.dcm"], **{tag: None})
    with pytest.raises(ValueError, match=f"5.dcm has no {tag}"):
        check_dicom_series(series)
    edit([series / "6.dcm"], **{tag: ["1"]})
    (series / "5.dcm").unlink()
    with pytest.raises(ValueError, match=f"6.dcm has no {tag}"):
        check_dicom_series(series)


def test_single_slice(series: Path) -> None:
    """One slice is no volume."""
    for number in range(2, 33):
        (series / f"{number}.dcm").unlink()
    with pytest.raises(ValueError, match="a single slice; allowed: 2"):
        check_dicom_series(series)


def test_multi_frame(series: Path, edit: Edit) -> None:
    """A multi-frame file is refused as such, not for its lack of a position."""
    edit([series / "5.dcm"], NumberOfFrames=12, ImagePositionPatient=None)
    with pytest.raises(ValueError, match=r"5.dcm is a multi-frame DICOM file"):
        check_dicom_series(series)


@pytest.mark.parametrize("content", [b"", b"hello", b"some text that is longer than a tag", bytes(range(256)) * 9])
def test_no_dicom_file(series: Path, content: bytes) -> None:
    """A file named .dcm that is none is refused by name, whatever the parser makes of it."""
    (series / "x.dcm").write_bytes(content)
    with pytest.raises(ValueError, match=r"series: x.dcm (is no DICOM file|cannot be read)"):
        check_dicom_series(series)


def test_broken_header(series: Path) -> None:
    """A slice cut off within its header is refused by name."""
    (series / "5.dcm").write_bytes((series / "5.dcm").read_bytes()[:400])
    with pytest.raises(ValueError, match=r"5.dcm is no DICOM file or a broken one"):
        check_dicom_series(series)


def turned(series: Path, shear: float = 0.0) -> None:
    """Turn the series by 30 degrees about x on a grid of 1 mm; each slice is moved sideways by ``shear`` mm more."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    axes = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])  # rows: along a row, a column, and the normal
    for number in range(1, 33):
        place = axes.T @ np.array([0, shear * number, number])
        rewrite(series / f"{number}.dcm", lambda position, place=place: place, [*axes[0], *axes[1]])


def test_positions_are_taken_along_the_normal(series: Path) -> None:
    """A series turned by 30 degrees passes, and without slice 10 its gap is 2 mm, not 2 mm times a cosine."""
    turned(series)
    check_dicom_series(series)
    (series / "10.dcm").unlink()
    with pytest.raises(ValueError, match=r"9.dcm \(at 9 mm\) and 11.dcm \(at 11 mm\), a gap of 2 mm"):
        check_dicom_series(series)


def test_tilted_gantry(series: Path) -> None:
    """Slices that move sideways by 0.1 mm each, 3.1 mm in all, are refused; 0.01 mm each is less than a pixel."""
    turned(series, shear=0.01)
    check_dicom_series(series)
    turned(series, shear=0.1)
    with pytest.raises(ValueError, match=r"shifted sideways by up to 3\.1 mm \(tilted gantry"):
        check_dicom_series(series)


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without DICOM files is refused as such."""
    with pytest.raises(ValueError, match="no DICOM files"):
        check_dicom_series(tmp_path)


def test_pixels_are_not_read(series: Path) -> None:
    """Only headers are read: slices cut off within their pixels pass."""
    (series / "5.dcm").write_bytes((series / "5.dcm").read_bytes()[:-1000])
    check_dicom_series(series)


def test_is_dicom_folder(series: Path, data_root: Path, tmp_path: Path) -> None:
    """A DICOM folder is known by suffix or by content; files, missing paths and other folders are none."""
    assert is_dicom_folder(series)
    assert is_dicom_folder(data_root / "ct" / "totalsegmentator" / "example_ct_dicom")  # no suffix .dcm
    assert not is_dicom_folder(series / "1.dcm")
    assert not is_dicom_folder(tmp_path)  # its subfolder is one
    assert not is_dicom_folder(tmp_path / "none")
    assert not is_dicom_folder(data_root / "Task04_Hippocampus" / "imagesTr")
