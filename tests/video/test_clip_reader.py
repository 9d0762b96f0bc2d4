# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Any frame of a video file is the one that decoding the whole file gives, and what cannot be read is named."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cakes_video import video_packets
from cakes_video.clip_reader import open_clip

NAMES = (
    "vp9.webm",
    "vp8.webm",
    "h264_keys12.mp4",
    "h264_keys5.mp4",
    "h264_one_key.mp4",
    "h264_open_groups.mp4",
    "h264_no_keys.mp4",
    "h264.mkv",
    "h264.ts",
    "h264.avi",
    "h264_stream.h264",
    "mpeg4_b.avi",
    "mpeg4_packed.avi",
    "mpeg4.avi",
    "mpeg4_b.mp4",
    "mpeg1_b.mpg",
    "mpeg1.mpg",
    "mpeg1_stream.m1v",
    "mpeg2_b.mpg",
    "mjpeg.avi",
)
REAL = (
    "mixed/demo.mp4",
    "mixed/demo_spatiotemporal_det.mp4",
    "mixed/example.avi",
    "mixed/test.avi",
    "mixed/part_0.mp4",
    "grid/clips/bbaf2n.mpg",
    "fight/fight/fi001.mp4",
    "fight/noFight/nofi001.mp4",
)


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a file."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def resident() -> int:
    """Memory of this process in KiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_shows_its_number(clips: Any, name: str) -> None:
    """Each frame read alone shows its index, and equals that of decoding the whole file to the last bit."""
    whole = decoded(clips(name))
    with open_clip(clips(name)) as clip:
        assert (clip.num_frames, clip.size, clip.fps) == (clips.num_frames, clips.size, clips.rate)
        for index, expected in enumerate(whole):
            (image,) = clip.frames([index])
            assert clips.number(image) == index
            assert np.array_equal(image, expected)


@pytest.mark.parametrize("name", NAMES)
def test_frames_come_as_they_are_asked_for(clips: Any, name: str) -> None:
    """Frames come in the order and the multiplicity of the indices, also those of a second call."""
    random = np.random.RandomState(0)
    with open_clip(clips(name)) as clip:
        for count in (2, 3, 8, 8, 8, 60):
            wanted = random.randint(clip.num_frames, size=count)
            assert clips.numbers(clip.frames(wanted)) == wanted.tolist()
        assert clip.frames([]).shape == (0, *clips.size, 3)


@pytest.mark.parametrize("name", REAL)
def test_real_clips_equal_decoding_everything(data_root: Path, name: str) -> None:
    """Real clips: number of frames, single frames and random sets of frames are those of decoding the whole file."""
    path = data_root / "video" / name
    whole, random = decoded(path), np.random.RandomState(0)
    with open_clip(path) as clip:
        assert clip.num_frames == len(whole)
        singles = [[index] for index in (0, 1, len(whole) // 2, len(whole) - 2, len(whole) - 1)]
        for wanted in (*singles, *random.randint(len(whole), size=(4, 8))):
            assert np.array_equal(clip.frames(wanted), [whole[index] for index in wanted])


def test_packets_can_be_read_again(clips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video whose packets are too large to be kept gives the same frames, every time."""
    monkeypatch.setattr(video_packets, "HELD_BYTES", 1000)
    for name in ("h264_keys12.mp4", "mpeg4_packed.avi", "vp9.webm"):
        with open_clip(clips(name)) as clip:
            for wanted in ([31, 3, 17], [0, 39]):
                assert clips.numbers(clip.frames(wanted)) == wanted


def test_packed_frames_have_misleading_times(clips: Any) -> None:
    """The AVI with packed B-frames is what it should be: its frames do not come in the order of their times."""
    with av.open(str(clips("mpeg4_packed.avi"))) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert times != sorted(times)


def test_hidden_packets_are_no_frames(clips: Any, tmp_path: Path) -> None:
    """A packet of VP8 that is not to be shown counts for nothing, and the frames behind it are right."""

    def hide(packets: list[av.Packet]) -> list[av.Packet]:
        data = bytearray(bytes(packets[7]))
        data[0] &= ~16
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packets[7].pts, packets[7].dts, packets[7].time_base
        return [*packets[:7], hidden, *packets[8:]]

    path = clips.write(tmp_path / "hidden.webm", "libvpx", keys=15, options={"deadline": "realtime"}, change=hide)
    numbers = [*range(7), *range(8, 40)]
    assert clips.numbers(decoded(path)) == numbers
    with open_clip(path) as clip:
        assert clip.num_frames == 39
        assert clips.numbers(clip.frames([20, 6, 7, 38])) == [numbers[i] for i in (20, 6, 7, 38)]


