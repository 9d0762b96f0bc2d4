# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether the DICOM slices in a folder are one series on an even grid, which readers assume without asking."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

__all__ = ["check_dicom_series", "dicom_files", "is_dicom_folder", "series_headers"]

# Share of the slice spacing by which a slice may lie off the even grid: headers that round 1.25 mm steps to 0.1 mm are
# 0.04 off, a missing slice is at least 0.5 off.
SPACING_TOLERANCE = 0.1
DUPLICATE_DISTANCE = 1e-3  # mm
MAX_LISTED = 3  # series in a message
GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
TAGS = (*GEOMETRY, "SeriesInstanceUID", "SeriesDescription", "NumberOfFrames")


@dataclass(frozen=True)
class _Slice:
    """Geometry of one slice; ``offset`` is the position of its first voxel along the slice normal, in mm."""

    file: str
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    size: NDArray[np.float64]  # rows, columns and their spacing in mm
    normal: NDArray[np.float64]
    offset: float


def is_dicom_folder(path: str | os.PathLike[str]) -> bool:
    """
    Whether a folder directly holds at least one DICOM file, by suffix .dcm or the letters DICM at byte 128.

    Args:
        path: any path; what is no folder is no DICOM folder.
    """
    try:
        return Path(path).is_dir() and any(_is_dicom(file) for file in Path(path).iterdir())
    except OSError:  # not allowed to look into it
        return False


def dicom_files(folder: str | os.PathLike[str]) -> list[Path]:
    """
    List the DICOM files directly in a folder, sorted by name; hidden files and DICOMDIR are none of them.

    Args:
        folder: an existing folder.
    """
    return sorted(file for file in Path(folder).iterdir() if _is_dicom(file))


def check_dicom_series(folder: str | os.PathLike[str]) -> None:
    """
    Refuse a folder of DICOM slices that does not make up one volume on an even grid; reads headers only.

    Slices are ordered by their position along the normal of ImageOrientationPatient. A slice may lie off the even grid
    between the first and the last by 10 % of the slice spacing, and sideways by one pixel.

    Args:
        folder: the folder; other files in it are ignored.

    Raises:
        ValueError: when the folder holds no or more than one series, a single slice, multi-frame files, files that are
            no DICOM or lack position, orientation or size, slices of different size or orientation, two slices at one
            position, a missing slice, uneven spacing, or slices shifted sideways as a tilted gantry does.
    """
    slices = [_slice(header) for header in series_headers(folder)]
    _raise_first(folder, _grid_problems(slices))


def series_headers(folder: str | os.PathLike[str], tags: Sequence[str] | None = ()) -> list[pydicom.Dataset]:
    """
    Read the headers of the slices of one series, sorted by file name.

    Args:
        folder: the folder; other files in it are ignored.
        tags: keywords to read beside those of the geometry; None reads all but the pixels.

    Raises:
        ValueError: when the folder holds no or more than one series, a single slice, multi-frame files, or files that
            are no DICOM or lack position, orientation or size. The grid is not looked at.
    """
    headers = [_read_header(file, tags) for file in dicom_files(folder)]
    _raise_first(folder, _series_problems(headers))
    return headers


def _raise_first(folder: str | os.PathLike[str], problems: Iterator[str]) -> None:
    problem = next(problems, None)
    if problem is not None:
        raise ValueError(f"{folder}: {problem}")


def _is_dicom(file: Path) -> bool:
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
        return False
    if file.suffix.lower() == ".dcm":
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:  # not allowed to read it
        return False


def _read_header(file: Path, tags: Sequence[str] | None) -> pydicom.Dataset:
    wanted = None if tags is None else [*TAGS, *tags]
    try:
        # force: readers take files without preamble, too
        header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=wanted)
    except Exception as error:  # the parser raises many kinds on what is no DICOM
        raise ValueError(f"{file.parent}: {file.name} cannot be read; allowed: DICOM slices.") from error
    if "SeriesInstanceUID" not in header:  # empty in some anonymised files, absent in none
        raise ValueError(f"{file.parent}: {file.name} is no DICOM file or a broken one; allowed: DICOM slices.")
    return header


def _grid_problems(slices: list[_Slice]) -> Iterator[str]:
    """Yield what is wrong, most basic first; later checks rely on earlier ones."""
    for what, name, tolerance in (("size or pixel spacing", "size", 1e-3), ("orientation", "orientation", 1e-3)):
        yield from _difference_problems(slices, what, name, tolerance)
    slices.sort(key=lambda item: item.offset)
    yield from _spacing_problems(slices)
    yield from _shift_problems(slices)


