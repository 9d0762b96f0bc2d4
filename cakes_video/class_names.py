# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of classes: where they are read, how two lists of them are matched, and what a mirror makes of them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "check_class_names",
    "class_order",
    "mirrored_labels",
    "read_class_names",
    "unflippable_labels",
    "without_brackets",
]

MAX_LISTED = 3  # classes in a message
ALLOWED = 'allowed: a name a line, or JSON {"name": 0, ...} or ["name", ...]'
SIDES = {"left": "right", "clockwise": "counterclockwise"}
MIRROR = {**SIDES, **{other: one for one, other in SIDES.items()}}
ENDING = re.compile(r"(left|right)(wards?|most|hand|handed)")
NUMBERED = re.compile(r"(\d+)[\s,;]+(\S.*)")


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """
    Names of classes as a tuple, the first for label 0.

    Raises:
        ValueError: when it is a single string, is empty, or holds a name twice or something that is no name.
    """
    if isinstance(class_names, str) or not class_names:
        raise ValueError(f"class_names: {class_names!r}; allowed is a list of different names, the first for label 0.")
    if wrong := [name for name in class_names if not isinstance(name, str) or not name.strip()]:
        raise ValueError(f"class_names: {wrong[0]!r} is no name; allowed are texts that are not empty.")
    name, count = Counter(class_names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"class_names: {name!r} stands there {count} times; allowed are different names.")
    return tuple(class_names)


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """
    Read the names of classes in the order of their labels.

    Args:
        path: JSON ``["name", ...]`` or ``{"name": "0", ...}`` (Something-Something V2), or a text with one name a line
            (V1), which may have its number before it, counted from 0 or 1 (``classInd.txt`` of UCF101).

    Raises:
        ValueError: when the file is absent or anything else, and as in :func:`check_class_names`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {ALLOWED}.")
    text = path.read_text(encoding="utf-8-sig")
    try:
        return check_class_names(_names_in_json(text) if path.suffix.lower() == ".json" else _names_in_lines(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def without_brackets(name: str) -> str:
    """Name of a class as the labels of Something-Something V2 write it: ``"Holding [something]"`` without brackets."""
    return " ".join(name.replace("[", "").replace("]", "").split())


def class_order(checkpoint_names: Sequence[str], data_names: Sequence[str]) -> list[int]:
    """
    Labels of the checkpoint's classes in the order of the data's.

    Lists of classes order the same classes differently; matched by index they give wrong results without a word.

    Args:
        checkpoint_names: names a network was trained with, the first for its output 0.
        data_names: names of the data, the same ones in any order or some of them.

    Returns:
        For each label of the data that of the checkpoint; ``scores[:, order]`` are in the order of the data.

    Raises:
        ValueError: when a class of the data is none of the checkpoint, naming the first ones.

    Example:
        >>> class_order(["jump", "run", "sit"], ["sit", "jump"])
        [2, 0]
    """
    labels = {name: label for label, name in enumerate(check_class_names(checkpoint_names))}
    missing = [name for name in check_class_names(data_names) if name not in labels]
    if missing:
        more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise ValueError(
            f"class_names: {len(missing)} of the {len(data_names)} classes of the data are unknown to the checkpoint: "
            f"{', '.join(map(repr, missing[:MAX_LISTED]))}{more}; allowed are its {len(labels)} classes in any order."
        )
    return [labels[name] for name in data_names]


def mirrored_labels(class_names: Sequence[str]) -> dict[int, int]:
    """
    Labels that swap when a clip is flipped horizontally, each with the other one.

    Two classes swap when their names become each other by exchanging left and right (also leftwards, left-hand,
    SwipeLeft), clockwise and counterclockwise; case, brackets and punctuation do not count.

    Example:
        >>> mirrored_labels(["Pulling something from left to right", "Waving", "Pulling something from right to left"])
        {0: 2, 2: 0}
    """
    words = [_words(name) for name in check_class_names(class_names)]
    labels = {one: label for label, one in enumerate(words) if words.count(one) == 1}
    pairs = {label: labels.get(_mirror(one)) for label, one in enumerate(words) if _is_sided(one) and one in labels}
    return {label: other for label, other in pairs.items() if other is not None}


def unflippable_labels(class_names: Sequence[str]) -> frozenset[int]:
    """Labels whose clips must not be flipped: their names speak of a side, and no class is their mirror image."""
    sided = {label for label, name in enumerate(class_names) if _is_sided(_words(name))}
    return frozenset(sided - mirrored_labels(class_names).keys())


def _words(name: str) -> tuple[str, ...]:
    """Lower-case words of a name, the sides as words of their own: ``SwipeLeft`` gives swipe, left."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    text = re.sub(r"[^\w]|_", " ", apart).lower()
    text = re.sub(r"\b(counter|anti) ?clockwise\b", "counterclockwise", text)
    return tuple(part for word in text.split() for part in _parts(word))


def _parts(word: str) -> tuple[str, ...]:
    match = ENDING.fullmatch(word)
    return match.groups() if match else (word,)


def _is_sided(words: Sequence[str]) -> bool:
    return any(word in MIRROR for word in words)


def _mirror(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(MIRROR.get(word, word) for word in words)


def _names_in_json(text: str) -> list[Any]:
    content = json.loads(text)
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
        raise ValueError(f"its values are not the numbers from 0 without gaps; {ALLOWED}.")
    return sorted(content, key=lambda name: int(content[name]))


def _names_in_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [match.groups() for line in lines if (match := NUMBERED.fullmatch(line))]
    first = int(numbered[0][0]) if numbered else -1
    if first in (0, 1) and [int(number) for number, _ in numbered] == list(range(first, first + len(lines))):
        return [name for _, name in numbered]
    return [re.sub(r'^"(.*)"$', r"\1", line) for line in lines]
