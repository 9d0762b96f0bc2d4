# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Inference of the pancreas bundle on CTs made here and on real ones, and NIH Pancreas-CT from training to labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import LoadImage

#: MONAI's remark on a structure that was missed, in validations of networks that have hardly learned.
MISSED = "ignore:the prediction of class"


@pytest.fixture
def inference(trained_ct: Any, ct_training: Any, tmp_path: Path) -> Any:
    """Makes an inference with the weights of the small training."""
    weights = str(trained_ct.folder / "models" / "model.pt")

    def make(images: Path, name: str = "out", **options: Any) -> Any:
        given = {"output_dir": str(tmp_path / name), "weights": weights, "engine": "torch", **options}
        return ct_training(tmp_path, images, "inference.json", **given)

    return make


def voxels(path: Path) -> np.ndarray:
    """Voxels of a label map."""
    return np.asarray(nib.load(path).dataobj)


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_label_maps_lie_in_the_geometry_of_the_scan(inference: Any, ct_task: Path, tmp_path: Path) -> None:
    """Shape, affine and type; the volumes are those of the voxels; a picture for each."""
    scan = ct_task / "imagesTr" / "pancreas_009.nii.gz"
    inference(scan).here()
    result = nib.load(tmp_path / "out" / "pancreas_009_seg.nii.gz")
    assert result.shape == nib.load(scan).shape
    assert result.get_data_dtype() == np.uint8
    np.testing.assert_allclose(result.affine, nib.load(scan).affine, atol=1e-5)
    table = rows(tmp_path / "out" / "volumes.csv")
    assert [row["structure"] for row in table] == ["pancreas", "cancer"]
    for value, row in enumerate(table, 1):
        count = int((np.asarray(result.dataobj) == value).sum())
        assert int(row["voxels"]) == count
        assert float(row["volume_ml"]) == pytest.approx(count * 0.8 * 0.8 * 2.5 / 1000)
    assert int(table[0]["voxels"]) > 1000
    assert (tmp_path / "out" / "pancreas_009_seg.png").stat().st_size > 5000


def test_stitching_elsewhere_and_window_by_window(inference: Any, ct_task: Path, tmp_path: Path) -> None:
    """Options that save memory do not change the labels; a smaller stride may."""
    scan = ct_task / "imagesTr" / "pancreas_009.nii.gz"
    for name, options in {
        "plain": {},
        "saving": {"stitch_device": "cpu", "sw_batch_size": 1},
        "other": {"stride": 4},
    }.items():
        inference(scan, name, **options).here()
    plain, saving, other = (
        voxels(tmp_path / name / "pancreas_009_seg.nii.gz") for name in ("plain", "saving", "other")
    )
    assert np.array_equal(plain, saving)
    assert 0 < (plain != other).mean() < 0.05


def test_what_a_server_offers(pancreas_bundle: Path) -> None:
    """displayable_configs holds stride and windows at a time, and what is chosen there reaches the inferer."""
    parser = ConfigParser()
    parser.read_config(str(pancreas_bundle / "configs" / "inference.json"))
    assert parser.get_parsed_content("displayable_configs") == {"stride": 32, "sw_batch_size": 4}
    parser.update({"displayable_configs#stride": 48, "displayable_configs#sw_batch_size": 2, "device": "cpu"})
    parser.parse(reset=True)
    windows = parser.get_parsed_content("inferer").inferer
    assert windows.sw_batch_size == 2
    assert [int(96 * (1 - overlap)) for overlap in windows.overlap] == [48, 48, 48]


