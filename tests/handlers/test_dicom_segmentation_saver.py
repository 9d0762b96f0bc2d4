# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""DICOM SEG objects, read back with pydicom alone and compared with the NIfTI label map in patient coordinates."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, Compose, Invertd, LoadImaged, Orientationd, SaveImaged, ScaleIntensityd
from pydicom.uid import CTImageStorage, generate_uid

from cakes_monai.handlers import DicomSegmentationSaver
from cakes_monai.transforms import SpacingSafed

pytest.importorskip("highdicom", reason="DICOM SEG is written with highdicom: pip install cakes-monai[dicom]")

NAMES = ["dim", "bright", "blinding"]
WriteSeries = Callable[..., Path]
ReadFrames = Callable[[Path], tuple[pydicom.Dataset, list[Any]]]
ReadLabels = Callable[[Path, Path], np.ndarray]


class Grades(torch.nn.Module):
    """Network that gives label 1 to what is above half of the scaled range, label 2 above four fifths, never 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x <= 0.5, (x > 0.5) & (x <= 0.8), x > 0.8, x > 2], 1).float()


class Nothing(torch.nn.Module):
    """Network that finds nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x + 1, x, x, x], 1)


def infer(
    paths: list[Path],
    out: Path,
    root: Path | str = "",
    invert: bool = True,
    network: torch.nn.Module | None = None,
    **options: Any,
) -> None:
    """Segment as an inference bundle does, with a NIfTI label map and a DICOM SEG beside it."""
    pre = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            SpacingSafed("image", (1.3, 1.2, 1.7)),
            ScaleIntensityd("image"),
        ]
    )
    post: list[Any] = [Invertd("pred", pre, orig_keys="image", nearest_interp=False)] if invert else []
    post += [AsDiscreted("pred", argmax=True)]
    if invert:
        post.append(
            SaveImaged(
                "pred", output_dir=out, output_postfix="seg", output_dtype=np.uint8, resample=False,
                separate_folder=False, data_root_dir=str(root), writer="cakes_monai.data.AtomicNibabelWriter",
                print_log=False,
            )
        )  # fmt: skip
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": str(path)} for path in paths], pre)),
        network=network or Grades(),
        postprocessing=Compose(post),
        val_handlers=[DicomSegmentationSaver(out, NAMES, data_root_dir=str(root), **options)],
    ).run()


@pytest.fixture
def oblique(tmp_path: Path, write_series: WriteSeries) -> Path:
    """A series turned about two axes with voxels of 0.7 x 0.9 x 2.5 mm, numbered against the position."""
    (cos_z, sin_z), (cos_x, sin_x) = ((np.cos(angle), np.sin(angle)) for angle in (0.4, -0.3))
    about_z = np.array([[cos_z, -sin_z, 0], [sin_z, cos_z, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cos_x, -sin_x], [0, sin_x, cos_x]])
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in (32, 22, 12)), indexing="ij")
    radius = sum((place - c) ** 2 for place, c in zip(places, (0.3, -0.2, 0.1), strict=True))
    voxels = np.clip(400 - 600 * radius, -400, 400).round().astype(int)  # off centre, so that no flip goes unseen
    folder = tmp_path / "scans" / "oblique"
    return write_series(folder, voxels, (0.7, 0.9, 2.5), about_z @ about_x, numbers=range(12, 0, -1))


