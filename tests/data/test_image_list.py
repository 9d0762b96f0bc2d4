# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What ImageList takes, under which names, and how it ends a bundle's run."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, LoadImaged, SaveImaged

from cakes_monai.data import ImageList
from cakes_monai.transforms import CheckImaged

Write = Callable[..., Path]


def names(images: ImageList) -> list[str]:
    """File names of the good images."""
    return [Path(item["image"]).name for item in images.data]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_file(nifti: Write, tmp_path: Path, suffix: str) -> None:
    """A NIfTI file alone is a list of one entry whose only key is "image", with its folder as root."""
    path = nifti(f"scan{suffix}")
    images = ImageList(path)
    assert images.data == [{"image": str(path)}]
    assert images.rejected == []
    assert images.root == str(tmp_path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_file(tmp_path: Path, itk_file: Write, suffix: str) -> None:
    """NRRD and MetaImage files are taken; the .raw beside a .mhd is no image of its own."""
    path = itk_file(f"scan{suffix}")
    assert ImageList(path).data == ImageList(tmp_path).data == [{"image": str(path)}]
    assert ImageList(tmp_path).rejected == []


@pytest.mark.parametrize(
    "name",
    [
        "hippocampus_dicom/Study1/13_HCropVolume",
        "hippocampus_dicom/Study2/14_HCropVolume",
        "hippocampus_dicom/Study3/11_HCropVolume",
        "brain_mr_dicom/11-T1post-18670",
        "ct/totalsegmentator/example_ct_dicom",
    ],
)
def test_dicom_folder(data_root: Path, name: str) -> None:
    """A folder that is a real DICOM series is one image, and its root is the folder it lies in."""
    images = ImageList(data_root / name)
    assert images.rejected == []
    assert images.data == [{"image": str(data_root / name)}]
    assert images.root == str((data_root / name).parent)


def test_folder_of_everything(nifti: Write, series: Path, tmp_path: Path, itk_file: Write) -> None:
    """A folder is searched at every depth, sorted; hidden files and folders and what is no image are skipped."""
    nifti("b/scan.nii.gz")
    nifti("a.nii.gz")
    nifti(".hidden.nii.gz")
    nifti(".hidden/scan.nii.gz")
    itk_file("c.nrrd")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "picture.png").write_bytes(b"no image")
    images = ImageList(str(tmp_path))
    expected = [tmp_path / "a.nii.gz", tmp_path / "b" / "scan.nii.gz", tmp_path / "c.nrrd", series]
    assert [item["image"] for item in images.data] == list(map(str, expected))
    assert images.rejected == []
    assert images.root == str(tmp_path)


def test_real_folder(data_root: Path) -> None:
    """Of the real CT data all files are taken and the uneven series alone is rejected."""
    images = ImageList(data_root / "ct")
    assert len(images.data) == 6
    ((path, text),) = images.rejected
    assert path == str(data_root / "ct" / "uneven_slices_dicom")
    assert text.startswith("1 missing slice")


def test_list_of_paths(nifti: Write, tmp_path: Path) -> None:
    """A list keeps its order, counts a path given twice once, and its root is what the paths have in common."""
    one, other = nifti("z/one.nii.gz"), nifti("a/other.nii.gz")
    images = ImageList([str(one), other.parent, one])
    assert [item["image"] for item in images.data] == [str(one), str(other)]
    assert images.rejected == []
    assert images.root == str(tmp_path)


