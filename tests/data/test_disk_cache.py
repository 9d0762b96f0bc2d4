# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Volumes kept on disk: read in parts, never outdated, never half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    Lambdad,
    LoadImaged,
    RandFlipd,
    RandSpatialCropd,
    ScaleIntensityRanged,
)

from cakes_monai.data import DiskCacheDataset


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, str]]:
    """Two volumes as files."""
    (tmp_path / "data").mkdir()
    paths = [tmp_path / "data" / f"{number}.nii.gz" for number in range(2)]
    for number, path in enumerate(paths):
        save(path, number)
    return [{"image": str(path)} for path in paths]


def save(path: Path, seed: int) -> None:
    """Write noise."""
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).normal(size=(9, 8, 7)).astype(np.float32), np.eye(4)), path)


def transforms(high: float = 1.0, *more: Any) -> list[Any]:
    """Load and scale."""
    scale = ScaleIntensityRanged("image", a_min=-1, a_max=high, b_min=0, b_max=1)
    return [LoadImaged("image", ensure_channel_first=True), scale, *more]


def dataset(items: list[dict[str, str]], cache: Path, *given: Any, **options: Any) -> DiskCacheDataset:
    """A dataset that keeps its volumes in ``cache``."""
    return DiskCacheDataset(items, Compose(list(given) or transforms()), cache, **options)


def files(cache: Path) -> list[Path]:
    """What is on the disk."""
    return sorted(cache.iterdir())


def test_the_same_values_as_without(items: list[dict[str, str]], tmp_path: Path) -> None:
    """First and later readings give what the transforms give, without metadata; one file for each item."""
    kept = dataset(items, tmp_path / "cache")
    plain = DiskCacheDataset(items, Compose(transforms()))
    assert isinstance(plain[0]["image"], MetaTensor)
    for _ in range(2):
        for number in range(2):
            assert torch.equal(kept[number]["image"], torch.as_tensor(plain[number]["image"]))
            assert not isinstance(kept[number]["image"], MetaTensor)
    assert len(files(tmp_path / "cache")) == 2


def test_only_the_first_transforms_are_kept(items: list[dict[str, str]], tmp_path: Path) -> None:
    """Transforms behind are computed at every reading and may differ; they share the files."""
    flipped = dataset(items, tmp_path / "cache", *transforms(1.0, RandFlipd("image", prob=1.0, spatial_axis=0)))
    cropped = dataset(items, tmp_path / "cache", *transforms(1.0, RandSpatialCropd("image", (4, 4, 4))))
    whole = dataset(items, tmp_path / "cache")
    assert torch.equal(torch.as_tensor(flipped[1]["image"]), whole[1]["image"].flip(1))
    assert cropped[1]["image"].shape[1:] == (4, 4, 4)
    assert len(files(tmp_path / "cache")) == 1


def test_num_cached_ends_before_other_fixed_transforms(items: list[dict[str, str]], tmp_path: Path) -> None:
    """Padding or cropping to a size, for example, need not be part of what is kept."""
    part = dataset(items, tmp_path / "cache", *transforms(1.0, CropForegroundd("image", "image")), num_cached=2)
    assert dataset(items, tmp_path / "cache").cache_file(items[0]) == part.cache_file(items[0])
    everything = dataset(items, tmp_path / "cache", *transforms(1.0, CropForegroundd("image", "image")))
    assert everything.cache_file(items[0]) != part.cache_file(items[0])


def test_a_compose_within_is_as_random_as_its_parts(items: list[dict[str, str]], tmp_path: Path) -> None:
    """One of fixed transforms is kept, one with a random transform is not."""
    assert dataset(items, tmp_path, Compose(transforms())).num_cached == 1
    assert dataset(items, tmp_path, *transforms(), Compose([RandFlipd("image", prob=1.0)])).num_cached == 2


def test_changed_files_and_settings_are_not_mistaken(items: list[dict[str, str]], tmp_path: Path) -> None:
    """A file that was written anew, and transforms with another number, give new values."""
    cache = tmp_path / "cache"
    before = dataset(items, cache)[0]["image"]
    save(Path(items[0]["image"]), 7)
    after = dataset(items, cache)[0]["image"]
    other = dataset(items, cache, *transforms(3.0))[0]["image"]
    assert not torch.equal(before, after)
    torch.testing.assert_close(other * 4 - 1, after * 2 - 1)
    assert len(files(cache)) == 3


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    """A DICOM series with another slice is another one."""
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"1")
    kept = dataset([], tmp_path / "cache")
    before = kept.cache_file({"image": str(tmp_path / "series")})
    (tmp_path / "series" / "2.dcm").write_bytes(b"2")
    assert kept.cache_file({"image": str(tmp_path / "series")}) != before


def test_a_broken_file_is_made_anew(items: list[dict[str, str]], tmp_path: Path, caplog: Any) -> None:
    """Whatever is there, the values are right, and the log says so."""
    kept = dataset(items, tmp_path / "cache")
    expected = kept[0]["image"].clone()
    path = kept.cache_file(items[0])
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no tensors"):
        path.write_bytes(broken)
        assert torch.equal(kept[0]["image"], expected)
        assert path.name in caplog.text
        caplog.clear()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shows what is mapped on Linux only")
def test_files_are_mapped_not_read(items: list[dict[str, str]], tmp_path: Path) -> None:
    """While a volume is in use its file is mapped, so that only what is touched comes into memory."""
    kept = dataset(items, tmp_path / "cache")
    volume = kept[0]["image"]
    name = kept.cache_file(items[0]).name
    assert name in Path("/proc/self/maps").read_text()
    volume += 1  # which does not reach the file
    assert torch.equal(kept[0]["image"] + 1, volume)
    del volume
    assert name not in Path("/proc/self/maps").read_text()


def test_transforms_that_cannot_be_kept(items: list[dict[str, str]], tmp_path: Path) -> None:
    """Random ones, and those of which nobody can say whether they are the same, are refused at once."""
    with pytest.raises(ValueError, match="num_cached is 3, allowed are up to 2 here"):
        dataset(items, tmp_path, *transforms(1.0, RandFlipd("image", prob=0.5)), num_cached=3)
    with pytest.raises(ValueError, match="cache_dir: Lambdad cannot be told from another one"):
        dataset(items, tmp_path, *transforms(1.0, Lambdad("image", lambda image: image)))
    without = DiskCacheDataset(items, Compose(transforms(1.0, Lambdad("image", lambda image: image + 1))), "")
    assert without[0]["image"].shape == (1, 9, 8, 7)