def test_edit_lists_are_followed(clips: Any, tmp_path: Path) -> None:
    """The frames before the start that an MP4 sets do not count, though later ones are computed from them."""

    def earlier(packets: list[av.Packet]) -> list[av.Packet]:
        for packet in packets:
            packet.pts, packet.dts = packet.pts - 5, packet.dts - 5
        return packets

    path = clips.write(
        tmp_path / "edited.mp4", bf=2, keys=12, change=earlier, options={"avoid_negative_ts": "disabled"}
    )
    whole = clips.numbers(decoded(path))
    assert whole == list(range(5, 40))
    with open_clip(path) as clip:
        assert clip.num_frames == 35
        assert clips.numbers(clip.frames([0, 34, 11])) == [5, 39, 16]


def test_frames_that_an_avi_leaves_out_do_not_count(clips: Any, tmp_path: Path) -> None:
    """An AVI that shows every frame for three times its length has as many frames, and is not truncated."""

    def slower(packets: list[av.Packet]) -> list[av.Packet]:
        for packet in packets:
            packet.pts, packet.dts = 3 * packet.pts, 3 * packet.dts
        return packets

    path = clips.write(tmp_path / "slow.avi", "mpeg4", change=slower)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 100
    with open_clip(path) as clip:
        assert clip.num_frames == 40
        assert clips.numbers(clip.frames([39, 0, 22])) == [39, 0, 22]


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_frames_are_turned_as_the_file_says(clips: Any, tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    """A matrix in an MP4 turns frames and size: by a quarter to the right, half, by a quarter to the left."""
    path = Path(shutil.copy(clips("h264_keys12.mp4"), tmp_path))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with open_clip(path) as clip, open_clip(clips("h264_keys12.mp4")) as upright:
        assert clip.size == (upright.size if turns == 2 else upright.size[::-1])
        assert np.array_equal(clip.frames([21])[0], np.rot90(upright.frames([21])[0], turns))


def test_streams_beside_the_video_do_not_matter(clips: Any, tmp_path: Path) -> None:
    """A sound track that is longer than the video does not make it look truncated."""
    path = tmp_path / "sound.webm"
    with av.open(str(clips("vp9.webm"))) as video, av.open(str(path), "w") as container:
        copy = container.add_stream_from_template(video.streams.video[0])
        sound = container.add_stream("libopus", rate=48000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 48000 * 3), np.int16), format="s16", layout="mono")
        samples.sample_rate = 48000
        for packet in video.demux(video.streams.video[0]):
            if packet.size:
                packet.stream = copy
                container.mux(packet)
        container.mux([*sound.encode(samples), *sound.encode()])
    with open_clip(path) as clip:
        assert clips.numbers(clip.frames([39, 20])) == [39, 20]


def test_titles_in_old_encodings_do_not_matter(clips: Any, tmp_path: Path) -> None:
    """A title that is not UTF-8 is no reason to refuse a video."""
    path = tmp_path / "title.avi"
    with av.open(str(clips("mpeg4.avi"))) as video, av.open(str(path), "w") as container:
        container.metadata["title"] = "Cafe XX"
        copy = container.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video.streams.video[0]):
            if packet.size:
                packet.stream = copy
                container.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"Cafe XX", b"Caf\xe9 \xff\xff"))
    with open_clip(path) as clip:
        assert clips.numbers(clip.frames([3])) == [3]


def test_memory_is_flat(clips: Any) -> None:
    """Opening and reading 1000 times takes no more memory than 100 times."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")

    def read(times: int) -> int:
        for number in range(times):
            with open_clip(clips(("h264_keys5.mp4", "vp9.webm", "mpeg4_b.avi", "mpeg1_b.mpg")[number % 4])) as clip:
                clip.frames([0, 7])
        return resident()

    before = read(100)
    assert read(1000) - before < 4096


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_other_processes_read_as_well(clips: Any) -> None:
    """Forked processes read at the same time, also through a clip that was opened before; so do new ones."""
    wanted = [38, 3, 3, 21]
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    with open_clip(clips("h264_keys12.mp4")) as before:
        before.frames([11])

        def work() -> None:
            with open_clip(clips("mpeg1_b.mpg")) as clip:
                results.put((clips.numbers(clip.frames(wanted)), clips.numbers(before.frames(wanted))))

        processes = [context.Process(target=work) for _ in range(3)]
        for process in processes:
            process.start()
        assert [results.get(timeout=60) for _ in processes] == [(wanted, wanted)] * 3
        for process in processes:
            process.join()
    code = "import sys; from cakes_video.clip_reader import open_clip; print(open_clip(sys.argv[1]).num_frames)"
    new = subprocess.run([sys.executable, "-c", code, clips("vp9.webm")], capture_output=True, text=True)
    assert (new.stdout, new.stderr) == ("40\n", "")
