# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Videos with text drawn on them: what changes, and what does not."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from cakes_video.clip_error import ClipError
from cakes_video.labelled_video import draw_lines, write_labelled_video

LINES = [("fight", 0.93), ("no fight", 0.07)]


def write_video(path: Path, size: tuple[int, int] = (96, 128), frames: int = 8, rate: Any = 10, **options: Any) -> Path:
    """A video whose frame i is grey of value 40 + 20 i in its left half and blue in its right half."""
    with av.open(str(path), "w", format=options.pop("format", None)) as container:
        stream = container.add_stream(options.pop("codec", "libx264"), rate=rate, options={"g": "4"})
        stream.height, stream.width, stream.pix_fmt = *size, options.pop("pix_fmt", "yuv444p")
        for number in range(frames):
            image = np.full((*size, 3), 40 + 20 * number, np.uint8)
            image[:, size[1] // 2 :] = (30, 60, 200)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def read(path: Path) -> tuple[np.ndarray, Fraction | None]:
    """Frames and mean frame rate of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]).astype(
            int
        ), stream.average_rate


@pytest.mark.parametrize("rate", [10, Fraction(30000, 1001)])
def test_frames_size_and_rate_stay(tmp_path: Path, rate: Any) -> None:
    """Every frame is there once in its order and at its rate; the box is changed, the rest is as it was."""
    source, target = write_video(tmp_path / "a.mp4", rate=rate), tmp_path / "out" / "b.mp4"
    write_labelled_video(source, target, LINES)
    (before, _), (after, written) = read(source), read(target)
    assert before.shape == after.shape == (8, 96, 128, 3)
    assert written == rate
    height, width = draw_lines((96, 128), LINES).shape[:2]
    change = np.abs(after - before)
    outside = np.ones((96, 128), bool)
    outside[: height + 2, : width + 2] = False
    assert change[:, outside].mean() < 4
    assert change[:, : height - 2, : width - 2].mean() > 25
    assert [path.name for path in target.parent.iterdir()] == ["b.mp4"]


def test_odd_sides_get_one_more_row_or_column(tmp_path: Path) -> None:
    """H.264 has even sides: 95 x 113 becomes 96 x 114, nothing is cut off or moved."""
    source = write_video(tmp_path / "a.avi", size=(95, 113), codec="ffv1")
    write_labelled_video(source, tmp_path / "b.mp4", [])
    (before, _), (after, _) = read(source), read(tmp_path / "b.mp4")
    assert (before.shape, after.shape) == ((8, 95, 113, 3), (8, 96, 114, 3))
    assert np.abs(after[:, :95, :113] - before).mean() < 4
    assert np.abs(after[:, 95, 10:50] - before[:, 94, 10:50]).mean() < 4


def test_a_part_of_a_video(tmp_path: Path) -> None:
    """Frames 2, 3 and 4 are those from start 2 to stop 5."""
    source = write_video(tmp_path / "a.mp4")
    write_labelled_video(source, tmp_path / "b.mp4", [], start=2, stop=5)
    assert np.abs(read(tmp_path / "b.mp4")[0] - read(source)[0][2:5]).mean() < 4
    with pytest.raises(ClipError, match=r"a.mp4: has no frame 8; allowed is a video with that frame\.$"):
        write_labelled_video(source, tmp_path / "c.mp4", [], start=8)


def test_folder_of_frames_and_file_without_a_rate(tmp_path: Path) -> None:
    """Both are written at 25 frames a second."""
    images = read(write_video(tmp_path / "a.mp4"))[0]
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(images, start=1):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "frames" / f"img_{number:05}.png")
    raw = write_video(tmp_path / "a.h264", pix_fmt="yuv420p", format="h264")
    for source in (tmp_path / "frames", raw):
        write_labelled_video(source, tmp_path / "b.mp4", [])
        frames, rate = read(tmp_path / "b.mp4")
        assert rate == 25
        assert len(frames) == 8
        assert np.abs(frames - images).mean() < 4


def test_a_turned_video_is_written_upright(tmp_path: Path) -> None:
    """A telephone stores its frames lying and says in the file to turn them; the text must not lie with them."""
    source = write_video(tmp_path / "a.mp4", size=(64, 128))
    content = bytearray(source.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # version, times, track, duration, layer, volume before it
    assert struct.unpack_from(">9i", content, matrix) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, matrix, 0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)  # clockwise
    source.write_bytes(content)
    write_labelled_video(source, tmp_path / "b.mp4", [])
    frames = read(tmp_path / "b.mp4")[0]
    assert frames.shape == (8, 128, 64, 3)
    assert np.abs(frames[0, 100, 32] - (30, 60, 200)).max() < 12  # what was right is below
    assert np.abs(frames[0, 20, 32] - 40).max() < 12


def test_colours_and_shape_of_pixels_stay(tmp_path: Path) -> None:
    """A video in the colours of high definition with oblong pixels is written as such."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.sample_aspect_ratio = 1, Fraction(64, 51)
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (200, 60, 30), np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    write_labelled_video(tmp_path / "a.mp4", tmp_path / "b.mp4", [])
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert (frame.colorspace, stream.sample_aspect_ratio) == (1, Fraction(64, 51))
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - (200, 60, 30)).max() < 8


