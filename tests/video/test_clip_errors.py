# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What cannot be read of a video file is named in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cakes_video.clip_error import ClipError
from cakes_video.clip_reader import open_clip


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a file."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def damaged(path: Path, folder: Path, start: float, count: int) -> Path:
    """A copy of a file in which some bytes are noise."""
    data = np.fromfile(path, np.uint8)
    first = int(start * len(data))
    data[first : first + count] = np.random.default_rng(0).integers(0, 256, count)
    data.tofile(folder / path.name)
    return folder / path.name


def cut(path: Path, folder: Path, part: float) -> Path:
    """A copy of the first part of a file."""
    data = path.read_bytes()
    (folder / path.name).write_bytes(data[: int(part * len(data))])
    return folder / path.name


def error_of(path: Path, indices: list[int] | None = None) -> str:
    """The one line that says why a clip cannot be opened, or some of its frames not read."""
    with pytest.raises(ClipError) as caught, open_clip(path) as clip:
        clip.frames(indices or [0])
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def audio(folder: Path) -> Path:
    """A file with sound only."""
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux([*stream.encode(samples), *stream.encode()])
    return folder / "sound.mp4"


def no_frames(folder: Path) -> Path:
    """A video that ends before the first frame."""
    with av.open(str(folder / "none.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux([*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode()])
    data = (folder / "none.mkv").read_bytes()
    (folder / "none.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75") + 12])  # in the first cluster
    return folder / "none.mkv"


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """A function that writes a file to a folder."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: folder / "missing.mp4", "does not exist; allowed is a video file or a folder of frames"),
        (written("empty.mp4", b""), "is empty; allowed is a video file"),
        (
            written("text.mp4", b"no video\n" * 99),
            r"cannot be opened as a video \(Invalid data .*\), it is .*; allowed are whole files",
        ),
        (audio, "has no video, 1 other streams; allowed are files with video"),
        (no_frames, "has no frames; allowed are videos with frames"),
    ],
)
def test_files_that_are_no_video_are_named(tmp_path: Path, make: Callable[[Path], Path], text: str) -> None:
    """A file that is missing, empty, something else, without video or without frames is refused in one line."""
    assert re.search(text, error_of(make(tmp_path)))


def test_truncated_files_are_named(clips: Any, tmp_path: Path) -> None:
    """The header of MP4, AVI and WebM tells that the end is missing; an MPEG stream has a broken last frame."""
    fast = clips.write(tmp_path / "fast.mp4", num_frames=40, container_options={"movflags": "faststart"})
    assert "is truncated, " in error_of(cut(fast, tmp_path, 0.9))
    assert " of 40 frames are there" in error_of(fast)
    assert "it is damaged, truncated or something else" in error_of(cut(clips("h264_keys12.mp4"), tmp_path, 0.3))
    assert "unknown format, or is truncated" in error_of(cut(clips("h264_keys12.mp4"), tmp_path, 0.7))
    assert re.search(r"is truncated, \d+ of 40 frames are there", error_of(cut(clips("mpeg4.avi"), tmp_path, 0.9)))
    assert re.search(r"is truncated, \d+ frames of 1\.6 s are there", error_of(cut(clips("vp9.webm"), tmp_path, 0.8)))
    path = cut(clips("mpeg1.mpg"), tmp_path, 0.6)
    with open_clip(path) as clip:
        last = clip.num_frames - 1
    assert f"frame {last} cannot be decoded, {last} of {last + 1} frames can" in error_of(path, [last])


@pytest.mark.parametrize("name", ["mixed/part_0.mp4", "mixed/example.avi", "mixed/test.avi", "grid/clips/bbaf2n.mpg"])
@pytest.mark.parametrize("count", [40, 1000])
def test_noticed_damage_is_never_given(
    data_root: Path, tmp_path: Path, name: str, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of these damaged files a frame is either that of the whole file or an error that counts what can be read."""
    original = data_root / "video" / name
    path, whole, refused = damaged(original, tmp_path, 0.35, count), decoded(original), list[str]()
    with open_clip(path) as clip:
        for index in range(0, clip.num_frames, len(whole) // 30):
            try:
                image = clip.frames([index])[0]
            except ClipError as error:
                refused.append(str(error))
            else:
                assert np.array_equal(image, whole[index])
    assert 0 < len(refused) < 30
    assert all(re.search(r": frame \d+ cannot be decoded, \d+ of \d+ frames can, it", text) for text in refused)
    assert capfd.readouterr() == ("", "")


def test_indices_are_checked(clips: Any, tmp_path: Path) -> None:
    """An index that is no frame, and a template for a file, are refused; so is a number that is not whole."""
    assert "has no frame 40; allowed are 0 to 39" in error_of(clips("vp9.webm"), [3, 40])
    assert "has no frame -1; allowed are 0 to 39" in error_of(clips("vp9.webm"), [-1])
    with open_clip(clips("vp9.webm")) as clip, pytest.raises(TypeError):
        clip.frames([1.5])  # type: ignore[list-item]
    with pytest.raises(ClipError, match=r"vp9\.webm: is a file, but a template was given; allowed with a template"):
        open_clip(clips("vp9.webm"), "{:05d}.jpg")


def test_files_are_closed(clips: Any, tmp_path: Path) -> None:
    """No file stays open, neither after reading nor after an error; a closed clip says that it is closed."""
    files = Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("no /proc on this system")
    before = len(list(files.iterdir()))
    with open_clip(clips("h264_keys12.mp4")) as clip:
        clip.frames([3])
    for path in (cut(clips("mpeg4.avi"), tmp_path, 0.7), cut(clips("vp9.webm"), tmp_path, 0.7)):
        error_of(path)
    assert len(list(files.iterdir())) == before
    with pytest.raises(ClipError, match=r"h264_keys12\.mp4: was closed"):
        clip.frames([3])