@pytest.mark.parametrize("scan", ["spleen_msd/sub-spleen2_ct.nii.gz", "totalsegmentator/example_ct_dicom"])
def test_real_ct(inference: Any, data_root: Path, tmp_path: Path, scan: str) -> None:
    """
    A real CT with thick slices, and a DICOM series, give a label map in their geometry.

    Nobody has labelled a pancreas in them, and the network knows made CTs only, so where the labels are says nothing.
    """
    path = data_root / "ct" / scan
    spacing = [1.0, 1.0, 1.0] if path.is_file() else [3.0, 3.0, 3.0]  # the series would be 10 million voxels
    inference(path, spacing=spacing, patch_size=[64, 64, 64], stride=64).here()
    name = path.name.removesuffix(".nii.gz")
    result = nib.load(tmp_path / "out" / f"{name}_seg.nii.gz")
    assert (tmp_path / "out" / f"{name}_seg.png").stat().st_size > 5000
    if path.is_file():
        assert result.shape == nib.load(path).shape
        np.testing.assert_allclose(result.affine, nib.load(path).affine, atol=1e-4)
    else:
        assert sorted(result.shape) == [20, 512, 512]
        assert sorted(np.round(result.header.get_zooms(), 3)) == pytest.approx([0.977, 0.977, 2.0], abs=1e-3)


@pytest.mark.filterwarnings(MISSED, "ignore:the ground truth of class")
def test_training_on_a_real_ct(ct_training: Any, data_root: Path, tmp_path: Path) -> None:
    """
    A real CT whose pancreas another model has labelled is trained on, evaluated and has no cancer to measure.

    There is no manual label of a pancreas in these data; this shows that real HU, affines and types pass, no more.
    """
    folder, source = tmp_path / "task", data_root / "ct" / "totalsegmentator"
    folder.mkdir()
    labels: Any = nib.load(source / "example_seg.nii.gz")
    nib.save(
        nib.Nifti1Image((voxels(source / "example_seg.nii.gz") == 7).astype(np.uint8), labels.affine),
        folder / "label.nii.gz",
    )
    case = {"image": str(source / "example_ct.nii.gz"), "label": "label.nii.gz"}
    names = {"0": "background", "1": "pancreas", "2": "cancer"}
    (folder / "dataset.json").write_text(json.dumps({"labels": names, "training": [case, case]}))
    options = {"num_folds": 2, "fold": 1, "spacing": [3.0, 3.0, 3.0], "max_epochs": 1, "val_interval": 1}
    run = ct_training(tmp_path, folder, cache_dir=str(tmp_path / "cache"), foreground_crop_prob=0.5, **options)
    run.here()
    run.here("evaluate.json")
    (row,) = rows(tmp_path / "eval" / "cases.csv")
    assert 0 <= float(row["Dice pancreas"]) <= 1
    assert row["Dice cancer"] == "nan"


@pytest.fixture(scope="module")
def nih_task(write_nih_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases in the layout of NIH Pancreas-CT; in one the slices are numbered downwards."""
    folder = tmp_path_factory.mktemp("nih")
    for number in range(1, 5):
        write_nih_case(folder, number, numbers=range(20, 0, -1) if number == 4 else None)
    return folder


@pytest.mark.filterwarnings(MISSED)
def test_nih(ct_training: Any, nih_task: Path, tmp_path: Path) -> None:
    """
    With nih.json DICOM series and their turned labels are trained on, evaluated and segmented.

    The Dice of the evaluation is that of inference's label maps and the organ where it is brightest in the series.
    """
    options = {"patch_size": [32, 32, 16], "stride": 16, "max_epochs": 6, "val_interval": 6, "learning_rate": 0.1}
    options |= {"cache_dir": str(tmp_path / "cache"), "patches_per_volume": 1, "batch_size": 1}
    run = ct_training(tmp_path, nih_task, **options)
    run.here("nih.json")
    assert run.model["end.3.weight"].shape[0] == 2
    run.here("evaluate.json", "nih.json")
    (row,) = rows(tmp_path / "eval" / "cases.csv")
    assert "Dice cancer" not in row
    weights = {"weights": str(tmp_path / "models" / "model.pt"), "output_dir": str(tmp_path / "out")}
    ct_training(tmp_path, Path(row["file"]), "inference.json", **options | weights).here("nih.json")
    found = voxels(next((tmp_path / "out").glob("*_seg.nii.gz"))) > 0
    organ = np.asarray(LoadImage()(row["file"])) > 0  # it is of 120 HU, what is around it of -100
    assert float(row["Dice pancreas"]) == pytest.approx(
        2 * (found & organ).sum() / (found.sum() + organ.sum()), abs=1e-4
    )
    assert float(row["Dice pancreas"]) > 0.5
