# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of numbered pictures are clips, whatever the names, and their faults are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cakes_video.clip_error import ClipError
from cakes_video.clip_reader import open_clip
from cakes_video.frame_folder import FrameFolder


def write(folder: Path, template: str, numbers: Iterable[int], size: tuple[int, int] = (8, 12)) -> Path:
    """Write pictures of which each shows its own number as its brightness."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.fromarray(np.full((*size, 3), 10 * number, np.uint8)).save(folder / template.format(number))
    return folder


def brightness(images: np.ndarray) -> list[int]:
    """The numbers that the pictures show."""
    return [round(float(image.mean()) / 10) for image in images]


@pytest.mark.parametrize(
    ("template", "first"),
    [
        ("img_{:05d}.jpg", 1),
        ("{:05d}.jpg", 1),
        ("{:05d}.jpeg", 0),
        ("image_{:05d}.JPG", 0),
        ("v_Ski_g01_c02_{:03d}.png", 7),
        ("{:d}.png", 0),
        ("frame{:d}.jpg", 9),  # 9, 10, 11 ...: no leading zeros, several lengths
        ("a{{b}} %d_{:04d}.png", 1),
    ],
)
def test_names_and_first_number_are_found(tmp_path: Path, template: str, first: int) -> None:
    """Frames come by their place, in the order and multiplicity of the indices, whatever the names of the files."""
    folder = write(tmp_path / "clip", template, range(first, first + 14))
    with open_clip(folder) as clip:
        assert (clip.num_frames, clip.size, clip.fps) == (14, (8, 12), None)
        frames = clip.frames([13, 0, 5, 5])
    assert frames.shape == (4, 8, 12, 3)
    assert frames.dtype == np.uint8
    assert brightness(frames) == [first + 13, first, first + 5, first + 5]


@pytest.mark.parametrize("template", ["flow_x_{:05d}.jpg", "flow_x_%05d.jpg", "flow_x_{:05}.jpg"])
def test_a_template_chooses_among_several_kinds(tmp_path: Path, template: str) -> None:
    """Beside pictures of another kind a template is needed; it may be written in both ways."""
    folder = write(write(tmp_path, "img_{:05d}.jpg", range(1, 4)), "flow_x_{:05d}.jpg", range(1, 3))
    kinds = r"several kinds, flow_x_\{:05d\}\.jpg, img_\{:05d\}\.jpg; allowed is one, or a template"
    with pytest.raises(ClipError, match=kinds):
        open_clip(folder)
    with open_clip(folder, template) as clip:
        assert clip.num_frames == 2


def test_first_number_can_be_given(tmp_path: Path) -> None:
    """From a given first number on, pictures before it do not count; it has to exist."""
    folder = write(tmp_path, "{:05d}.png", range(3, 9))
    assert brightness(FrameFolder(folder, first=5).frames([0, 3])) == [5, 8]
    with pytest.raises(ClipError, match=r"00001\.png is missing, there are 6 pictures up to 00008\.png"):
        FrameFolder(folder, first=1)
    with pytest.raises(ClipError, match=r"00009\.png is missing"):
        FrameFolder(folder, first=9)


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    """Hidden files, texts and pictures without number are not frames."""
    folder = write(tmp_path, "{:05d}.png", range(3))
    for name in (".00009.png", "flow.txt", "00005.txt", "cover.png", "00004.png.part"):
        (folder / name).write_bytes(b"")
    with open_clip(folder) as clip:
        assert clip.num_frames == 3


def test_grey_and_transparent_pictures_are_rgb(tmp_path: Path) -> None:
    """Pictures of other modes come as three channels."""
    Image.fromarray(np.full((4, 4), 50, np.uint8)).save(tmp_path / "0.png")
    Image.fromarray(np.full((4, 4, 4), 70, np.uint8)).save(tmp_path / "1.png")
    with open_clip(tmp_path) as clip:
        assert clip.frames([0, 1])[:, 0, 0].tolist() == [[50] * 3, [70] * 3]


def gap(folder: Path) -> Path:
    """Pictures 1, 2, 4 and 6."""
    return write(folder, "img_{:05d}.jpg", (1, 2, 4, 6))


def texts(folder: Path) -> Path:
    """No pictures."""
    (folder / "readme.txt").write_text("no pictures")
    return folder


@pytest.mark.parametrize(
    ("make", "template", "text"),
    [
        (gap, None, r"img_00003\.jpg is missing, there are 4 pictures up to img_00006\.jpg; allowed are consecutive"),
        (gap, "image_{:05d}.jpg", r"no picture named like image_\{:05d\}\.jpg, of its files one is img_00001\.jpg"),
        (gap, "img_{:06d}.jpg", r"no picture named like img_\{:06d\}\.jpg, of its files one is"),
        (gap, "img.jpg", r"the template is 'img\.jpg'; allowed is one number in it, as in 'img_\{:05d\}\.jpg'"),
        (gap, "{:d}_{:d}.jpg", r"the template is .*; allowed is one number"),
        (texts, None, r"holds no numbered pictures; allowed are names such as img_00001\.jpg, jpg or png"),
        (lambda folder: folder, None, "holds no numbered pictures; allowed are"),
        (lambda folder: folder, "{:05d}.jpg", "holds no picture named like .*, it is empty"),
    ],
)
def test_folders_without_frames_are_named(
    tmp_path: Path, make: Callable[[Path], Path], template: str | None, text: str
) -> None:
    """A folder with a gap, of other names or without pictures is refused in one line that begins with its path."""
    folder = make(tmp_path)
    with pytest.raises(ClipError, match=text) as caught:
        open_clip(folder, template)
    assert str(caught.value).startswith(f"{folder}: ")
    assert "\n" not in str(caught.value)


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Damaged, empty, cut and differently sized pictures are refused by name, the others can still be read."""
    folder = write(tmp_path, "{:05d}.jpg", range(8), (64, 64))
    whole = (folder / "00001.jpg").read_bytes()
    (folder / "00001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "00002.jpg").write_bytes(b"")
    (folder / "00003.jpg").write_text("no picture")
    write(folder, "{:05d}.jpg", [4], (64, 32))
    with open_clip(folder) as clip:
        for index, text in (
            (1, r"00001\.jpg cannot be read \(.*[Tt]runcated.*\); allowed are whole pictures"),
            (2, r"00002\.jpg cannot be read \(it is no picture\)"),
            (3, r"00003\.jpg cannot be read \(it is no picture\)"),
            (4, r"00004\.jpg has 64x32 pixels, the first picture 64x64; allowed is one size"),
            (8, "has no frame 8; allowed are 0 to 7"),
            (-1, "has no frame -1; allowed are 0 to 7"),
        ):
            with pytest.raises(ClipError, match=text) as caught:
                clip.frames([5, index])
            assert str(caught.value).startswith(f"{folder}: ")
        assert brightness(clip.frames([0, 7])) == [0, 7]


def test_damaged_png_is_named(tmp_path: Path) -> None:
    """A PNG with a broken part is refused by name, too."""
    folder = write(tmp_path, "{:d}.png", range(3), (64, 64))
    data = bytearray((folder / "1.png").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (folder / "1.png").write_bytes(data)
    with open_clip(folder) as clip, pytest.raises(ClipError, match=r"1\.png cannot be read"):
        clip.frames([1])