@pytest.mark.parametrize("size", [(112, 112), (256, 340), (1080, 1920), (40, 30)])
def test_text_fits_and_can_be_read(size: tuple[int, int]) -> None:
    """On every size the box stays in the upper two thirds, letters are white on dark, bars are as long as probable."""
    name = "Pretending to put something behind something, but it falls"
    lines = [(name, 0.5), ("Übung: größer, ещё", 0.25), ("third", 0.0), ("fourth", 0.0), ("fifth", None)]
    overlay = draw_lines(size, lines)
    height, width = overlay.shape[:2]
    assert height <= max(2 * size[0] / 3, 14)
    assert width <= size[1]
    assert (overlay[..., :3].min(-1) > 230).any()
    row = round(1.4 * max(10, round(min(size) / 24)))
    for line, (_, probability) in enumerate(lines[: min(2, height // row)]):
        blue = (overlay[line * row + 1, :, 2] > 150).sum() / width
        assert blue == pytest.approx(probability, abs=0.05)
    assert height // row == (1 if size == (40, 30) else 5)


def test_letters_have_shapes_of_their_own() -> None:
    """No letter of a class name outside ASCII is drawn as the box that stands for an unknown one."""
    shapes = {letter: draw_lines((200, 200), [(letter, None)]).tobytes() for letter in "äßéñλЖ\U0010fffd"}
    assert len(set(shapes.values())) == 7


def test_wrong_lines_targets_and_sources(tmp_path: Path) -> None:
    """Errors name the file and what is allowed, and leave no file behind."""
    source = write_video(tmp_path / "a.mp4")
    content, out = source.read_bytes(), tmp_path / "out" / "b.mp4"
    with pytest.raises(ValueError, match=r"^lines: probability 1.5 of 'fight'; allowed are 0 to 1\.$"):
        write_labelled_video(source, out, [("fight", 1.5)])
    with pytest.raises(ValueError, match=r"b.gif: unknown kind of video; allowed are .mp4, .mov, .mkv\.$"):
        write_labelled_video(source, out.with_suffix(".gif"), LINES)
    with pytest.raises(ValueError, match=r"a.mp4: is the video itself; allowed is another folder"):
        write_labelled_video(source, tmp_path / "." / "a.mp4", LINES)
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "absent.mp4"):
        with pytest.raises(ClipError, match=rf"{name}: cannot be decoded \(.*\); allowed is a complete video"):
            write_labelled_video(tmp_path / name, out, LINES)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(ClipError, match=r"sound.mp4: has no picture, only other streams; allowed is a video\.$"):
        write_labelled_video(tmp_path / "sound.mp4", out, LINES)
    assert not out.parent.exists()
    assert source.read_bytes() == content


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A source that breaks off in the middle leaves the older target, and no half file beside it."""
    target = tmp_path / "out" / "b.mp4"
    target.parent.mkdir()
    target.write_bytes(b"older")
    (tmp_path / "frames").mkdir()
    for number, size in enumerate([(32, 48), (32, 48), (64, 48)], start=1):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "frames" / f"img_{number:05}.png")
    with pytest.raises(ClipError, match=r"frames"):
        write_labelled_video(tmp_path / "frames", target, LINES)
    assert [path.name for path in target.parent.iterdir()] == ["b.mp4"]
    assert target.read_bytes() == b"older"
