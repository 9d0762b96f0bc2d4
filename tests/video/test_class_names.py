# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of classes: reading, matching by name, and mirror images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cakes_video.class_names import (
    check_class_names,
    class_order,
    mirrored_labels,
    read_class_names,
    unflippable_labels,
    without_brackets,
)

# The classes of Something-Something that speak of a side, and some that only seem to; labels as in version 2.
SOMETHING_V2 = {
    86: "Pulling something from left to right",
    87: "Pulling something from right to left",
    93: "Pushing something from left to right",
    94: "Pushing something from right to left",
    118: "Putting something that can't roll onto a slanted surface, so it stays where it is",
    120: "Putting something upright on the table",
    164: "Turning something upside down",
    166: "Turning the camera left while filming something",
    167: "Turning the camera right while filming something",
    168: "Turning the camera upwards while filming something",
}
JESTER = [
    "Swiping Left",
    "Swiping Right",
    "Swiping Down",
    "Turning Hand Clockwise",
    "Turning Hand Counterclockwise",
    "Sliding Two Fingers Left",
    "Sliding Two Fingers Right",
    "Stop Sign",
]


def test_sides_of_something_v2() -> None:
    """The three pairs that the published code hard-codes for version 2 follow from the names, and no other."""
    names = [SOMETHING_V2.get(label, f"class {label}") for label in range(174)]
    assert mirrored_labels(names) == {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}
    assert unflippable_labels(names) == frozenset()


def test_sides_with_brackets() -> None:
    """Brackets around the objects, as in templates and in some lists of version 1, do not hide a mirror image."""
    names = ["Pushing [something] from left to right", "Holding [something]", "Pushing something from right to left"]
    assert mirrored_labels(names) == {0: 2, 2: 0}


def test_sides_of_jester() -> None:
    """Clockwise and counterclockwise mirror each other, too."""
    assert mirrored_labels(JESTER) == {0: 1, 1: 0, 3: 4, 4: 3, 5: 6, 6: 5}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("swipe_left", "swipe_right"),
        ("SwipeLeft", "SwipeRight"),
        ("Moving leftwards", "Moving rightwards"),
        ("left-hand wave", "right hand wave"),
        ("Turn counter-clockwise", "Turn clockwise"),
        ("Turn anticlockwise", "Turn clockwise"),
        ("LEFT", "right"),
    ],
)
def test_spellings_of_sides(one: str, other: str) -> None:
    """Underscores, joined words, endings and case do not hide a side."""
    assert mirrored_labels([one, "wave", other]) == {0: 2, 2: 0}


@pytest.mark.parametrize("name", ["Standing upright", "Bright light", "Copyright", "Cleft", "Playing outright"])
def test_sides_within_words_do_not_count(name: str) -> None:
    """A word that contains the letters of a side speaks of none."""
    assert mirrored_labels([name, "left", "right"]) == {1: 2, 2: 1}
    assert unflippable_labels([name]) == frozenset()


def test_sides_without_mirror_image() -> None:
    """A class that speaks of a side must not be flipped when the other side is no class."""
    names = ["Turning left", "Waving", "Pulling from left to right", "Pulling from right to left", "Left and right"]
    assert mirrored_labels(names) == {2: 3, 3: 2}
    assert unflippable_labels(names) == {0, 4}


def test_ambiguous_mirror_image() -> None:
    """Two classes that differ in case only are no mirror image of a third."""
    assert mirrored_labels(["turn left", "turn right", "Turn Right"]) == {}
    assert unflippable_labels(["turn left", "turn right", "Turn Right"]) == {0, 1, 2}


@pytest.mark.parametrize("names", [JESTER, ["left", "right", "x left", "clockwise left", "counterclockwise right"]])
def test_mirroring_twice_changes_nothing(names: list[str]) -> None:
    """The map is an involution without fixed points, and apart from the unflippable labels."""
    mirrored = mirrored_labels(names)
    assert all(mirrored[other] == label and other != label for label, other in mirrored.items())
    assert not unflippable_labels(names) & mirrored.keys()


def test_class_order() -> None:
    """The scores of a checkpoint, taken in the order, stand under the names of the data."""
    checkpoint, data = ["jump", "run", "sit", "walk"], ["sit", "jump", "walk"]
    order = class_order(checkpoint, data)
    assert [checkpoint[label] for label in order] == data
    assert class_order(data, data) == [0, 1, 2]


def test_unknown_classes_are_refused() -> None:
    """Classes that the checkpoint lacks are an error that names the first ones."""
    message = (
        r"4 of the 5 classes of the data are unknown to the checkpoint: 'b', 'c', 'd' and 1 more; allowed are its 1"
    )
    with pytest.raises(ValueError, match=message):
        class_order(["a"], ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("jump", "class_names: 'jump'; allowed is a list"),
        ([], "class_names: .*; allowed is a list"),
        (["a", "b", "a"], "class_names: 'a' stands there 2 times"),
        (["a", " "], "class_names: ' ' is no name"),
        (["a", 3], "class_names: 3 is no name"),
    ],
)
def test_names_that_are_refused(names: list[str], message: str) -> None:
    """A text, nothing, doubles and what is no name are errors."""
    with pytest.raises(ValueError, match=message):
        check_class_names(names)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", json.dumps({"run": "1", "jump, high": "0"})),
        ("labels.json", json.dumps(["jump, high", "run"])),
        ("labels.csv", "jump, high\nrun\n"),
        ("labels.csv", '"jump, high"\r\n"run"\r\n'),
        ("classInd.txt", "1 jump, high\n2 run\n"),
        ("classes.txt", "0 jump, high\n1 run\n"),
    ],
)
def test_files_of_names(tmp_path: Path, name: str, text: str) -> None:
    """Every form of the file gives the names in the order of the labels."""
    (tmp_path / name).write_text(text)
    assert read_class_names(tmp_path / name) == ("jump, high", "run")


def test_numbers_that_belong_to_the_names(tmp_path: Path) -> None:
    """Numbers that do not count the lines stay in the names."""
    (tmp_path / "classes.txt").write_text("100 metres\n400 metres\n")
    assert read_class_names(tmp_path / "classes.txt") == ("100 metres", "400 metres")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "labels.json",
            '{"run": "1", "jump": "2"}',
            r"labels.json: its values are not the numbers from 0 without gaps",
        ),
        ("labels.json", "{", r"labels.json: Expecting property name"),
        ("labels.csv", "run\nrun\n", r"labels.csv: class_names: 'run' stands there 2 times"),
        ("labels.csv", "", r"labels.csv: class_names: \[\]; allowed is a list"),
    ],
)
def test_broken_files_of_names(tmp_path: Path, name: str, text: str, message: str) -> None:
    """A file that gives no different names is an error that says which."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_names(tmp_path / name)


def test_missing_file_of_names(tmp_path: Path) -> None:
    """A missing file is said to be missing."""
    with pytest.raises(ValueError, match=r"labels.csv: no such file; allowed: a name a line"):
        read_class_names(tmp_path / "labels.csv")


def test_brackets() -> None:
    """A template without brackets is the name in the labels file of version 2."""
    assert without_brackets("[Something] falling  like a [rock]") == "Something falling like a rock"