@pytest.fixture
def real_ct(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the real CT, whose UIDs were emptied, with new ones; numbered from head to foot."""
    folder = tmp_path / "real_ct"
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    for file in (data_root / "ct" / "totalsegmentator" / "example_ct_dicom").iterdir():
        header = pydicom.dcmread(file)
        header.StudyInstanceUID, header.SeriesInstanceUID = study, series
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
        header.save_as(folder / file.name)
    return folder


def check_voxels(folder: Path, out: Path, read: ReadLabels) -> None:
    """The DICOM SEG has the voxels of the NIfTI label map, at the same places in mm."""
    infer([folder], out)
    written = out / f"{folder.name}_seg.nii.gz"
    expected = np.asarray(nib.load(written).dataobj)
    assert np.unique(expected).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(read(out / f"{folder.name}_seg.dcm", written), expected)


@pytest.mark.parametrize(
    "name",
    [
        "hippocampus_dicom/Study1/13_HCropVolume",
        "hippocampus_dicom/Study3/11_HCropVolume",
        "brain_mr_dicom/11-T1post-18670",
    ],
)
def test_real_mr_series(data_root: Path, tmp_path: Path, dicom_seg_labels: ReadLabels, name: str) -> None:
    """Voxel by voxel, in mm, the DICOM SEG of real MR series is the NIfTI label map; the brain's slices are oblique."""
    check_voxels(data_root / name, tmp_path, dicom_seg_labels)


def test_real_ct_series(real_ct: Path, tmp_path: Path, dicom_seg_labels: ReadLabels) -> None:
    """So it is for real CT slices, which are numbered from head to foot and stacked from foot to head."""
    check_voxels(real_ct, tmp_path / "out", dicom_seg_labels)


def test_oblique_series(oblique: Path, tmp_path: Path, dicom_seg_labels: ReadLabels) -> None:
    """So it is for slices that are turned about two axes, with three voxel sizes, numbered against the position."""
    check_voxels(oblique, tmp_path / "out", dicom_seg_labels)


def test_ordinary_readers_see_the_same_pixels(oblique: Path, tmp_path: Path, dicom_seg_frames: ReadFrames) -> None:
    """ITK's reader gives the pixels of all frames in the order of the file, at the position of the first."""
    infer([oblique], tmp_path)
    _, found = dicom_seg_frames(tmp_path / "oblique_seg.dcm")
    image = itk.imread(str(tmp_path / "oblique_seg.dcm"))
    np.testing.assert_array_equal(itk.array_from_image(image) > 0, np.stack([frame.pixels for frame in found]) > 0)
    np.testing.assert_allclose(list(image.GetOrigin()), found[0].position, atol=1e-6)


def test_it_refers_to_its_series(oblique: Path, tmp_path: Path, dicom_seg_frames: ReadFrames) -> None:
    """Study, patient, frame of reference and every slice are the series' own; each frame names the slice it lies on."""
    infer([oblique], tmp_path)
    header, found = dicom_seg_frames(tmp_path / "oblique_seg.dcm")
    slices = {s.SOPInstanceUID: s for s in map(pydicom.dcmread, oblique.iterdir())}
    some = next(iter(slices.values()))
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "Rows", "Columns"):
        assert header[tag].value == some[tag].value, tag
    assert header.SeriesInstanceUID != some.SeriesInstanceUID
    assert header.SeriesNumber == 1003
    (series,) = header.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == some.SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID: item.ReferencedSOPClassUID for item in series.ReferencedInstanceSequence}
    assert referred == dict.fromkeys(slices, CTImageStorage)
    shared = header.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == some.ImageOrientationPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == some.PixelSpacing == [0.9, 0.7]
    for frame in found:
        place = [float(x) for x in slices[frame.source].ImagePositionPatient]
        np.testing.assert_array_equal(frame.position, place)


def test_segments_are_described(oblique: Path, tmp_path: Path, dicom_seg_frames: ReadFrames) -> None:
    """One segment a class, in order, with the bundle as the algorithm, codes of metadata.json and general ones else."""
    codes = {"bright": {"category": ["85756007", "SCT", "Tissue"], "type": ["15776009", "SCT", "Pancreas"]}}
    metadata = {"name": "Pancreas CT für alle", "version": "1.2.3", "dicom_codes": codes}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    infer([oblique], tmp_path, metadata=tmp_path / "metadata.json")
    header, _ = dicom_seg_frames(tmp_path / "oblique_seg.dcm")
    assert [(s.SegmentNumber, s.SegmentLabel) for s in header.SegmentSequence] == list(enumerate(NAMES, 1))
    structure = ("91723000", "SCT", "Anatomical Structure")
    expected = [(structure, structure), (tuple(codes["bright"]["category"]), tuple(codes["bright"]["type"]))]
    for segment, described in zip(header.SegmentSequence, expected, strict=False):
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Pancreas CT für alle", "1.2.3")
        found = (segment.SegmentedPropertyCategoryCodeSequence[0], segment.SegmentedPropertyTypeCodeSequence[0])
        assert tuple((c.CodeValue, c.CodingSchemeDesignator, c.CodeMeaning) for c in found) == described


def test_structures_that_were_not_found(oblique: Path, tmp_path: Path, dicom_seg_frames: ReadFrames) -> None:
    """A class without voxels is described and has no frame; when nothing is found all frames are there and empty."""
    infer([oblique], tmp_path / "some")
    header, found = dicom_seg_frames(tmp_path / "some" / "oblique_seg.dcm")
    assert len(header.SegmentSequence) == 3
    assert {frame.segment for frame in found} == {1, 2}
    assert all(frame.pixels.any() for frame in found)
    infer([oblique], tmp_path / "none", network=Nothing())
    header, found = dicom_seg_frames(tmp_path / "none" / "oblique_seg.dcm")
    assert len(header.SegmentSequence) == 3
    assert [frame.segment for frame in found] == [1] * 12 + [2] * 12 + [3] * 12
    assert not any(frame.pixels.any() for frame in found)


