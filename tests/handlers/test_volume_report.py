# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Volumes that inference writes for every case."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    Spacingd,
)

from cakes_monai.handlers import VolumeReport

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:builtin type .*:DeprecationWarning"),  # ITK's SWIG modules
]

NAMES = ["anterior", "posterior"]


class OneHot(torch.nn.Module):
    """Network whose prediction is the image itself: grey value n (times a scale) becomes label n."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([((x * self.scale).round() == label).float() for label in range(len(NAMES) + 1)], 1)


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    """Affine of a scan turned by 30 degrees about the third axis, with the first axis towards L."""
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
    affine = np.eye(4)
    affine[:3, :3] = (
        np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ np.diag(spacing) @ np.diag([-1, 1, 1])
    )
    affine[:3, 3] = (10, -20, 30)
    return affine


def save(path: Path, anterior: int, posterior: int, spacing: tuple[float, float, float] = (2, 3, 0.5)) -> str:
    """Write an image with so many voxels of grey value 1 and 2."""
    image = np.zeros((8, 8, 8), np.float32)
    flat = np.zeros(64, np.float32)
    flat[:anterior] = 1
    flat[anterior : anterior + posterior] = 2
    image[2:6, 2:6, 2:6] = flat.reshape(4, 4, 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, oblique(spacing)), path)
    return str(path)


def infer(
    files: list[str],
    *handlers: Any,
    post: list[Any] | None = None,
    batch_size: int = 1,
    reader: str | None = None,
    scale: float = 1.0,
) -> SupervisedEvaluator:
    """Run an evaluator as an inference bundle does: preprocessing, network, inversion, label map, handlers."""
    turn = Orientationd("image", "LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    pre = Compose([LoadImaged("image", reader=reader), EnsureChannelFirstd("image"), turn])
    invert = Invertd("pred", pre, orig_keys="image", nearest_interp=True)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": f} for f in files], pre), batch_size=batch_size),
        network=OneHot(scale),
        postprocessing=Compose([invert, AsDiscreted("pred", argmax=True), *(post or [])]),
        val_handlers=list(handlers),
    )
    evaluator.run()
    return evaluator


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_volumes_are_voxels_times_the_determinant_of_the_affine(tmp_path: Path) -> None:
    """Voxels of 2 x 3 x 0.5 mm are 3 mm3: 40 and 8 of them 0.12 and 0.024 ml, in an oblique scan too."""
    files = [save(tmp_path / "case_a.nii.gz", 40, 8), save(tmp_path / "case_b.nii.gz", 0, 10, (1, 1, 10))]
    infer(files, VolumeReport(tmp_path / "out", NAMES), batch_size=2)
    expected = [
        ("case_a", "anterior", "40", 0.12),
        ("case_a", "posterior", "8", 0.024),
        ("case_b", "anterior", "0", 0.0),
        ("case_b", "posterior", "10", 0.1),
    ]
    found = rows(tmp_path / "out" / "volumes.csv")
    assert list(found[0]) == ["case", "file", "structure", "voxels", "volume_ml"]
    assert [(r["case"], r["structure"], r["voxels"], float(r["volume_ml"])) for r in found] == expected
    cases = json.loads((tmp_path / "out" / "volumes.json").read_text())
    assert [case["file"] for case in cases] == files
    assert cases[0]["structures"]["anterior"] == {"voxels": 40, "volume_ml": 0.12}
    assert [case["total"] for case in cases] == [{"voxels": 48, "volume_ml": 0.144}, {"voxels": 10, "volume_ml": 0.1}]


def test_cases_are_named_as_save_image_names_its_files(tmp_path: Path) -> None:
    """With data_root_dir the report's case plus "_seg.nii.gz" is the file that SaveImaged wrote."""
    root = tmp_path / "data"
    files = [save(root / patient / "scan.nii.gz", n, 0) for patient, n in (("p1", 3), ("p2", 5))]
    save_label = SaveImaged(
        "pred", output_dir=tmp_path / "out", output_postfix="seg", separate_folder=False, data_root_dir=str(root),
        print_log=False,
    )  # fmt: skip
    infer(files, VolumeReport(tmp_path / "out", NAMES, data_root_dir=str(root)), post=[save_label])
    cases = json.loads((tmp_path / "out" / "volumes.json").read_text())
    assert [case["case"] for case in cases] == ["p1/scan", "p2/scan"]
    for case, count in zip(cases, (3, 5), strict=True):
        label = nib.load(tmp_path / "out" / f"{case['case']}_seg.nii.gz")
        assert int((np.asarray(label.dataobj) == 1).sum()) == count == case["structures"]["anterior"]["voxels"]


