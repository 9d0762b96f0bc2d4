# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of data lists."""

from __future__ import annotations

import shutil
from pathlib import Path

from cakes_monai.data import data_fingerprint


def test_folders_of_slices_count_with_their_files(tmp_path: Path) -> None:
    """A series has the same fingerprint after it is copied, and another one when a slice is missing or shorter."""
    for place in ("here", "there"):
        (tmp_path / place / "series").mkdir(parents=True)
        for number in range(3):
            (tmp_path / place / "series" / f"{number}.dcm").write_bytes(bytes(100 + number))
        (tmp_path / place / "label.nii.gz").write_bytes(bytes(7))

    def fingerprint(place: str) -> str:
        return data_fingerprint([{"image": tmp_path / place / "series", "label": tmp_path / place / "label.nii.gz"}])

    assert fingerprint("here") == fingerprint("there")
    shutil.copy(tmp_path / "here" / "label.nii.gz", tmp_path / "here" / "series" / "0.dcm")
    assert fingerprint("here") != fingerprint("there")
    before = fingerprint("there")
    (tmp_path / "there" / "series" / "2.dcm").unlink()
    assert fingerprint("there") != before
