# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks that are downloaded when they are not there, from an archive of the decathlon's layout."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest
from monai.apps import DecathlonDataset

from cakes_monai.data import downloaded_task

NAME = "Task09_Spleen"
FILES = (f"{NAME}/dataset.json", f"{NAME}/imagesTr/spleen_1.nii.gz", f"{NAME}/imagesTr/._spleen_1.nii.gz")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive at an address that MONAI takes for the task's."""
    archive = tmp_path / "source" / f"{NAME}.tar"
    archive.parent.mkdir()
    (tmp_path / "content").write_text("{}")
    with tarfile.open(archive, "w") as tar:
        for name in FILES:
            tar.add(tmp_path / "content", name)
    monkeypatch.setitem(DecathlonDataset.resource, NAME, archive.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, NAME, hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Where the task shall be."""
    return tmp_path / "data" / NAME


def found(folder: Path) -> set[str]:
    """Files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("source")
def test_a_task_that_is_absent_is_downloaded(task: Path) -> None:
    """All files are there, the archive beside them, and nothing of the extraction is left."""
    assert downloaded_task(task, "true") == str(task)
    assert found(task.parent) == {*FILES, f"{NAME}.tar"}


def test_nothing_is_downloaded_unasked_or_twice(task: Path, source: Path) -> None:
    """Without the option nothing happens; a task that is there is left as it is, whatever lies at the address."""
    downloaded_task(task, "false")
    assert not task.exists()
    downloaded_task(task, True)
    (task / "dataset.json").write_text("mine")
    source.unlink()
    downloaded_task(task, True)
    assert (task / "dataset.json").read_text() == "mine"


def test_killed_while_extracting(task: Path, source: Path) -> None:
    """What a killed extraction left is not taken for the task, and the archive is not downloaded again."""
    partial = task.parent / f".{NAME}.partial" / NAME
    partial.mkdir(parents=True)
    (partial / "dataset.json").write_text("half")
    source.rename(task.parent / f"{NAME}.tar")
    downloaded_task(task, True)
    assert found(task.parent) == {*FILES, f"{NAME}.tar"}
    assert (task / "dataset.json").read_text() == "{}"


def test_a_damaged_archive_is_named(task: Path, source: Path) -> None:
    """An archive of another checksum is not extracted, be it downloaded or found."""
    source.write_bytes(source.read_bytes() + b"more")
    with pytest.raises(ValueError, match=rf"{NAME}: is not there, and file:.*tar.*check of downloaded file"):
        downloaded_task(task, True)
    task.parent.mkdir(exist_ok=True)
    source.rename(task.parent / source.name)
    with pytest.raises(ValueError, match=rf"{NAME}: is not there.*check of existing file"):
        downloaded_task(task, True)
    assert not task.exists()


def test_no_network(task: Path, source: Path) -> None:
    """The error is one line with address, cause and what to do."""
    source.unlink()
    with pytest.raises(ValueError, match=r"could not be downloaded .*No such file.*medicaldecathlon\.com") as error:
        downloaded_task(task, True)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("source")
def test_folders_that_cannot_be_filled(tmp_path: Path, task: Path) -> None:
    """A name that is no task's, and a folder that holds something else."""
    with pytest.raises(ValueError, match="spleen: is no task that can be downloaded; allowed are folders named Task01"):
        downloaded_task(tmp_path / "spleen", True)
    task.mkdir(parents=True)
    (task / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"has no dataset\.json but other files"):
        downloaded_task(task, True)
