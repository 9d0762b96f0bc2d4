# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Lists of clips in every form, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from cakes_video.clip_lists import (
    ClipList,
    clips_fingerprint,
    expand_views,
    read_clips,
    read_label_list,
    read_tsn_list,
    relabel_clips,
)


def touch(root: Path, names: Sequence[str]) -> None:
    """Make files without content, which is all that a list looks for."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def frame_folder(folder: Path, count: int = 3) -> None:
    """A folder of frames 00001.jpg, 00002.jpg, ..."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        matplotlib.image.imsave(folder / f"{number:05d}.jpg", np.full((16, 16, 3), 20 * number, np.uint8))


def listed(clips: ClipList) -> list[tuple[str, str]]:
    """Name and class of each clip."""
    return [(clip["name"], clips.class_names[clip["label"]]) for clip in clips.clips]


def test_something_v2(tmp_path: Path) -> None:
    """Templates lose their brackets, labels come from the JSON beside the list, ids find their webm."""
    entries = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
        {"id": "42326", "label": "paper falling", "template": "[Something] falling like a rock", "placeholders": []},
    ]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(entries))
    labels = {"Approaching something": "0", "Holding something": "1", "Something falling like a rock": "2"}
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(labels))
    touch(tmp_path / "webm", ["78687.webm", "42326.webm", "1.webm"])
    clips = read_clips(tmp_path / "something-something-v2-train.json", root=tmp_path / "webm")
    assert clips.clips == (
        {"video": str(tmp_path / "webm" / "78687.webm"), "label": 1, "name": "78687"},
        {"video": str(tmp_path / "webm" / "42326.webm"), "label": 2, "name": "42326"},
    )
    assert clips.class_names == tuple(labels)


def test_something_v1(tmp_path: Path) -> None:
    """Lines id;class with the labels beside them, and a frame folder for each id."""
    (tmp_path / "something-something-v1-train.csv").write_text(
        "7;Holding something\n5;Pouring, but something is empty\n"
    )
    (tmp_path / "something-something-v1-labels.csv").write_text("Pouring, but something is empty\nHolding something\n")
    for number in ("5", "7"):
        frame_folder(tmp_path / "frames" / number)
    clips = read_clips(tmp_path / "something-something-v1-train.csv", tmp_path / "frames")
    assert listed(clips) == [("7", "Holding something"), ("5", "Pouring, but something is empty")]
    assert [clip["label"] for clip in clips.clips] == [1, 0]


@pytest.mark.parametrize("template", ["img_{:05d}.jpg", None])
def test_template_is_tried_at_the_start(tmp_path: Path, template: str | None) -> None:
    """A template goes with every clip; one that fits no file of the first folder is an error before the training."""
    frame_folder(tmp_path / "a")
    (tmp_path / "list.txt").write_text("a 3 0\n")
    assert read_clips(tmp_path / "list.txt", template="{:05d}.jpg").clips[0]["template"] == "{:05d}.jpg"
    if template is None:
        assert "template" not in read_clips(tmp_path / "list.txt").clips[0]
    else:
        with pytest.raises(ValueError, match=r"/a: .*img_"):
            read_clips(tmp_path / "list.txt", template=template)