def test_relative_path(nifti: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are made absolute, so that they hold wherever the run goes."""
    path = nifti("sub/scan.nii.gz")
    monkeypatch.chdir(path.parent)
    assert ImageList("../sub/scan.nii.gz").data == ImageList(".").data == [{"image": str(path)}]


def test_link_to_itself(nifti: Write, tmp_path: Path) -> None:
    """Linked folders are searched, and a link to a folder above does not list an image again and again."""
    outside = nifti("outside/linked.nii.gz")
    nifti("top/scan.nii.gz")
    (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "more").symlink_to(outside.parent)
    assert names(ImageList(tmp_path / "top")) == ["linked.nii.gz", "scan.nii.gz"]


def test_same_result_name(nifti: Write, tmp_path: Path, itk_file: Write) -> None:
    """Of a.mha and a.nii.gz in one folder the second is rejected; in another folder the name is free."""
    first = itk_file("a.mha")
    second = nifti("a.nii.gz")
    nifti("sub/a.nii.gz")
    images = ImageList(tmp_path)
    assert len(images.data) == 2
    text = f"its result would have the same name as that of {first}; rename one of them."
    assert images.rejected == [(str(second), text)]


def test_rejected_image_leaves_its_name(nifti: Write, tmp_path: Path) -> None:
    """When the first of two images of one name is broken, the second is taken."""
    (tmp_path / "a.mha").write_text("text")
    second = nifti("a.nii.gz")
    assert ImageList(tmp_path).data == [{"image": str(second)}]


def test_one_bad_image_does_not_stop_the_others(nifti: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Good images are listed around bad ones; each rejection is logged once, and told at the end with status 1."""
    nifti("a.nii.gz")
    (tmp_path / "b.nii.gz").write_text("text")
    nifti("c.nii.gz", np.zeros((4, 4, 4), np.float32))
    nifti("d.nii.gz")
    images = ImageList([tmp_path, tmp_path / "none"])
    with caplog.at_level(logging.WARNING, logger="cakes_monai"):
        assert names(images) == ["a.nii.gz", "d.nii.gz"]
        assert len(images.rejected) == 3
    ours = [record.message for record in caplog.records if record.name == "cakes_monai.data.image_list"]
    assert len(ours) == 3
    assert f"{tmp_path / 'c.nii.gz'}: not segmented: all voxels are 0; allowed" in ours[2]
    with pytest.raises(SystemExit) as end:
        images.raise_for_rejected()
    lines = str(end.value).splitlines()
    assert lines[0] == "3 of 5 inputs were not segmented:"
    assert lines[1].startswith(f"  {tmp_path / 'none'}: no such file")
    assert len(lines) == 4


def test_nothing_rejected(nifti: Write) -> None:
    """When all is well raise_for_rejected does nothing."""
    ImageList(nifti("a.nii.gz")).raise_for_rejected()


def test_nothing_is_read_before_data_is_asked_for(nifti: Write, tmp_path: Path) -> None:
    """Making the list touches no image, so that a bundle can be loaded without its data; then it is read once."""
    images = ImageList(tmp_path / "later")
    path = nifti("later/scan.nii.gz")
    assert images.data == [{"image": str(path)}]
    path.unlink()
    assert images.data == [{"image": str(path)}]


def test_results_keep_their_relative_place(nifti: Write, series: Path, tmp_path: Path) -> None:
    """Through CacheDataset and SaveImaged with root each image gets a result of its own at its place."""
    nifti("x/scan.nii.gz")
    nifti("y/scan.nii.gz")
    images = ImageList(tmp_path)
    load = Compose([LoadImaged(keys="image", ensure_channel_first=True), CheckImaged(keys="image")])
    out = tmp_path / "out"
    save = SaveImaged(
        keys="image",
        output_dir=out,
        output_postfix="seg",
        data_root_dir=images.root,
        separate_folder=False,
        print_log=False,
        writer="cakes_monai.data.AtomicNibabelWriter",
    )
    for item in CacheDataset(images.data, load, progress=False):
        save(item)
    results = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert results == ["series_seg.nii.gz", "x/scan_seg.nii.gz", "y/scan_seg.nii.gz"]
    assert nibabel.load(out / "series_seg.nii.gz").shape == (35, 51, 32)


def test_bundle_run_ends_with_status_1(nifti: Write, tmp_path: Path) -> None:
    """In "monai.bundle run" the good image is worked on, then the text is told, the status is 1, no traceback."""
    nifti("data/good.nii.gz")
    (tmp_path / "data" / "bad.nii.gz").write_text("text")
    config = {
        "imports": ["$from pathlib import Path"],
        "dataset_dir": str(tmp_path / "data"),
        "images": {"_target_": "cakes_monai.data.ImageList", "path": "@dataset_dir"},
        "result": str(tmp_path / "result.txt"),
        "initialize": [],
        "run": ["$Path(@result).write_text(str(@images.data))", "$@images.raise_for_rejected()"],
        "finalize": [],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metadata.json").write_text("{}")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "config.json"]
    command += ["--meta_file", "metadata.json", "--workflow_type", "infer"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 of 2 inputs were not segmented:" in done.stderr
    assert f"  {tmp_path / 'data' / 'bad.nii.gz'}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "result.txt").read_text() == str([{"image": str(tmp_path / "data" / "good.nii.gz")}])


def test_loaded_as_checked(nifti: Write, volume: np.ndarray) -> None:
    """What LoadImaged gives for an entry is the image that was written."""
    (item,) = ImageList(nifti("scan.nii.gz")).data
    loaded = LoadImaged(keys="image", ensure_channel_first=True)(item)["image"]
    torch.testing.assert_close(loaded.as_tensor()[0], torch.from_numpy(volume))


def test_dicom_and_file_of_one_name(nifti: Write, series: Path, tmp_path: Path) -> None:
    """A DICOM folder and a file beside it with the same name would share a result: one of them is rejected."""
    nifti("series.nii.gz")
    images = ImageList(tmp_path)
    assert len(images.data) == len(images.rejected) == 1
    shutil.rmtree(series)
    assert len(ImageList(tmp_path).data) == 1
