# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The NIfTI writer that leaves the whole new file or the old one."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage

from cakes_monai.data import AtomicNibabelWriter

AFFINE = torch.tensor([[0, 2.0, 0, 5], [-1.1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], dtype=torch.float64)
WRITER = "cakes_monai.data.AtomicNibabelWriter"


def saver(folder: Path, writer: str | type = WRITER, **options: object) -> SaveImage:
    """SaveImage as a bundle configures it."""
    return SaveImage(folder, "seg", separate_folder=False, writer=writer, print_log=False, **options)


@pytest.fixture
def label() -> MetaTensor:
    """Three-dimensional label of case "scan" with an affine that is no identity."""
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 40, 50, 60)).astype(np.float32))
    return MetaTensor(values, affine=AFFINE, meta={"filename_or_obj": "scan.nii.gz"})


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 1000 bytes."""
    resource = pytest.importorskip("resource", reason="file size limits need a POSIX system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("writer", [WRITER, AtomicNibabelWriter])
def test_same_file_as_nibabel_writer(tmp_path: Path, label: MetaTensor, suffix: str, writer: str | type) -> None:
    """SaveImage takes the writer as class or name, and voxels, type and affine are those of NibabelWriter."""
    options = {"output_ext": suffix, "output_dtype": np.uint8}
    saver(tmp_path / "ours", writer, **options)(label)
    saver(tmp_path / "monai", "NibabelWriter", **options)(label)
    ours, monai = (nibabel.load(tmp_path / folder / f"scan_seg{suffix}") for folder in ("ours", "monai"))
    assert ours.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(ours.dataobj, monai.dataobj)
    np.testing.assert_array_equal(ours.dataobj, label[0].numpy())
    np.testing.assert_allclose(ours.affine, AFFINE)
    assert [path.name for path in (tmp_path / "ours").iterdir()] == [f"scan_seg{suffix}"]


def test_gz_is_compressed(tmp_path: Path, label: MetaTensor) -> None:
    """The temporary name keeps .nii.gz, by which nibabel compresses."""
    saver(tmp_path)(label)
    assert len(gzip.decompress((tmp_path / "scan_seg.nii.gz").read_bytes())) == 352 + 4 * label.numel()


def test_old_file_survives_a_failed_write(tmp_path: Path, label: MetaTensor, full_disk: None) -> None:
    """When the disk is full halfway the old result stays as it was and no temporary file is left."""
    old = tmp_path / "scan_seg.nii.gz"
    old.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="File too large"):
        saver(tmp_path)(label)
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_log_names_the_result(tmp_path: Path, label: MetaTensor, caplog: pytest.LogCaptureFixture) -> None:
    """With verbose the log names the result, not the temporary file."""
    writer = AtomicNibabelWriter()
    writer.set_data_array(label)
    writer.set_metadata(label.meta)
    log = logging.getLogger("monai.data.image_writer")
    log.addHandler(caplog.handler)  # MONAI's loggers do not all propagate
    with caplog.at_level("INFO", logger=log.name):
        writer.write(tmp_path / "scan.nii.gz", verbose=True)
    log.removeHandler(caplog.handler)
    assert list(dict.fromkeys(record.message for record in caplog.records)) == [f"writing: {tmp_path / 'scan.nii.gz'}"]


def test_other_suffix(tmp_path: Path) -> None:
    """Formats of two files cannot be renamed at once and are refused."""
    with pytest.raises(ValueError, match=r"scan.img: cannot be written as one NIfTI file; allowed: .nii, .nii.gz."):
        AtomicNibabelWriter().write(tmp_path / "scan.img")
