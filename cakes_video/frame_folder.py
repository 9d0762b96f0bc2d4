# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips that are folders of numbered pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cakes_video.clip_error import ClipError, check_frames

__all__ = ["FrameFolder"]

PICTURE = re.compile(r"(.*?)(\d+)(\.(?:jpe?g|png))", re.IGNORECASE | re.DOTALL)
NUMBER = re.compile(r"\{:(?:0(\d+))?d?\}|%(?:0(\d+))?d")  # "{:05d}", "{:05}", "{:d}", "%05d", "%d"


class FrameFolder:
    """
    A folder of pictures named by their numbers, as in the Jester and the first Something-Something data.

    The pictures are shown as they are stored: an orientation in their EXIF data is not followed.

    Args:
        path: the folder.
        template: names of the pictures, ``img_{:05d}.jpg`` or ``img_%05d.jpg``; None: found from the names in the
            folder, where the jpg and png pictures then must be of one kind.
        first: number of the first picture; None: the smallest there is.

    Raises:
        ClipError: for a folder without such pictures, of which some is missing, or whose names are of several kinds.
    """

    fps: float | None = None

    def __init__(self, path: str | os.PathLike[str], template: str | None = None, first: int | None = None) -> None:
        self.path = os.fspath(path)
        names = _names(self.path)
        self._names = _found(self.path, names) if template is None else _Template.read(self.path, template)
        numbers = self._names.numbers(names)
        if not numbers:
            some = f"of its files one is {min(names)}" if names else "it is empty"
            raise ClipError(f"{self.path}: holds no picture named like {self._names}, {some}.")
        self.first = min(numbers) if first is None else first
        self.num_frames = max(numbers) - self.first + 1
        self._check_gaps(numbers)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first picture in pixels."""
        with self._opened(0) as picture:
            return picture.height, picture.width

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """
        Return RGB frames ``(len(indices), H, W, 3)`` in the order of ``indices``.

        Raises:
            ClipError: for an index without frame, and a picture that cannot be read or is not of the first one's size.
        """
        check_frames(self.path, indices, self.num_frames)
        frames = np.empty((len(indices), *self.size, 3), np.uint8)
        places = {index: place for place, index in enumerate(indices)}
        for index, place in places.items():
            frames[place] = self._picture(index)
        for place, index in enumerate(indices):
            if places[index] != place:
                frames[place] = frames[places[index]]
        return frames

    def close(self) -> None:
        """Do nothing, for nothing stays open."""

    def __enter__(self) -> FrameFolder:
        """Return the clip."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the clip."""
        self.close()

    def _check_gaps(self, numbers: set[int]) -> None:
        last = max(numbers)
        missing = next((n for n in range(self.first, last + 1) if n not in numbers), None)
        if missing is None and self.first <= last:
            return
        raise ClipError(
            f"{self.path}: {self._names.name(self.first if missing is None else missing)} is missing, there are "
            f"{len(numbers)} pictures up to {self._names.name(last)}; allowed are consecutive numbers."
        )

    def _opened(self, index: int) -> Image.Image:
        name = self._names.name(self.first + index)
        try:
            return Image.open(Path(self.path, name))
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _picture(self, index: int) -> NDArray[np.uint8]:
        name = self._names.name(self.first + index)
        with self._opened(index) as picture:
            size = picture.height, picture.width
            if size != self.size:
                was = "x".join(map(str, self.size))
                raise ClipError(
                    f"{self.path}: {name} has {size[0]}x{size[1]} pixels, the first picture {was}; allowed is one size."
                )
            try:
                return np.asarray(picture.convert("RGB"))
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for broken parts of a PNG
                raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> ClipError:
        no_picture = isinstance(error, UnidentifiedImageError)
        reason = "it is no picture" if no_picture else " ".join(str(error).split())
        return ClipError(f"{self.path}: {name} cannot be read ({reason}); allowed are whole pictures.")


class _Template(NamedTuple):
    """Names that differ in one number: what is before and behind it, and its least number of digits."""

    before: str
    digits: int
    after: str

    @classmethod
    def read(cls, path: str, text: str) -> _Template:
        parts = list(NUMBER.finditer(text))
        if len(parts) != 1:
            raise ClipError(f"{path}: the template is {text!r}; allowed is one number in it, as in 'img_{{:05d}}.jpg'.")
        digits = int(parts[0][1] or parts[0][2] or 0)
        return cls(text[: parts[0].start()], digits, text[parts[0].end() :])

    def __str__(self) -> str:
        return f"{self.before}{{:0{self.digits}d}}{self.after}" if self.digits else f"{self.before}{{:d}}{self.after}"

    def name(self, number: int) -> str:
        return f"{self.before}{number:0{self.digits}d}{self.after}"

    def numbers(self, names: Sequence[str]) -> set[int]:
        pattern = re.compile(re.escape(self.before) + r"(\d+)" + re.escape(self.after))
        found = {int(match[1]): match[0] for match in map(pattern.fullmatch, names) if match}
        return {number for number, name in found.items() if name == self.name(number)}


def _names(path: str) -> list[str]:
    try:
        return [file.name for file in Path(path).iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise ClipError(f"{path}: cannot be listed ({error.strerror}); allowed is a folder of pictures.") from error


def _found(path: str, names: Sequence[str]) -> _Template:
    """The one template of all names of pictures."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for match in filter(None, map(PICTURE.fullmatch, names)):
        kinds.setdefault((match[1], match[3]), []).append(match[2])
    if not kinds:
        raise ClipError(f"{path}: holds no numbered pictures; allowed are names such as img_00001.jpg, jpg or png.")
    templates = []
    for (before, after), numbers in sorted(kinds.items()):
        padded = any(len(number) > 1 and number[0] == "0" for number in numbers)
        templates.append(_Template(before, min(map(len, numbers)) if padded else 0, after))
    if len(templates) > 1:
        several = ", ".join(map(str, templates[:4]))
        raise ClipError(f"{path}: holds pictures of several kinds, {several}; allowed is one, or a template.")
    return templates[0]