def _series_problems(headers: Sequence[pydicom.Dataset]) -> Iterator[str]:
    """Yield what is wrong, most basic first; later checks rely on earlier ones."""
    if not headers:
        yield "no DICOM files; allowed: the slices of one series."
    series = {header.get("SeriesInstanceUID", ""): header.get("SeriesDescription", "") for header in headers}
    if len(series) > 1:
        named = [f"{uid or 'no UID'} ({text or 'no description'})" for uid, text in sorted(series.items())]
        more = f" and {len(named) - MAX_LISTED} more" if len(named) > MAX_LISTED else ""
        yield f"{len(named)} DICOM series: {', '.join(named[:MAX_LISTED])}{more}; allowed: one series a folder."
    for header in headers:
        if int(header.get("NumberOfFrames") or 1) > 1:
            yield f"{_name(header)} is a multi-frame DICOM file; allowed: one file for each slice."
        if lacking := [tag for tag, count in GEOMETRY.items() if not _holds(header, tag, count)]:
            yield f"{_name(header)} has no {', '.join(lacking)}; allowed: image slices with their place in space."
    if len(headers) == 1:
        yield "a series of a single slice; allowed: 2 slices or more."


def _holds(header: pydicom.Dataset, tag: str, count: int) -> bool:
    return tag in header and not header[tag].is_empty and count == header[tag].VM


def _name(header: pydicom.Dataset) -> str:
    return Path(str(header.filename)).name


def _numbers(value: Any) -> NDArray[np.float64]:
    return np.array([float(number) for number in value])


def _slice(header: pydicom.Dataset) -> _Slice:
    orientation, position = _numbers(header.ImageOrientationPatient), _numbers(header.ImagePositionPatient)
    normal = np.cross(orientation[:3], orientation[3:])
    size = np.array([header.Rows, header.Columns, *_numbers(header.PixelSpacing)])
    return _Slice(_name(header), position, orientation, size, normal, float(normal @ position))


def _difference_problems(slices: Sequence[_Slice], what: str, name: str, tolerance: float) -> Iterator[str]:
    first = slices[0]
    expected = getattr(first, name)
    others = [item for item in slices if not np.allclose(getattr(item, name), expected, rtol=0, atol=tolerance)]
    if others:
        yield (
            f"{len(others)} of {len(slices)} slices differ in {what}: {_listed(getattr(others[0], name))} in "
            f"{others[0].file}, {_listed(expected)} in {first.file}; allowed: the same in all slices."
        )


def _listed(numbers: NDArray[np.float64]) -> str:
    return " ".join(f"{number:.5g}" for number in numbers)


def _between(slices: Sequence[_Slice], index: int) -> str:
    return " and ".join(f"{item.file} (at {item.offset:.6g} mm)" for item in slices[index : index + 2])


def _spacing_problems(slices: Sequence[_Slice]) -> Iterator[str]:
    offsets = np.array([item.offset for item in slices])
    gaps = np.diff(offsets)
    if len(same := np.flatnonzero(gaps <= DUPLICATE_DISTANCE)):
        yield (
            f"{len(same)} slice(s) at the position of another, first {_between(slices, same[0])}; "
            "allowed: one slice at each position (one time point, one echo)."
        )
    spacing = np.sort(gaps)[(len(gaps) - 1) // 2]  # the lower median, so that one of two gaps may be the large one
    steps = np.round(gaps / spacing)
    whole = np.abs(gaps / spacing - steps) <= SPACING_TOLERANCE
    if len(large := np.flatnonzero(whole & (steps > 1))):
        yield (
            f"{int((steps[large] - 1).sum())} missing slice(s), first between {_between(slices, large[0])}, a gap of "
            f"{gaps[large[0]]:.4g} mm where spacing is {spacing:.4g} mm; allowed: a whole series."
        )
    off_grid = np.abs(offsets - np.linspace(offsets[0], offsets[-1], len(offsets))).max()
    if off_grid > SPACING_TOLERANCE * spacing:
        worst = int(np.abs(gaps - spacing).argmax())
        yield (
            f"uneven slice spacing: {gaps[worst]:.4g} mm between {_between(slices, worst)}, median {spacing:.4g} mm; "
            f"allowed: slices within {SPACING_TOLERANCE:.0%} of the spacing from an even grid."
        )


def _shift_problems(slices: Sequence[_Slice]) -> Iterator[str]:
    sideways = np.array([item.position - item.offset * item.normal for item in slices])
    shift, pixel = float(np.linalg.norm(sideways - sideways[0], axis=1).max()), float(slices[0].size[2:].max())
    if shift > pixel:
        yield (
            f"slices are shifted sideways by up to {shift:.4g} mm (tilted gantry?); "
            f"allowed: one pixel ({pixel:.4g} mm), slices stacked along their normal."
        )
