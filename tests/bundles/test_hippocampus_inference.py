# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Inference of the hippocampus bundle: what comes out, where it lies, and what is refused how."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.metrics import compute_dice

from cakes_monai.architecture import Architecture
from cakes_monai.data import has_highdicom
from cakes_monai.nets import C2FNAS


def segment(bundle: Path, images: Path | list[Path], output: Path, **options: object) -> None:
    """Run inference.json in this process as ``python -m monai.bundle run`` does."""
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=[str(path) for path in images] if isinstance(images, list) else str(images),
        output_dir=str(output),
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def caused_by(error: BaseException | None, message: str) -> bool:
    """Whether one of the errors in the chain, which MONAI's own end, is one line with this text."""
    while error is not None and not re.search(message, str(error)):
        error = error.__cause__
    return error is not None and "\n" not in str(error)


@pytest.fixture(scope="module")
def sample(bundle: Path) -> Path:
    """The NIfTI volume that ships with the bundle."""
    return bundle / "sample_data" / "hippocampus_003.nii.gz"


def labels(path: Path) -> np.ndarray:
    """Voxels of a label map."""
    return np.asarray(nib.load(path).dataobj)


def test_the_samples_from_another_folder(bundle: Path, tmp_path: Path) -> None:
    """The documented command, run elsewhere, segments the NIfTI and the DICOM sample and exits with status 0."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json")]
    options = ["--bundle_root", str(bundle), "--output_dir", str(tmp_path / "out")]
    result = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    names = {"dicom_series_13_seg", "hippocampus_003_seg"}
    expected = {f"{name}{suffix}" for name in names for suffix in (".nii.gz", ".png")} | {"volumes.csv", "volumes.json"}
    if has_highdicom():
        expected.add("dicom_series_13_seg.dcm")
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    with (tmp_path / "out" / "volumes.csv").open() as stream:
        volumes = {(row["case"], row["structure"]): float(row["volume_ml"]) for row in csv.DictReader(stream)}
    for case in ("dicom_series_13", "hippocampus_003"):
        for structure in ("anterior", "posterior"):
            assert 0.5 < volumes[case, structure] < 4.0, "a hippocampus head or body has about 1 to 2 ml"


def test_the_weights_segment_held_out_volumes(bundle: Path, hippocampus: Path, tmp_path: Path) -> None:
    """On volumes of the held-out fold the mean Dice is above 0.85 (the whole fold: docs/README.md)."""
    names = [f"hippocampus_{number:03d}.nii.gz" for number in (1, 3, 4, 6)]
    segment(bundle, [hippocampus / "imagesTr" / name for name in names], tmp_path)
    scores = []
    for name in names:
        found = labels(tmp_path / name.replace(".nii.gz", "_seg.nii.gz"))
        truth = labels(hippocampus / "labelsTr" / name)
        one_hot = [torch.from_numpy(np.stack([m == 1, m == 2]))[None] for m in (found, truth)]
        scores.append(compute_dice(*one_hot).mean().item())
    assert np.mean(scores) > 0.85, scores


def oblique(angle: float, spacing: tuple[float, float, float], flips: tuple[int, int, int]) -> np.ndarray:
    """Affine with rotation about the third axis, voxel sizes and axis directions."""
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(np.multiply(spacing, flips))
    affine[:3, 3] = [-20, 13, 7]
    return affine


@pytest.mark.parametrize(
    "affine",
    [
        oblique(0.0, (1, 1, 1), (-1, -1, 1)),  # LPS
        oblique(0.3, (1.1, 0.9, 1.2), (1, 1, 1)),
        oblique(-0.2, (1, 1, 1), (1, -1, -1)),
    ],
    ids=["LPS", "oblique", "oblique and flipped"],
)
def test_results_lie_in_the_geometry_of_the_input(bundle: Path, sample: Path, tmp_path: Path, affine) -> None:
    """Shape and affine of the label map are the input's, to the last bit that float32 holds."""
    voxels = nib.load(sample).get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    segment(bundle, tmp_path / "scan.nii.gz", tmp_path / "out")
    result = nib.load(tmp_path / "out" / "scan_seg.nii.gz")
    assert result.shape == voxels.shape
    assert result.get_data_dtype() == np.uint8
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)


