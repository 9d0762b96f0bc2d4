# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Transforms of clips: which frames, which box, which label."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from cakes_video import clip_transforms
from cakes_video.clip_error import ClipError
from cakes_video.clip_lists import expand_views
from cakes_video.clip_sampling import testing_frames as middle_frames
from cakes_video.clip_transforms import (
    FrameDifferenced,
    LoadClipd,
    NormalizeClipd,
    RandClipFlipd,
    RandLoadClipd,
    RandMultiScaleCropd,
    ShortSideResized,
)

SIDES = ["from left to right", "waving", "from right to left", "turning left"]


def coordinates(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """Frames (T, 3, H, W) whose red is the row, green the column, and blue the number of the frame."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, t], dim=1).to(torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame folder of 20 png of 12x16 whose red is the number of the frame, green the row and blue the column."""
    folder = tmp_path_factory.mktemp("frames")
    y, x = np.mgrid[:12, :16]
    for number in range(20):
        matplotlib.image.imsave(folder / f"{number:05d}.png", np.stack([0 * y + number, y, x], -1).astype(np.uint8))
    return folder


def numbers(image: torch.Tensor) -> list[int]:
    """Numbers of the frames of the fixture ``folder``."""
    assert image.dtype == torch.uint8
    return [int(frame[0, 0, 0]) for frame in image]


def test_testing_takes_the_middle_frames(folder: Path) -> None:
    """Loading for testing takes what clip_sampling says, the same each time, and keeps the other entries."""
    item = LoadClipd(num_frames=4)({"video": str(folder), "label": 3, "name": "a"})
    assert numbers(item["image"]) == middle_frames(20, 4)
    assert item["image"].shape == (4, 3, 12, 16)
    assert (item["label"], item["name"], item["video"]) == (3, "a", str(folder))


def test_clips_in_time(folder: Path) -> None:
    """The item's "clip" chooses among several clips in time, and one too many is an error."""
    load = LoadClipd(num_frames=4, num_clips=2)
    found = [numbers(load(view)["image"]) for view in expand_views([{"video": str(folder)}], num_clips=2)]
    assert found == [middle_frames(20, 4, clip, 2) for clip in (0, 1)]
    with pytest.raises(ValueError, match=r"LoadClipd: clip is 2, allowed are 0 to 1 \(num_clips\)"):
        load({"video": str(folder), "clip": 2})


@pytest.mark.parametrize("load", [LoadClipd(num_frames=5), RandLoadClipd(num_frames=5)])
def test_frame_range(folder: Path, load: Any) -> None:
    """Only frames from start to before stop are loaded, all of them when there are no more; reading keys are gone."""
    data = {"video": str(folder), "start": 10, "stop": 15, "num_frames": 99, "template": "{:05d}.png"}
    item = load(data)
    assert numbers(item["image"]) == [10, 11, 12, 13, 14]
    assert item.keys() == {"video", "image"}
    assert min(numbers(load({"video": str(folder), "start": 18})["image"])) >= 18


@pytest.mark.parametrize(("start", "stop"), [(0, 21), (20, 20), (25, 30)])
def test_frame_range_outside(folder: Path, start: int, stop: int) -> None:
    """A range that the clip does not have is an error of the clip."""
    with pytest.raises(ClipError, match=rf"{folder}: frames {start} to {stop} are wanted; allowed are 0 to 20"):
        LoadClipd(2)({"video": str(folder), "start": start, "stop": stop})


def test_training_frames_follow_the_seed(folder: Path) -> None:
    """Each part gives one of its frames, every frame has its turn, and the same seed the same frames."""
    load = RandLoadClipd(num_frames=4).set_random_state(0)
    draws = [numbers(load({"video": str(folder)})["image"]) for _ in range(150)]
    for part in range(4):
        assert {draw[part] for draw in draws} == set(range(5 * part, 5 * part + 5))
    load.set_random_state(0)
    assert [numbers(load({"video": str(folder)})["image"]) for _ in range(150)] == draws


@pytest.mark.parametrize("load", [LoadClipd(2, crop=(2, 3, 4, 5)), RandLoadClipd(2, crop=(2, 3, 4, 5))])
def test_fixed_region(folder: Path, load: Any) -> None:
    """The crop is rows 2 to 5 and columns 3 to 7 of every frame."""
    image = load({"video": str(folder)})["image"]
    assert image.shape == (2, 3, 4, 5)
    assert image[1, 1, :, 0].tolist() == [2, 3, 4, 5]
    assert image[1, 2, 0].tolist() == [3, 4, 5, 6, 7]


def test_fixed_region_outside(folder: Path) -> None:
    """A crop that the frames do not hold is an error that names clip, frame and crop."""
    message = r"frames of 12x16 .*allowed: frames that hold the crop of 4x5 at top 9, left 3"
    with pytest.raises(ClipError, match=message):
        LoadClipd(2, crop=(9, 3, 4, 5))({"video": str(folder)})


def test_mouths_of_grid(data_root: Path) -> None:
    """On real clips the crop is that part of the whole frame, and the pipeline gives what a network takes."""
    paths = sorted((data_root / "video" / "grid" / "clips").glob("*.mpg"))[:2]
    data = [{"video": str(path), "label": label, "name": path.stem} for label, path in enumerate(paths)]
    whole = LoadClipd(8)(data[0])["image"]
    part = LoadClipd(8, crop=(176, 108, 80, 100))(data[0])["image"]
    assert whole.shape == (8, 3, 288, 360)
    assert torch.equal(part, whole[:, :, 176:256, 108:208])
    train = Compose(
        [
            RandLoadClipd(8, crop=(176, 108, 80, 100)),
            RandMultiScaleCropd("image", 64),
            RandClipFlipd("image", 0.5, ["zero", "one"]),
            NormalizeClipd("image"),
        ]
    )
    batch = next(iter(DataLoader(Dataset(data, train), batch_size=2)))
    assert batch["image"].shape == (2, 3, 8, 64, 64)
    assert batch["image"].dtype == torch.float32
    assert (batch["label"].tolist(), batch["name"]) == ([0, 1], [path.stem for path in paths])
    assert 0.5 < float(batch["image"].std()) < 2


@pytest.mark.parametrize(("size", "places"), [(8, 13), (8, 5), (8, None), ((8, 12), 13)])
def test_multi_scale_boxes(size: Any, places: int | None) -> None:
    """Every pair of neighbouring scales on every place is drawn, equally often, and boxes stay within the frame."""
    crop = RandMultiScaleCropd("image", size, places=places).set_random_state(0)
    height, width = (100, 100) if size == 8 else (100, 150)
    boxes = Counter(crop.randomize((100, 160)) for _ in range(13000))
    sizes = Counter({(box[2], box[3]): 0 for box in boxes})
    for box, count in boxes.items():
        sizes[box[2:]] += count
    scales = (1, 0.875, 0.75, 0.66)
    wanted = {
        (int(height * a), int(width * b)) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) < 2
    }
    assert sizes.keys() == wanted
    assert min(sizes.values()) > 1100  # 1300 each on average
    assert all(top >= 0 and left >= 0 and top + h <= 100 and left + w <= 160 for top, left, h, w in boxes)
    if places and size == 8:
        small = {(top, left) for top, left, h, w in boxes if (h, w) == (75, 75)}
        rows, columns = [round(25 * k / 4) for k in range(5)], [round(85 * k / 4) for k in range(5)]
        step = 2 if places == 5 else 1  # the corners and the centre, or these and eight between them
        grid = {(i, j) for i in range(0, 5, step) for j in range(0, 5, step) if (i + j) // step % 2 == 0}
        assert len(grid) == places
        assert small == {(rows[i], columns[j]) for i, j in grid}


def test_multi_scale_crop_takes_the_box() -> None:
    """All frames are cut alike, and a box of the size of the result is that part of the frame without a change."""
    crop = RandMultiScaleCropd("image", 16, scales=[1]).set_random_state(3)
    image = crop({"image": coordinates(16, 40, frames=3)})["image"]
    left = int(image[0, 1, 0, 0])
    assert left in {0, 6, 12, 18, 24}
    assert torch.equal(image, coordinates(16, 40, frames=3)[..., left : left + 16])


def test_multi_scale_crop_resizes() -> None:
    """A box larger than the result is resized to it, without changing what is constant."""
    image = RandMultiScaleCropd("image", (6, 9)).set_random_state(0)({"image": coordinates(32, 48, 4)})["image"]
    assert image.shape == (4, 3, 6, 9)
    assert [frame[2].unique().tolist() for frame in image] == [[0], [1], [2], [3]]


def test_short_side() -> None:
    """The short side becomes the size and the proportions stay, upright and across; the size itself is no change."""
    resize = ShortSideResized("image", 8)
    assert resize({"image": coordinates(16, 40)})["image"].shape[-2:] == (8, 20)
    assert resize({"image": coordinates(40, 16)})["image"].shape[-2:] == (20, 8)
    assert torch.equal(resize({"image": coordinates(8, 20)})["image"], coordinates(8, 20))


@pytest.mark.parametrize(
    ("height", "width", "crop", "num_crops", "corner"),
    [
        (10, 21, 0, 1, (1, 6)),
        (10, 21, 0, 3, (1, 0)),
        (10, 21, 1, 3, (1, 6)),
        (10, 21, 2, 3, (1, 13)),
        (21, 8, 0, 3, (0, 0)),
        (21, 8, 2, 3, (13, 0)),
    ],
)
def test_test_crops(height: int, width: int, crop: int, num_crops: int, corner: tuple[int, int]) -> None:
    """Top left corners of boxes of 8x8: the centre, or start, centre and end along the longer side."""
    cut = clip_transforms.TestCropsd("image", 8, num_crops)
    image = cut({"image": coordinates(height, width), "crop": crop})["image"]
    assert image.shape == (2, 3, 8, 8)
    assert tuple(image[0, :2, 0, 0].tolist()) == corner


def test_crops_outside() -> None:
    """Frames smaller than the box and a fourth crop are errors."""
    cut = clip_transforms.TestCropsd("image", 8, 3)
    with pytest.raises(ValueError, match=r"/a.mp4: frames of 7x20 \(height x width\); TestCropsd allows 8x8 or more"):
        cut({"image": coordinates(7, 20), "video": "/a.mp4"})
    with pytest.raises(ValueError, match=r"TestCropsd: crop is 3, allowed are 0 to 2 \(num_crops\)"):
        cut({"image": coordinates(8, 20), "crop": 3})


@pytest.mark.parametrize(("label", "mirrored"), [(0, 2), (1, 1), (2, 0)])
def test_flip(label: int, mirrored: int) -> None:
    """Columns run backwards, and left to right becomes right to left; twice is as never."""
    flip = RandClipFlipd("image", 1.0, SIDES)
    item = flip({"image": coordinates(4, 5), "label": label, "name": "a"})
    assert item["image"][1, 1, 2].tolist() == [4, 3, 2, 1, 0]
    assert item["label"] == mirrored
    again = flip(item)
    assert torch.equal(again["image"], coordinates(4, 5))
    assert again["label"] == label


def test_flip_spares_one_sided_classes() -> None:
    """A class that speaks of a side without mirror image is never flipped, and costs the same random numbers."""
    flip = RandClipFlipd("image", 1.0, SIDES)
    item = flip({"image": coordinates(4, 5), "label": 3})
    assert torch.equal(item["image"], coordinates(4, 5))
    assert item["label"] == 3
    flip, flips = RandClipFlipd("image", 0.5, SIDES), []
    for first in (3, 1):
        flip.set_random_state(0)
        labels = [first] + 40 * [0]
        flips.append([flip({"image": coordinates(2, 2), "label": label})["label"] for label in labels][1:])
    assert flips[0] == flips[1]
    assert set(flips[0]) == {0, 2}


def test_normalize() -> None:
    """White is (1 - mean) / std, black -mean / std, and time comes behind the channels."""
    frames = coordinates(2, 2, frames=5)
    frames[0], frames[1] = 255, 0
    image = NormalizeClipd("image")({"image": frames})["image"]
    assert image.shape == (3, 5, 2, 2)
    assert image.is_contiguous()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(image[:, 0, 0, 1], (1 - mean) / std)
    torch.testing.assert_close(image[:, 1, 1, 1], -mean / std)
    assert frames.dtype == torch.uint8  # the frames themselves are not changed
    assert int(frames[0].min()) == 255


def test_differences_of_frames() -> None:
    """What moves stays, each frame minus the one before; a fixed scene is gone, and with it the mean of the colours."""
    frames = coordinates(2, 3, frames=4)  # blue is the number of the frame
    clip = NormalizeClipd("image")({"image": frames})
    image = FrameDifferenced("image")(clip)["image"]
    assert image.shape == (3, 3, 2, 3)
    assert not image[:2].any()
    torch.testing.assert_close(image[2], torch.full((3, 2, 3), 1 / 255 / 0.225))
    assert clip["image"].shape == (3, 4, 2, 3)


def test_one_frame_has_no_differences() -> None:
    """An error, no empty clip."""
    with pytest.raises(ValueError, match=r"^FrameDifferenced: image has 1 frame, allowed are two or more\.$"):
        FrameDifferenced("image")({"image": torch.zeros(3, 1, 2, 2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoadClipd(0), "LoadClipd: num_frames is 0, allowed are 1 or more"),
        (lambda: RandLoadClipd(0), "RandLoadClipd: num_frames is 0, allowed are 1 or more"),
        (lambda: LoadClipd(8, num_clips=0), "LoadClipd: num_clips is 0, allowed are 1 or more"),
        (lambda: LoadClipd(8, crop=(0, 0, 5)), r"LoadClipd: crop is \(0, 0, 5\); allowed: top and left from 0"),
        (lambda: LoadClipd(8, crop=(-1, 0, 5, 5)), r"LoadClipd: crop is \(-1, 0, 5, 5\); allowed"),
        (lambda: LoadClipd(8, crop=(0, 0, 0, 5)), r"crop is \(0, 0, 0, 5\); allowed: .* height and width from 1"),
        (lambda: RandMultiScaleCropd("image", 0), "RandMultiScaleCropd: size is 0; allowed: a side, or height and"),
        (lambda: RandMultiScaleCropd("image", 8, [1.2]), r"scales are \[1.2\]; allowed: at least one, above 0 to 1"),
        (lambda: RandMultiScaleCropd("image", 8, []), r"scales are \[\]; allowed: at least one"),
        (lambda: RandMultiScaleCropd("image", 8, max_distort=-1), "max_distort is -1, allowed are 0 or more"),
        (lambda: RandMultiScaleCropd("image", 8, places=9), "places are 9; allowed: 5, 13 and None"),
        (lambda: ShortSideResized("image", 0), "ShortSideResized: size is 0, allowed are 1 or more"),
        (lambda: clip_transforms.TestCropsd("image", (8, 8, 8)), r"TestCropsd: size is \(8, 8, 8\); allowed: a side"),
        (lambda: clip_transforms.TestCropsd("image", 8, 10), "TestCropsd: num_crops is 10, allowed are 1 and 3"),
        (lambda: RandClipFlipd("image", 1.5, SIDES), "RandClipFlipd: prob is 1.5, allowed are 0 to 1"),
        (lambda: RandClipFlipd("image", 0.5, []), r"class_names: \[\]; allowed is a list"),
        (lambda: NormalizeClipd("image", std=(1, 0, 1)), r"NormalizeClipd: mean .*, std \(1, 0, 1\); allowed: three"),
        (lambda: NormalizeClipd("image", mean=(1, 0)), r"NormalizeClipd: mean \(1, 0\), std .*; allowed: three"),
    ],
)
def test_arguments_that_are_refused(make: Any, message: str) -> None:
    """Arguments out of range are errors that name transform and argument."""
    with pytest.raises(ValueError, match=message):
        make()


def test_frames_that_are_refused() -> None:
    """Other layouts and types, and a label that is no class, are errors that name the transform."""
    with pytest.raises(ValueError, match=r"NormalizeClipd: frames are torch.float32 of shape \(2, 3, 4, 4\); allowed"):
        NormalizeClipd("image")({"image": coordinates(4, 4).float()})
    with pytest.raises(ValueError, match=r"ShortSideResized: frames are torch.uint8 of shape \(3, 2, 4, 4\); allowed"):
        ShortSideResized("image", 4)({"image": coordinates(4, 4).transpose(0, 1)})
    with pytest.raises(ValueError, match=r"RandClipFlipd: label is 4, allowed are 0 to 3"):
        RandClipFlipd("image", 0.5, SIDES)({"image": coordinates(4, 4), "label": 4})


def test_cached_clips_are_read_once(folder: Path, tmp_path: Path) -> None:
    """The frames are those without a cache, with and without a range, also when the files are gone."""
    copied = tmp_path / "clip"
    shutil.copytree(folder, copied)
    items = [{"video": str(copied)}, {"video": str(copied), "start": 2, "stop": 7}]
    cached, plain = RandLoadClipd(3, cache=True), RandLoadClipd(3)
    tested, uncached = LoadClipd(3, crop=(1, 2, 3, 4), cache="true"), LoadClipd(3, crop=(1, 2, 3, 4))
    expected = []
    for seed, item in enumerate(items):
        expected.append((plain.set_random_state(seed)(item)["image"], uncached(item)["image"]))
        cached(item), tested(item)
    shutil.rmtree(copied)
    for seed, item in enumerate(items):
        found = cached.set_random_state(seed)(item)["image"], tested(item)["image"]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected[seed], strict=True))