def test_files_of_the_same_name_are_not_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without data_root_dir two scans named alike keep their own rows, and a warning names both."""
    files = [save(tmp_path / patient / "scan.nii.gz", n, 0) for patient, n in (("p1", 3), ("p2", 5))]
    infer(files, VolumeReport(tmp_path / "out", NAMES))
    found = rows(tmp_path / "out" / "volumes.csv")
    assert [(r["case"], r["file"], r["voxels"]) for r in found if r["structure"] == "anterior"] == [
        ("scan", files[0], "3"),
        ("scan", files[1], "5"),
    ]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "cakes" in r.name]
    assert warning == f"{files[0]} and {files[1]} are both named scan; data_root_dir can tell them apart."


def test_dicom_series_is_named_by_its_folder(data_root: Path, tmp_path: Path) -> None:
    """A series read by ITK from a folder is the case of that folder, in voxels of the series."""
    folder = data_root / "hippocampus_dicom" / "Study1" / "13_HCropVolume"
    image = LoadImaged("image", reader="ITKReader", image_only=True)({"image": str(folder)})["image"]
    threshold = float(image.max()) / 2
    infer([f"{folder}/"], VolumeReport(tmp_path, NAMES), reader="ITKReader", scale=1 / threshold)
    (case,) = json.loads((tmp_path / "volumes.json").read_text())
    counts = [int(((image / threshold).round() == label).sum()) for label in (1, 2)]
    assert (case["case"], case["file"]) == ("13_HCropVolume", str(folder))
    assert [case["structures"][name]["voxels"] for name in NAMES] == counts
    assert case["total"]["volume_ml"] == pytest.approx(sum(counts) * float(image.pixdim.prod()) / 1000, rel=1e-5)


def test_resampled_prediction_is_measured_in_the_geometry_of_the_input(tmp_path: Path) -> None:
    """After Spacingd to 1 mm and its inversion the volume is that of the file's voxels, not of the network's."""
    image = np.zeros((8, 8, 8), np.float32)
    image[2:6, 2:6, 2:6] = 1
    nib.save(nib.Nifti1Image(image, np.diag([2.0, 2, 2, 1])), tmp_path / "cube.nii.gz")
    pre = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Spacingd("image", (1, 1, 1), mode="nearest")])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": str(tmp_path / "cube.nii.gz")}], pre)),
        network=OneHot(),
        postprocessing=Compose([Invertd("pred", pre, orig_keys="image"), AsDiscreted("pred", argmax=True)]),
        val_handlers=[VolumeReport(tmp_path, NAMES)],
    )
    evaluator.run()
    (case,) = json.loads((tmp_path / "volumes.json").read_text())
    assert case["structures"]["anterior"] == {"voxels": 64, "volume_ml": 0.512}


def test_second_epoch_replaces_the_first(tmp_path: Path) -> None:
    """Validation runs the same engine again and again; the report is of the last run only."""
    evaluator = infer([save(tmp_path / "case.nii.gz", 4, 0)], VolumeReport(tmp_path, NAMES))
    evaluator.run()
    assert len(json.loads((tmp_path / "volumes.json").read_text())) == 1


def test_table_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log ends with one aligned line a case and the volumes in ml."""
    caplog.set_level(logging.INFO, logger="cakes_monai")
    infer([save(tmp_path / "case.nii.gz", 40, 8)], VolumeReport(tmp_path, NAMES, filename="sizes"))
    message = next(r.getMessage() for r in caplog.records if r.name == "cakes_monai.handlers.volume_report")
    assert message.splitlines() == [
        f"Volumes in ml, also in {tmp_path / 'sizes.csv'}:",
        "case  anterior  posterior  total",
        "case     0.120      0.024  0.144",
    ]


@pytest.mark.parametrize(
    ("names", "post", "match"),
    [
        (["one"], [], "case: labels from 0 to 2; 1 names allow whole numbers 0 to 1"),
        (NAMES, [AsDiscreted("pred", to_onehot=3)], r"case: pred is a MetaTensor of shape \(3, 8, 8, 8\); allowed"),
    ],
)
def test_what_is_no_label_map_of_these_names_is_refused(
    tmp_path: Path, names: list[str], post: list[Any], match: str
) -> None:
    """A label without a name or a one-hot prediction stops the run with the case and what is allowed."""
    with pytest.raises(ValueError, match=match):
        infer([save(tmp_path / "case.nii.gz", 4, 4)], VolumeReport(tmp_path, names), post=post)


def test_engine_must_decollate(tmp_path: Path) -> None:
    """Without decollation there are no cases to name, which is said instead of failing somewhere inside."""
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1, 1, 4, 4, 4)}],
        network=OneHot(),
        decollate=False,
        val_handlers=[VolumeReport(tmp_path, NAMES)],
    )
    with pytest.raises(ValueError, match="set decollate to true"):
        engine.run()
