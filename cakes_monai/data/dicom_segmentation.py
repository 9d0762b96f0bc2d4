# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Label maps as DICOM Segmentation objects that refer to the series they were computed from."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray

from cakes_monai import __version__
from cakes_monai.atomic_file import written_whole
from cakes_monai.data.slice_stack import stacked_slices

__all__ = ["SegmentationSource", "SeriesReferenceError", "has_highdicom", "write_dicom_segmentation"]

Code = Sequence[str]

ANATOMICAL_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")
REFERRED_TO = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# Of patient and study. May be empty, but a DICOM SEG must have them; anonymised series often have lost them.
PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
COPIED = (*PATIENT, "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
SERIES_NUMBER = 1000  # added to that of the images
LONGEST = 64  # characters of a name in DICOM


@dataclass(frozen=True)
class SegmentationSource:
    """
    What made a segmentation, and what its structures are in the words of DICOM.

    Args:
        name: of the algorithm.
        version: of the algorithm.
        codes: for some or all structures, by name, ``{"category": code, "type": code}``, each
            ``[value, scheme, meaning]``, of the DICOM contexts CID 7150 and 7151. What is not given is SNOMED CT's
            "Anatomical Structure".

    Raises:
        ValueError: for a code that is no three texts, or another entry than category and type.
    """

    name: str = "cakes-monai"
    version: str = __version__
    codes: Mapping[str, Mapping[str, Code]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for structure, codes in self.codes.items():
            for kind, code in codes.items():
                texts = [part for part in code if isinstance(part, str) and part]
                if kind not in ("category", "type") or isinstance(code, str) or len(code) != 3 or len(texts) != 3:
                    raise ValueError(
                        f"DICOM code of {structure!r}: {kind!r} is {code!r}; "
                        "allowed: category and type, each [value, scheme, meaning]."
                    )


class SeriesReferenceError(ValueError):
    """A series lacks what a DICOM SEG must refer to, e.g. SOPInstanceUID after a careless anonymisation."""


def has_highdicom() -> bool:
    """Whether highdicom is installed, which writes DICOM SEG; the extra ``cakes-monai[dicom]`` brings it."""
    return find_spec("highdicom") is not None


def write_dicom_segmentation(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    labels: NDArray[Any],
    affine: ArrayLike,
    names: Sequence[str],
    source: SegmentationSource | None = None,
) -> None:
    """
    Write a label map as a binary DICOM SEG of the series that its image was loaded from.

    Study, patient and frame of reference are the series' own; all of its slices are named as sources, and each frame
    names the slice it lies on, whose position, orientation and spacing it has to the last digit. Label n is segment n.
    Frames without voxels are left out, so a structure that was not found is described and has no frame. When nothing
    was found at all, all frames are there and empty. The file is written whole or not at all.

    Args:
        path: file to write, with suffix .dcm; its folder is made.
        folder: folder of the series.
        labels: label map of whole numbers, ``(columns, rows, slices)``, in the voxel order of the loaded image.
        affine: of the loaded image, in RAS, see :func:`stacked_slices`.
        names: name of label 1, of label 2 and so on.
        source: name and version of the algorithm, and codes of the structures.

    Raises:
        SeriesReferenceError: when the series lacks what a DICOM SEG must refer to, or its headers break the standard.
        ValueError: without highdicom, when labels do not fit the series or the names, and when the file cannot be
            written.
    """
    if not has_highdicom():
        raise ValueError('DICOM SEG needs highdicom: pip install "cakes-monai[dicom]".')
    slices = stacked_slices(folder, affine, labels.shape, tags=None)
    _check_references(slices, folder)
    frames = _frames(labels, len(names), folder)
    try:
        segmentation = _segmentation(slices, frames, names, source or SegmentationSource())
        with written_whole(path) as temporary:
            segmentation.save_as(temporary)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}; allowed: a writable folder.") from error
    except Exception as error:  # highdicom and pydicom raise many kinds on headers that break the standard
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SeriesReferenceError(f"{folder}: no DICOM SEG can be made from its headers: {reason}") from error


def _check_references(slices: Sequence[pydicom.Dataset], folder: str | os.PathLike[str]) -> None:
    lacking = [tag for tag in REFERRED_TO if not all(header.get(tag) for header in slices)]
    if lacking:
        raise SeriesReferenceError(
            f"{folder}: no DICOM SEG can refer to slices without {', '.join(lacking)}; allowed: slices that have all."
        )
    if len({header.SOPInstanceUID for header in slices}) < len(slices):
        raise SeriesReferenceError(
            f"{folder}: no DICOM SEG can refer to slices with the same SOPInstanceUID; allowed: one for each slice."
        )


def _frames(labels: NDArray[Any], count: int, folder: str | os.PathLike[str]) -> NDArray[Any]:
    """Slices, rows and columns of whole numbers, in few copies of what may be a whole CT."""
    low, high = labels.min(), labels.max()
    if low >= 0 and high <= count:  # not where NaN is among them
        frames = labels.T.astype(np.min_scalar_type(count), order="C")
        if (frames == labels.T).all():
            return frames
    raise ValueError(f"{folder}: labels from {low:g} to {high:g}; {count} names allow whole numbers 0 to {count}.")


def _segmentation(
    slices: Sequence[pydicom.Dataset], frames: NDArray[Any], names: Sequence[str], source: SegmentationSource
) -> Any:
    from highdicom import UID
    from highdicom.seg import Segmentation

    first = slices[0]
    first.decode()  # texts are written in UTF-8 below
    if not first.get("SliceThickness"):  # which a DICOM SEG must have, too
        places = [np.array(header.ImagePositionPatient, dtype=np.float64) for header in slices[:2]]
        first.SliceThickness = f"{np.linalg.norm(places[1] - places[0]):.6g}"
    copied = {tag: first.pop(tag) for tag in COPIED if tag in first}
    for tag in COPIED:  # highdicom refuses what is not by the standard; it shall stay as in the rest of the study
        setattr(first, tag, "")
    with _silence():
        segmentation = Segmentation(
            source_images=slices,
            pixel_array=frames,
            segmentation_type="BINARY",
            segment_descriptions=[_described(number, name, source) for number, name in enumerate(names, 1)],
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER + max(0, int(first.get("SeriesNumber") or 0)),
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="cakes-monai",
            manufacturer_model_name=source.name[:LONGEST],
            software_versions=source.version[:LONGEST],
            device_serial_number="none",  # a program has none, and may not leave it out
            content_label="SEGMENTATION",
            content_description=f"Segmentation by {source.name}"[:LONGEST],
            series_description=f"Segmentation of {first.get('SeriesDescription') or 'images'}"[:LONGEST],
            omit_empty_frames=bool(frames.any()),
        )
    for tag, element in copied.items():
        segmentation[tag] = element
    segmentation.SpecificCharacterSet = "ISO_IR 192"
    return segmentation


@contextmanager
def _silence() -> Iterator[None]:
    """Without highdicom's log of what it copies, and warnings about values that the series came with."""
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _described(number: int, name: str, source: SegmentationSource) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    own = source.codes.get(name, {})
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:LONGEST],
        segmented_property_category=CodedConcept(*own.get("category", ANATOMICAL_STRUCTURE)),
        segmented_property_type=CodedConcept(*own.get("type", ANATOMICAL_STRUCTURE)),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=source.name[:LONGEST], version=source.version[:LONGEST], family=codes.DCM.ArtificialIntelligence
        ),
    )