def test_other_images_get_none(oblique: Path, tmp_path: Path) -> None:
    """A NIfTI image gets no DICOM SEG, also where it is wished for; with false a series gets none either."""
    image = nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9), np.float32), np.eye(4))
    nib.save(image, tmp_path / "scans" / "scan.nii.gz")
    paths = [tmp_path / "scans" / "scan.nii.gz", oblique]
    for enabled, expected in ((True, ["oblique_seg.dcm"]), ("auto", ["oblique_seg.dcm"]), (False, []), ("false", [])):
        infer(paths, tmp_path / str(enabled), enabled=enabled)
        assert sorted(p.name for p in (tmp_path / str(enabled)).rglob("*.dcm")) == expected, enabled


def test_files_lie_where_label_maps_lie(oblique: Path, tmp_path: Path) -> None:
    """With data_root_dir results keep the folders of their series, and a second run replaces them whole."""
    shutil.copytree(oblique, tmp_path / "scans" / "deeper" / "1.2.840.7")
    paths = [oblique, tmp_path / "scans" / "deeper" / "1.2.840.7"]
    uids = set()
    for _ in range(2):
        infer(paths, tmp_path / "out", root=tmp_path / "scans")
        uids.add(pydicom.dcmread(tmp_path / "out" / "oblique_seg.dcm").SOPInstanceUID)
        found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
        names = {name.removesuffix(".nii.gz") for name in found if name.endswith(".nii.gz")}
        assert len(names) == 2
        assert {name for name in found if not name.endswith(".gz")} - {"deeper"} == {f"{name}.dcm" for name in names}
    assert len(uids) == 2


def spoiled(folder: Path, copy: Path, **tags: Any) -> Path:
    """Copy of a series with tags changed in all slices; None deletes."""
    shutil.copytree(folder, copy)
    for file in copy.iterdir():
        header = pydicom.dcmread(file)
        for tag, value in tags.items():
            if value is None:
                del header[tag]
            else:
                setattr(header, tag, value)
        header.save_as(file)
    return copy