@pytest.mark.parametrize(
    "text",
    [
        "a/one 1.mp4 48 1\na/2, two.mp4 30 0\n",
        "a/one 1.mp4\t48\t1\r\na/2, two.mp4\t30\t0\r\n",
        'a/one 1.mp4,48,1\n"a/2, two.mp4",30,0\n',
        '"a/one 1.mp4" 48 1\n\n"a/2, two.mp4" 30 0\n',
        "\ufeffpath,num_frames,label\na/one 1.mp4,48,1\na/2, two.mp4,30,0\n",
    ],
)
def test_tsn_lists(tmp_path: Path, text: str) -> None:
    """Path, frames and label, with spaces and commas in the paths, however they are separated."""
    touch(tmp_path, ["a/one 1.mp4", "a/2, two.mp4"])
    (tmp_path / "train.txt").write_text(text, encoding="utf-8", newline="")
    clips = read_clips(tmp_path / "train.txt", class_names=["jump", "run"])
    assert [(clip["name"], clip["label"], clip["num_frames"]) for clip in clips.clips] == [
        ("a/one 1.mp4", 1, 48),
        ("a/2, two.mp4", 0, 30),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a b.mp4 0\nc, d.mp4 1\n",
        "a b.mp4,0\nc, d.mp4,1\n",
        "a b.mp4;0\nc, d.mp4;1\n",
        '"a b.mp4" 0\n"c, d.mp4" 1\n',
        '"a b.mp4","jump, high"\n"c, d.mp4","run"\n',
        'label,path\n"jump, high",a b.mp4\nrun,"c, d.mp4"\n',
    ],
)
def test_label_lists(tmp_path: Path, text: str) -> None:
    """Path and label, a number or a name, with spaces and commas in the paths."""
    touch(tmp_path, ["a b.mp4", "c, d.mp4"])
    (tmp_path / "train.csv").write_text(text)
    clips = read_clips(tmp_path / "train.csv", class_names=["jump, high", "run"])
    assert listed(clips) == [("a b.mp4", "jump, high"), ("c, d.mp4", "run")]


def test_labels_without_names(tmp_path: Path) -> None:
    """Without class_names the classes are the numbers up to the last, or the sorted names."""
    touch(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "numbers.txt").write_text("a.mp4 2\nb.mp4 0\n")
    (tmp_path / "names.txt").write_text("a.mp4 run\nb.mp4 jump\n")
    assert read_clips(tmp_path / "numbers.txt").class_names == ("0", "1", "2")
    assert listed(read_clips(tmp_path / "names.txt")) == [("a.mp4", "run"), ("b.mp4", "jump")]
    assert read_clips(tmp_path / "names.txt").class_names == ("jump", "run")


def test_frame_ranges(tmp_path: Path) -> None:
    """Several ranges of one file are several clips with names of their own."""
    touch(tmp_path, ["a.mp4"])
    (tmp_path / "train.csv").write_text("path,label,start,stop\na.mp4,0,0,30\na.mp4,1,30,90\na.mp4,1,90,\na.mp4,0,,\n")
    clips = read_clips(tmp_path / "train.csv").clips
    assert [clip["name"] for clip in clips] == ["a.mp4#0-30", "a.mp4#30-90", "a.mp4#90-end", "a.mp4"]
    assert [(clip.get("start"), clip.get("stop")) for clip in clips] == [(0, 30), (30, 90), (90, None), (None, None)]


def test_paths_without_suffix(tmp_path: Path) -> None:
    """A path may lack the suffix of a video; a file or folder of exactly this name comes first."""
    touch(tmp_path, ["a.b.avi", "c.mp4", "c.txt"])
    frame_folder(tmp_path / "d")
    touch(tmp_path, ["d.mp4"])
    (tmp_path / "list.txt").write_text("a.b 0\nc 0\nd 0\n")
    names = [Path(clip["video"]).name for clip in read_clips(tmp_path / "list.txt").clips]
    assert names == ["a.b.avi", "c.mp4", "d"]
    touch(tmp_path, ["c.avi"])
    with pytest.raises(ValueError, match=r"list.txt:2: .*/c may be c.avi or c.mp4; allowed: one of them"):
        read_clips(tmp_path / "list.txt")


def test_folder_for_each_class(tmp_path: Path) -> None:
    """Classes and clips are sorted by name; other and hidden files are no clips; frame folders are."""
    touch(
        tmp_path, ["run/b.MP4", "run/a.avi", "run/notes.txt", "run/.x.mp4", "jump/c.webm", ".git/d.mp4", "readme.txt"]
    )
    frame_folder(tmp_path / "jump" / "d")
    clips = read_clips(tmp_path)
    assert clips.class_names == ("jump", "run")
    assert listed(clips) == [("jump/c.webm", "jump"), ("jump/d", "jump"), ("run/a.avi", "run"), ("run/b.MP4", "run")]
    other = read_clips(tmp_path, class_names=["run", "sit", "jump"])
    assert [clip["label"] for clip in other.clips] == [2, 2, 0, 0]