def test_a_reordered_file_gives_the_reordered_result(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """The same anatomy stored with other axis order and directions gets the same labels in the same places."""
    image = nib.load(sample)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "L"), (("L", "R"), ("P", "A"), ("I", "S"))))
    nib.save(turned, tmp_path / "turned.nii.gz")
    segment(bundle, [sample, tmp_path / "turned.nii.gz"], tmp_path / "out", engine="torch")
    results = {path.name: path for path in (tmp_path / "out").rglob("*_seg.nii.gz")}
    straight = nib.as_closest_canonical(nib.load(results["hippocampus_003_seg.nii.gz"]))
    back = nib.as_closest_canonical(nib.load(results["turned_seg.nii.gz"]))
    assert np.array_equal(np.asarray(straight.dataobj), np.asarray(back.dataobj))
    assert np.asarray(back.dataobj).max() == 2


def test_nrrd_and_mha_give_the_labels_of_nifti(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """The format a volume is stored in does not change its labels or its place in the patient."""
    image = itk.imread(str(sample))
    folder = tmp_path / "scans"
    folder.mkdir()
    for suffix in ("nrrd", "mha"):
        itk.imwrite(image, str(folder / f"as_{suffix}.{suffix}"))
    segment(bundle, folder, tmp_path / "out", engine="torch")
    segment(bundle, sample, tmp_path / "out", engine="torch")
    expected = nib.as_closest_canonical(nib.load(tmp_path / "out" / "hippocampus_003_seg.nii.gz"))
    for suffix in ("nrrd", "mha"):
        result = nib.as_closest_canonical(nib.load(tmp_path / "out" / f"as_{suffix}_seg.nii.gz"))
        np.testing.assert_allclose(result.affine, expected.affine, atol=1e-5)
        assert np.array_equal(np.asarray(result.dataobj), np.asarray(expected.dataobj))


def test_a_volume_smaller_than_the_patch(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """It is padded for the network and comes back in its own size."""
    image = nib.load(sample)
    nib.save(image.slicer[5:25, 10:40, 8:20], tmp_path / "small.nii.gz")
    segment(bundle, tmp_path / "small.nii.gz", tmp_path / "out")
    assert labels(tmp_path / "out" / "small_seg.nii.gz").shape == (20, 30, 12)


def test_bad_images_do_not_stop_the_good_ones(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """Of a mixed folder the good volume is segmented; the bad ones are listed with reasons, exit status 1."""
    folder = tmp_path / "scans"
    folder.mkdir()
    whole = sample.read_bytes()
    (folder / "good.nii.gz").write_bytes(whole)
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("not an image")
    image = nib.load(sample).get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(image[:, :, 0], np.eye(4)), folder / "flat.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([image, image], 3), np.eye(4)), folder / "two_volumes.nii.gz")
    image[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "nan.nii.gz")
    with pytest.raises(SystemExit) as end:
        segment(bundle, folder, tmp_path / "out")
    report = str(end.value).splitlines()
    assert report[0] == "5 of 6 inputs were not segmented:"
    for line, name, reason in zip(
        report[1:],
        ("flat", "nan", "text", "truncated", "two_volumes"),
        ("2", "NaN", "not a gzip file", "cannot be read", "4|2"),
        strict=True,
    ):
        assert f"{name}.nii.gz: " in line
        assert any(word in line for word in reason.split("|")), line
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["good_seg.nii.gz"]


def test_an_empty_folder(bundle: Path, tmp_path: Path) -> None:
    """Nothing to segment is an error that names the folder."""
    (tmp_path / "scans").mkdir()
    with pytest.raises(SystemExit, match=r"1 of 1 inputs were not segmented:\n  .*scans: "):
        segment(bundle, tmp_path / "scans", tmp_path / "out")


def test_uneven_dicom_slices_are_refused(bundle: Path, data_root: Path, tmp_path: Path) -> None:
    """A series with uneven spacing is not segmented as if it were even."""
    series = data_root / "ct" / "uneven_slices_dicom"
    with pytest.raises(SystemExit, match=r"uneven_slices_dicom: .*slice"):
        segment(bundle, series, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*_seg*"))


def test_dicom_seg(
    bundle: Path, sample: Path, tmp_path: Path, write_series: Callable[..., Path], dicom_seg_labels: Callable[..., Any]
) -> None:
    """Beside the label maps of a real series and of a turned one lie DICOM SEG with their voxels, by this bundle."""
    pytest.importorskip("highdicom", reason="DICOM SEG is written with highdicom: pip install cakes-monai[dicom]")
    shutil.copytree(bundle / "sample_data" / "dicom_series_13", tmp_path / "scans" / "real")
    (cos, sin), voxels = (np.cos(0.2), np.sin(0.2)), nib.load(sample).get_fdata()[:, ::-1]
    axes = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    write_series(tmp_path / "scans" / "turned", np.clip(voxels, 0, 2000).round().astype(int), axes=axes, Modality="MR")
    before = {path: path.read_bytes() for path in (tmp_path / "scans").rglob("*.dcm")}
    segment(bundle, tmp_path / "scans", tmp_path / "out", dicom_seg=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "scans").rglob("*.dcm")}
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for name in ("real", "turned"):
        written = tmp_path / "out" / f"{name}_seg.nii.gz"
        assert np.unique(labels(written)).tolist() == [0, 1, 2]
        np.testing.assert_array_equal(dicom_seg_labels(tmp_path / "out" / f"{name}_seg.dcm", written), labels(written))
        described = pydicom.dcmread(tmp_path / "out" / f"{name}_seg.dcm").SegmentSequence
        assert [item.SegmentLabel for item in described] == ["anterior", "posterior"]
        for item in described:
            algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
            assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (metadata["name"], metadata["version"])
            assert item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Hippocampus"


def test_weights_of_another_architecture_are_refused(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """The message names the file and the layer; no label map is written."""
    other = C2FNAS(1, 3, Architecture.published("cakes-manual-1d", 14), 14)
    torch.save(other.state_dict(), tmp_path / "model.pt")
    with pytest.raises(RuntimeError) as error:
        segment(bundle, sample, tmp_path / "out", weights=str(tmp_path / "model.pt"))
    assert caused_by(error.value, r"model\.pt: these are no weights of this network: .*sub-kernels")
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_missing_and_broken_weights_are_named(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """No file, and a file that is no state dict."""
    with pytest.raises(RuntimeError) as error:
        segment(bundle, sample, tmp_path / "out", weights=str(tmp_path / "none.pt"))
    assert caused_by(error.value, r"none\.pt: no such file")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(RuntimeError) as error:
        segment(bundle, sample, tmp_path / "out", weights=str(tmp_path / "text.pt"))
    assert caused_by(error.value, r"text\.pt: these are no weights of this network")


def test_a_broken_architecture_is_named(bundle: Path, sample: Path, tmp_path: Path) -> None:
    """The cause of the failure is one line with file, place and what is allowed."""
    content = json.loads((bundle / "configs" / "architecture.json").read_text())
    content["cells"][0]["kernels"][0]["3x3x3"] += 1
    (tmp_path / "architecture.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as error:
        segment(bundle, sample, tmp_path / "out", architecture=str(tmp_path / "architecture.json"))
    assert caused_by(error.value, r"architecture\.json: cells\[0\]\.kernels\[0\]: sub-kernels give 29 .* has 28")
