# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: the folder of real data and the bundles of this repository."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cakes_video.clip_data_loader import PRELOAD as CLIPS

REPOSITORY = Path(__file__).resolve().parents[1]
PRELOAD = ["monai.bundle", "cakes_monai.workflows", "cakes_monai.handlers", "cakes_video.handlers", *CLIPS]


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests measure of engines stays out of the user's cache."""
    os.environ["CAKES_MONAI_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def process_server(cache_of_the_tests: None) -> None:
    """The server that processes are forked from has imported what any of them needs: whoever starts it decides that."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data: ``CAKES_DATA``, by default ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("CAKES_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data: {root} does not exist; set CAKES_DATA")
    return root


@pytest.fixture(scope="session")
def hippocampus(data_root: Path) -> Path:
    """Medical Segmentation Decathlon task 4 in its original layout."""
    return data_root / "Task04_Hippocampus"


@pytest.fixture(scope="session")
def bundle(repository: Path) -> Path:
    """The hippocampus bundle."""
    return repository / "bundles" / "hippocampus_mr_c2fnas_cakes"


@pytest.fixture(scope="session")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decathlon task of ten small volumes: two bright boxes, one behind the other, in noise."""
    folder = tmp_path_factory.mktemp("Task04_Hippocampus")
    generator = np.random.default_rng(0)
    cases = []
    for number in range(10):
        label = np.zeros((30, 40, 28), np.uint8)
        depth, height, width = generator.integers(6, 12, 3)
        label[depth : depth + 12, height : height + 10, width : width + 12] = 2
        label[depth : depth + 12, height + 10 : height + 20, width : width + 12] = 1
        image = 50 * generator.standard_normal(label.shape) + np.array([400, 900, 700])[label]
        case = {"image": f"imagesTr/case_{number}.nii.gz", "label": f"labelsTr/case_{number}.nii.gz"}
        for key, voxels in (("image", image.astype(np.float32)), ("label", label)):
            (folder / case[key]).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / case[key])
        cases.append(case)
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "small", "labels": labels, "modality": {"0": "MRI"}, "numTraining": 10, "training": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def write_series() -> Callable[..., Path]:
    """Writes voxels as a CT series, see :func:`made_series`."""
    return made_series


@pytest.fixture(scope="session")
def write_nih_case() -> Callable[..., dict[str, str]]:
    """Writes a case in the layout of NIH Pancreas-CT, see :func:`made_nih_case`."""
    return made_nih_case


def made_series(
    folder: Path,
    voxels: np.ndarray,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    axes: np.ndarray | None = None,
    origin: Sequence[float] = (-20.0, -30.0, 40.0),
    numbers: Sequence[int] | None = None,
    **tags: Any,
) -> Path:
    """
    Write voxels (columns, rows, slices) in HU as a CT series of one file a slice.

    ``axes`` are the unit vectors of columns, rows and slices in LPS, as columns of a matrix; ``spacing`` and ``origin``
    are in mm; ``numbers`` the InstanceNumber of every slice in the order of the voxels. Names of files say nothing.
    """
    axes = np.eye(3) if axes is None else axes
    numbers = range(1, voxels.shape[2] + 1) if numbers is None else numbers
    study, series, frame = (generate_uid() for _ in range(3))
    folder.mkdir(parents=True)
    for plane, number in enumerate(numbers):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.PatientName, header.PatientID, header.Modality = "Made^Volume", "made", "CT"
        header.SeriesNumber, header.InstanceNumber = 3, number
        header.Columns, header.Rows = voxels.shape[:2]
        header.PixelSpacing, header.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        place = np.array(origin) + plane * spacing[2] * axes[:, 2]
        header.ImagePositionPatient = [f"{number:.10g}" for number in place]
        header.ImageOrientationPatient = [f"{number:.10g}" for number in axes[:, :2].T.ravel()]
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
        header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
        for tag, value in tags.items():
            setattr(header, tag, value)
        header.PixelData = (voxels[:, :, plane].T + 1024).astype("<u2").tobytes()
        save(header, folder / f"1-{(plane * 7 + 3) % 1000:03}.dcm")
    return folder


def save(header: pydicom.Dataset, path: Path) -> None:
    """Write a whole DICOM file, with pydicom 2 or 3."""
    if int(pydicom.__version__.split(".")[0]) < 3:
        header.is_little_endian, header.is_implicit_VR = True, False
        header.save_as(path, write_like_original=False)
    else:
        header.save_as(path, enforce_file_format=True)