def test_split_selects(tmp_path: Path) -> None:
    """A split takes its names, with or without suffix or label, in its order; classes stay those of all folders."""
    touch(tmp_path / "data", ["run/a.avi", "run/b c.avi", "jump/d.avi", "sit/e.avi"])
    (tmp_path / "split.txt").write_text("run/b c.avi\njump/d 1\nrun/a.avi 3\n")
    clips = read_clips(tmp_path / "data", split=tmp_path / "split.txt")
    assert listed(clips) == [("run/b c.avi", "run"), ("jump/d.avi", "jump"), ("run/a.avi", "run")]
    assert clips.class_names == ("jump", "run", "sit")


def test_wrong_root(tmp_path: Path) -> None:
    """The error names the first missing clip and its line, what was looked for, and how many are missing."""
    touch(tmp_path, ["a.mp4"])
    (tmp_path / "list.txt").write_text("a.mp4 0\n\nb.mp4 0\nsub/c 0\n")
    message = (
        r"list.txt:3: .*/b.mp4 does not exist, nor with the suffix of a video; 2 of 3 clips are missing; "
        r"allowed: a root that holds them, it is .*\.$"
    )
    with pytest.raises(ValueError, match=message):
        read_clips(tmp_path / "list.txt")
    clips = read_clips(tmp_path / "list.txt", must_exist=False).clips
    assert [clip["video"] for clip in clips] == [str(tmp_path / name) for name in ("a.mp4", "b.mp4", "sub/c")]
    with pytest.raises(ValueError, match=r"list.txt:1: /nowhere/a.mp4 does not exist.* 3 of 3 clips are missing"):
        read_clips(tmp_path / "list.txt", root="/nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 48 0\nb.mp4\n", r"l.txt:2: cannot read 'b.mp4'; allowed: path, number of frames and label number"),
        ("a.mp4 48 0\nb.mp4 30 0\nb.mp4 x 1\n", r"l.txt:3: cannot read 'b.mp4 x 1'"),
        ("a.mp4 0\nb.mp4\n", r"l.txt:2: cannot read 'b.mp4'; allowed: path and label"),
        ('"a.mp4" 0\n"b.mp4 1\n', r"l.txt:2: cannot read '\"b.mp4 1' \(.*\); allowed: quotes in pairs"),
        ("a.mp4 0\nb.mp4 2\n", r"l.txt:2: label 2 is no class; allowed: 0 to 1 of class_names"),
        ("a.mp4 -1\nb.mp4 1\n", r"l.txt:1: label -1 is no class; allowed: 0 to 1 of class_names"),
        ("a.mp4 run\nb.mp4 fly\n", r"l.txt:2: label 'fly' is no class; allowed: the 2 names of class_names"),
        ("a.mp4 0\na.mp4 1\n", r"l.txt:2: 'a.mp4' is there already, .*l.txt:1; allowed: once"),
        ("\n \n", r"l.txt: lists no clip; allowed: at least one"),
        ("path,label\n", r"l.txt: lists no clip; allowed: at least one"),
        ("path,label,speed\na.mp4,0,3\n", r"l.txt:1: columns are path, label, speed; allowed, each once: path, video"),
        ("path,label,start\na.mp4,0,x\n", r"l.txt:2: start is 'x'; allowed: a whole number from 0"),
        ("path,label,start,stop\na.mp4,0,9,9\n", r"l.txt:2: frames 9 to 9 are none; allowed: start below stop"),
        ("path,label,stop\na.mp4,0,0\n", r"l.txt:2: frames 0 to 0 are none"),
        ("path,label\n,0\n", r"l.txt:2: cannot read ',0'; allowed: path, label"),
    ],
)
def test_broken_lists(tmp_path: Path, text: str, message: str) -> None:
    """A list that says nothing sensible is an error with file, line and what is allowed, in one line."""
    touch(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_clips(tmp_path / "l.txt", class_names=["jump", "run"])
    assert "\n" not in str(raised.value)


def test_numbers_and_names_mixed(tmp_path: Path) -> None:
    """Without class_names a list has labels of one kind, and no number that can only be something else."""
    (tmp_path / "l.txt").write_text("a.mp4 0\nb.mp4 run\n")
    with pytest.raises(ValueError, match=r"l.txt:2: label 'run' is text, others are numbers"):
        read_clips(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("a.mp4 0\nb.mp4 20240131\n")
    with pytest.raises(ValueError, match=r"l.txt:2: label 20240131 is no class; allowed: 0 to 99999"):
        read_clips(tmp_path / "l.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"t.json: is no JSON \(Expecting property name"),
        ("{}", r"t.json: is no list; allowed: \[\{.id.: .., .template.: ..\}, ...\]"),
        ('[{"id": "1"}]', r"t.json, entry 1: cannot read .*; allowed: id and template, which the test list has not"),
        ('[{"id": "1", "template": "Flying [something]"}]', r"t.json, entry 1: label 'Flying something' is no class"),
    ],
)
def test_broken_something_v2(tmp_path: Path, text: str, message: str) -> None:
    """What is no list of version 2, or not of these classes, is an error that names the entry."""
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_clips(tmp_path / "t.json", class_names=["Holding [something]"])


def test_broken_something_v1(tmp_path: Path) -> None:
    """A line without class, and a list without its labels, are errors."""
    (tmp_path / "train.csv").write_text("1;Holding something\n2\n")
    with pytest.raises(
        ValueError, match=r"train.csv:2: cannot read '2'; allowed: id;class, which the test list has not"
    ):
        read_clips(tmp_path / "train.csv", class_names=["Holding something"])
    (tmp_path / "train.csv").write_text("1;Holding something\n")
    with pytest.raises(ValueError, match=r"train.csv: 0 files \*labels.csv beside it; allowed: one, or class_names"):
        read_clips(tmp_path / "train.csv")


def test_broken_folders(tmp_path: Path) -> None:
    """A folder without classes, a class without clips or unknown, and a split that names no clip are errors."""
    with pytest.raises(ValueError, match=r"has no folders; allowed: a folder for each class, clips in it"):
        read_clips(tmp_path)
    touch(tmp_path, ["run/a.mp4", "notes/x.txt"])
    with pytest.raises(ValueError, match=r"/notes: has no clips; allowed: a folder for each class"):
        read_clips(tmp_path)
    touch(tmp_path, ["notes/b.mp4"])
    with pytest.raises(ValueError, match=r"/notes: label 'notes' is no class; allowed: the 1 names"):
        read_clips(tmp_path, class_names=["run"])
    (tmp_path / "split.txt").write_text("run/a.mp4\nrun/c.mp4\n")
    with pytest.raises(ValueError, match=r"split.txt:2: 'run/c.mp4' is none of the 2 clips; allowed: class/clip"):
        read_clips(tmp_path, split=tmp_path / "split.txt")


def test_arguments_that_would_be_ignored(tmp_path: Path) -> None:
    """No argument is passed over without a word, and no file that is missing or no text."""
    touch(tmp_path, ["run/a.mp4"])
    (tmp_path / "l.txt").write_text("run/a.mp4 0\n")
    (tmp_path / "x.mp4").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"root is /x; allowed for a folder of class folders: None"):
        read_clips(tmp_path, root="/x")
    with pytest.raises(ValueError, match=r"l.txt: split is s.txt; allowed only for a folder with a folder for each"):
        read_clips(tmp_path / "l.txt", split="s.txt")
    with pytest.raises(ValueError, match=r"none.txt: no such file; allowed: a list of clips, or a folder"):
        read_clips(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"x.mp4: is no text in UTF-8"):
        read_clips(tmp_path / "x.mp4")


def test_reader_of_one_form_does_not_guess(tmp_path: Path) -> None:
    """Where both readings are possible the reader by its name decides: clip 5 with label 0, or clip with 5 frames."""
    touch(tmp_path, ["clip 5.mp4", "clip.mp4"])
    (tmp_path / "l.txt").write_text("clip 5 0\n")
    assert read_tsn_list(tmp_path / "l.txt").clips[0]["num_frames"] == 5
    assert read_label_list(tmp_path / "l.txt").clips[0]["name"] == "clip 5"


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "clips: the list is empty"),
        ([("a", 0), ("a", 1)], "clips: a name stands there twice"),
        ([("a", 0), ("b", 2)], "/b: label 2 is no class; allowed are 0 to 1"),
    ],
)
def test_illegal_lists_cannot_exist(clips: list[tuple[str, int]], message: str) -> None:
    """A list that is made by hand is checked as well."""
    with pytest.raises(ValueError, match=message):
        ClipList(tuple({"video": f"/{name}", "label": label, "name": name} for name, label in clips), ("x", "y"))