def test_series_that_cannot_be_referred_to(oblique: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without UIDs "auto" says so and goes on with the next; with true all others are written before the error."""
    no_frame = spoiled(oblique, tmp_path / "no_frame", FrameOfReferenceUID=None)
    same = spoiled(oblique, tmp_path / "same", SOPInstanceUID="1.2.3")
    infer([no_frame, same, oblique], tmp_path / "auto")
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("cakes_monai") and r.levelname == "WARNING"]
    assert warnings == [
        f"{no_frame}: no DICOM SEG can refer to slices without FrameOfReferenceUID; allowed: slices that have all.",
        f"{same}: no DICOM SEG can refer to slices with the same SOPInstanceUID; allowed: one for each slice.",
    ]
    with pytest.raises(ValueError, match=r"^2 DICOM series got no DICOM SEG, the first: \S+no_frame: no DICOM SEG"):
        infer([no_frame, same, oblique], tmp_path / "true", enabled=True)
    for enabled in ("auto", "true"):
        assert len(list((tmp_path / enabled).glob("*.nii.gz"))) == 3
        assert [path.name for path in (tmp_path / enabled).glob("*.dcm")] == ["oblique_seg.dcm"]


def test_badly_kept_headers(
    oblique: Path, tmp_path: Path, dicom_seg_frames: ReadFrames, dicom_seg_labels: ReadLabels
) -> None:
    """Series that lost patient and thickness, or whose values break the standard, get theirs with what there is."""
    bare = spoiled(oblique, tmp_path / "bare", PatientName=None, PatientID=None, SliceThickness=None, SeriesNumber=None)
    odd = spoiled(oblique, tmp_path / "odd", PatientSex="U", SpecificCharacterSet="ISO_IR 100", PatientName="Grün^Jörg")
    infer([bare, odd], tmp_path / "out", enabled=True)
    header, _ = dicom_seg_frames(tmp_path / "out" / "bare_seg.dcm")
    assert (header.PatientName, header.SeriesNumber) == ("", 1000)
    assert header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5
    header, _ = dicom_seg_frames(tmp_path / "out" / "odd_seg.dcm")
    assert (header.PatientSex, header.PatientName, header.PatientID) == ("U", "Grün^Jörg", "made")
    for name in ("bare", "odd"):
        written = tmp_path / "out" / f"{name}_seg.nii.gz"
        found = dicom_seg_labels(tmp_path / "out" / f"{name}_seg.dcm", written)
        np.testing.assert_array_equal(found, nib.load(written).dataobj)


def test_label_maps_that_do_not_fit_the_series(oblique: Path, tmp_path: Path) -> None:
    """A label map that was not brought back to the series stops the run with both shapes, and nothing is written."""
    with pytest.raises(ValueError, match=r"oblique: the image is of shape \S+, the series of 32x22x12 \(columns, rows"):
        infer([oblique], tmp_path / "out", invert=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels + 0.5, "labels from 0.5 to 1.5; 3 names allow whole numbers 0 to 3"),
        (lambda labels: labels - 1, "labels from -1 to 0; 3 names"),
        (lambda labels: labels * 4, "labels from 0 to 4; 3 names"),
        (lambda labels: labels * np.nan, "labels from nan to nan; 3 names"),
        (
            lambda labels: labels.repeat(2, 1, 1, 1),
            r"oblique: pred is a MetaTensor of shape \(2, 32, 22, 12\); allowed",
        ),
        (lambda labels: labels.as_tensor(), r"oblique: pred is a Tensor of shape \(1, 32, 22, 12\); allowed"),
    ],
    ids=["half", "below", "above", "nan", "channels", "no affine"],
)
def test_what_is_no_label_map(oblique: Path, tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    """Values without a name, more channels than one and a missing affine are refused; no file is left."""
    saver = DicomSegmentationSaver(tmp_path / "out", NAMES)
    image = LoadImaged("image", ensure_channel_first=True)({"image": str(oblique)})["image"]
    with pytest.raises(ValueError, match=message):
        saver._write("oblique", str(oblique), change((image > 0).float()))
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(oblique: Path, tmp_path: Path) -> None:
    """Where a file stands in the place of the folder, the error names the DICOM SEG in one line."""
    folder = tmp_path / "out"
    folder.mkdir()
    saver = DicomSegmentationSaver(tmp_path / "file", NAMES)
    (tmp_path / "file").write_text("in the way")
    image = LoadImaged("image", ensure_channel_first=True)({"image": str(oblique)})["image"]
    with pytest.raises(
        ValueError, match=r"^\S+file/oblique_seg\.dcm: cannot be written: .+; allowed: a writable folder"
    ):
        saver._write("oblique", str(oblique), (image > 0).float())


def test_without_highdicom(
    oblique: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where highdicom is missing "auto" says so and writes the rest; true is an error that names the extra."""
    monkeypatch.setattr("cakes_monai.data.dicom_segmentation.find_spec", lambda name: None)
    caplog.set_level(logging.INFO, logger="cakes_monai")
    infer([oblique], tmp_path)
    needed = 'which needs highdicom: pip install "cakes-monai[dicom]"'
    assert f"oblique: no DICOM SEG, {needed}." in [record.getMessage() for record in caplog.records]
    assert [path.name for path in tmp_path.glob("*_seg*")] == ["oblique_seg.nii.gz"]
    with pytest.raises(ValueError, match="enabled is true, which needs highdicom: pip install"):
        infer([oblique], tmp_path, enabled="True")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metadata\.json: .*No such file.*; allowed: a bundle's metadata\.json with name, version"),
        ("no JSON", r"metadata\.json: Expecting value.*; allowed"),
        ('{"name": "x"}', r"metadata\.json: 'version'; allowed"),
        (
            '{"name": "x", "version": "1", "dicom_codes": {"dim": {"type": "12"}}}',
            "code of 'dim': 'type' is '12'; allow",
        ),
        (
            '{"name": "x", "version": "1", "dicom_codes": {"dim": {"kind": ["1", "2", "3"]}}}',
            "'kind' is .*; allowed: cat",
        ),
    ],
)
def test_bad_metadata(oblique: Path, tmp_path: Path, content: str | None, message: str) -> None:
    """Metadata that cannot be used end the run before it starts, with the file and what is allowed."""
    if content is not None:
        (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        infer([oblique], tmp_path / "out", metadata=tmp_path / "metadata.json")
    assert not (tmp_path / "out").exists()


def test_other_choices_are_refused() -> None:
    """What is neither true, false nor auto is no choice."""
    with pytest.raises(ValueError, match="DicomSegmentationSaver: enabled is 'perhaps'; allowed: true, false and auto"):
        DicomSegmentationSaver("out", NAMES, enabled="perhaps")