def made_nih_case(
    top: Path,
    number: int,
    shape: tuple[int, int, int] = (40, 36, 20),
    numbers: Sequence[int] | None = None,
    suffix: str = ".nii.gz",
    **options: Any,
) -> dict[str, str]:
    """
    Write a CT-like series with a bright ellipsoid off its centre, and the ellipsoid's label as that data set has it.

    The voxel [x, y, k] of the label belongs to column x and row y of the slice with the k-th InstanceNumber; its affine
    has a y axis that points the wrong way and another origin.
    """
    generator = np.random.default_rng(number)
    places = np.meshgrid(*(np.arange(size) / size for size in shape), indexing="ij")
    radius = sum(
        ((place - c) / r) ** 2 for place, c, r in zip(places, (0.3, 0.35, 0.3), (0.15, 0.2, 0.25), strict=True)
    )
    mask = radius <= 1
    voxels = np.where(mask, 120, -100) + generator.integers(-10, 11, shape)  # an organ in fat
    numbers = range(1, shape[2] + 1) if numbers is None else numbers
    spacing = options.setdefault("spacing", (0.8, 0.8, 1.0))
    place = top / "Pancreas-CT" / f"PANCREAS_{number:04}" / "11-24-2015-PANCREAS-94667" / "Pancreas-18957"
    label = np.zeros(shape, np.uint8)
    label[:, :, np.argsort(np.argsort(numbers))] = mask
    file = top / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label, np.diag([-spacing[0], spacing[1], spacing[2], 1.0])), file)
    return {"image": str(made_series(place, voxels, numbers=numbers, **options)), "label": str(file)}


@pytest.fixture(scope="session")
def dicom_seg_frames() -> Callable[[Path], tuple[pydicom.Dataset, list[Frame]]]:
    """Reads a DICOM SEG, see :func:`frames`."""
    return frames


@pytest.fixture(scope="session")
def dicom_seg_labels() -> Callable[[Path, Path], np.ndarray]:
    """Reads a DICOM SEG on the voxels of a NIfTI image, see :func:`label_map`."""
    return label_map


class Frame(NamedTuple):
    """One frame of a DICOM SEG: what it says about itself, and its pixels (rows, columns)."""

    segment: int
    source: str
    position: np.ndarray
    pixels: np.ndarray


def frames(path: Path) -> tuple[pydicom.Dataset, list[Frame]]:
    """Header and frames of a DICOM SEG by pydicom's parser and the standard: frame after frame, lowest bit first."""
    header = pydicom.dcmread(path)
    assert (header.Modality, header.SegmentationType, header.BitsAllocated) == ("SEG", "BINARY", 1)
    shape = (int(header.NumberOfFrames), header.Rows, header.Columns)
    bits = np.unpackbits(np.frombuffer(header.PixelData, np.uint8), bitorder="little")[: np.prod(shape)].reshape(shape)
    found = []
    for group, pixels in zip(header.PerFrameFunctionalGroupsSequence, bits, strict=True):
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = np.array([float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient])
        found.append(Frame(segment, source, position, pixels))
    return header, found


def label_map(path: Path, image: Path) -> np.ndarray:
    """Label map of a DICOM SEG on the voxels of a NIfTI image: each pixel's place in mm, found in the image's grid."""
    header, found = frames(path)
    reference: Any = nib.load(image)
    shared = header.SharedFunctionalGroupsSequence[0]
    orientation = np.array([float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient])
    between_rows, between_columns = (float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing)
    to_voxels = np.linalg.inv(reference.affine)
    labels = np.zeros(reference.shape, np.uint8)
    for frame in found:
        row, column = np.nonzero(frame.pixels)
        place = frame.position + np.outer(column * between_columns, orientation[:3])
        place += np.outer(row * between_rows, orientation[3:])
        voxels = place * [-1, -1, 1] @ to_voxels[:3, :3].T + to_voxels[:3, 3]  # from LPS to RAS to voxels
        np.testing.assert_allclose(voxels, voxels.round(), atol=0.01)
        assert (voxels.round() >= 0).all()
        index = tuple(voxels.round().astype(int).T)
        assert not labels[index].any(), "segments do not overlap"
        labels[index] = frame.segment
    return labels