def test_relabelling_keeps_the_class() -> None:
    """Clips keep the names of their classes in another order of them, and an unknown class is refused."""
    clips = ClipList(
        ({"video": "/a", "label": 0, "name": "a"}, {"video": "/b", "label": 1, "name": "b"}), ("run", "sit")
    )
    other = relabel_clips(clips, ["sit", "jump", "run"])
    assert listed(other) == listed(clips)
    assert [clip["label"] for clip in other.clips] == [2, 0]
    with pytest.raises(ValueError, match="1 of the 2 classes of the data are unknown to the checkpoint: 'sit'"):
        relabel_clips(clips, ["run"])


def test_views() -> None:
    """Two clips in time with three crops are six items of one name, each pair once, the clip itself unchanged."""
    clip = {"video": "/a", "label": 0, "name": "a"}
    views = expand_views([clip], num_clips=2, num_crops=3)
    assert [(view["clip"], view["crop"]) for view in views] == [(i, j) for i in (0, 1) for j in (0, 1, 2)]
    assert all(view["name"] == "a" for view in views)
    assert "clip" not in clip
    for options in ({"num_clips": 0}, {"num_crops": 2}):
        with pytest.raises(ValueError, match=rf"expand_views: {next(iter(options))} is .*, allowed are 1"):
            expand_views([clip], **options)


