# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The writer that lets its caller go on: same files, no lost error, nothing left unfinished."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage

from cakes_monai.data import AtomicNibabelWriter, BackgroundNibabelWriter, finish_writing

END_WITHOUT_WAITING = """
import sys, torch
from cakes_monai.data import BackgroundNibabelWriter
writer = BackgroundNibabelWriter()
writer.set_data_array(torch.randint(3, (1, 200, 200, 200)).float())
writer.set_metadata({})
writer.write(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def nothing_pending() -> Iterator[None]:
    """A test that fails leaves nothing to the next one."""
    yield
    while True:
        try:
            return finish_writing()
        except RuntimeError:
            pass


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until this is set."""
    opened, write = threading.Event(), AtomicNibabelWriter.write

    def wait_and_write(*args: object, **kwargs: object) -> None:
        assert opened.wait(60)
        write(*args, **kwargs)

    monkeypatch.setattr(AtomicNibabelWriter, "write", wait_and_write)
    return opened


def save(folder: Path, name: str, values: np.ndarray) -> None:
    """Give a label map to the writer as a bundle does."""
    writer = "cakes_monai.data.BackgroundNibabelWriter"
    saver = SaveImage(folder, "seg", separate_folder=False, writer=writer, print_log=False, output_dtype=np.uint8)
    saver(MetaTensor(torch.from_numpy(values)[None], affine=torch.eye(4), meta={"filename_or_obj": f"{name}.nii"}))


def test_goes_on_while_a_file_is_written(tmp_path: Path, gate: threading.Event) -> None:
    """The caller has the control back before there is a file; finish_writing waits for it, and it is right."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    save(tmp_path, "scan", values)
    assert not list(tmp_path.iterdir())
    gate.set()
    finish_writing()
    np.testing.assert_array_equal(nibabel.load(tmp_path / "scan_seg.nii.gz").dataobj, values)


def test_one_file_at_a_time(tmp_path: Path, gate: threading.Event) -> None:
    """A second write returns only when the first file is there, so that label maps do not pile up in memory."""
    values = np.zeros((2, 3, 4), np.float32)
    save(tmp_path, "first", values)
    second = threading.Thread(target=save, args=(tmp_path, "second", values))
    second.start()
    second.join(0.5)
    assert second.is_alive()
    gate.set()
    second.join(60)
    assert (tmp_path / "first_seg.nii.gz").exists()


@pytest.mark.parametrize("then", ["finish", "next file"])
def test_failed_write_is_told(tmp_path: Path, then: str) -> None:
    """What could not be written is named by the next write or at the end, once, and no part of it is left."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "scan_seg.nii.gz").mkdir()  # a folder is in the way
    values = np.zeros((2, 3, 4), np.float32)
    save(folder, "scan", values)
    with pytest.raises(RuntimeError, match=r"scan_seg.nii.gz: could not be written: .*[Dd]irectory"):
        finish_writing() if then == "finish" else save(folder, "other", values)
    finish_writing()
    assert [path.name for path in folder.iterdir()] == ["scan_seg.nii.gz"]


def test_end_of_the_program_waits(tmp_path: Path) -> None:
    """A program that ends without finish_writing still leaves the whole file."""
    file = tmp_path / "scan.nii.gz"
    subprocess.run([sys.executable, "-c", END_WITHOUT_WAITING, file], check=True)
    assert nibabel.load(file).get_fdata().max() == 2


def test_other_suffix(tmp_path: Path) -> None:
    """A format of two files is refused at once, not later."""
    with pytest.raises(ValueError, match=r"scan.img: cannot be written as one NIfTI file; allowed: .nii, .nii.gz."):
        BackgroundNibabelWriter().write(tmp_path / "scan.img")