def test_fingerprint(tmp_path: Path) -> None:
    """It stays when list or names are sorted or the data moved, and changes with class, file or range."""
    for place in ("one", "two"):
        touch(tmp_path / place, ["b.mp4", "a.mp4"])
    (tmp_path / "list.csv").write_text("path,label,stop\nb.mp4,run,9\na.mp4,sit,9\n")
    (tmp_path / "sorted.csv").write_text("path,label,stop\na.mp4,sit,9\nb.mp4,run,9\n")
    (tmp_path / "range.csv").write_text("path,label,stop,name\na.mp4,sit,8,a.mp4#0-9\nb.mp4,run,9,b.mp4#0-9\n")
    (tmp_path / "class.csv").write_text("path,label,stop\na.mp4,run,9\nb.mp4,sit,9\n")

    def fingerprint(name: str, place: str = "one", class_names: Sequence[str] = ("run", "sit")) -> str:
        return clips_fingerprint(read_clips(tmp_path / name, tmp_path / place, class_names))

    first = fingerprint("list.csv")
    assert first == fingerprint("sorted.csv") == fingerprint("list.csv", "two", ("sit", "run"))
    (tmp_path / "two" / "a.mp4").write_bytes(b"x")
    others = {fingerprint("range.csv"), fingerprint("class.csv"), fingerprint("list.csv", "two")}
    assert len(others | {first}) == 4
