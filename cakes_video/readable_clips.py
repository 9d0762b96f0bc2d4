# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A data set for training that passes over clips that cannot be read, and says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset

from cakes_video.clip_error import ClipError

__all__ = ["REASON", "UNREADABLE", "ReadableClips"]

UNREADABLE = "unreadable"
REASON = "unreadable_reason"


class ReadableClips(Dataset):
    """
    MONAI data set that takes the next clip of the list in place of one that cannot be read.

    Every item has two more entries: ``"unreadable"``, the paths of the clips passed over, and ``"unreadable_reason"``,
    both with a line for each and empty when all is well. :class:`~cakes_video.unreadable_clips.UnreadableClips` reports
    them, and stops a training that passes over too many. For evaluation take ``monai.data.Dataset``, where the first
    such clip is an error.

    Args:
        data: the clips.
        transform: what loads them; only its :class:`~cakes_video.clip_error.ClipError` is borne.
        video_key: key of the path.
        max_tries: clips that are tried for one item.

    Raises:
        ValueError: when constructed with ``max_tries`` below 1.
        ClipError: when ``max_tries`` clips in a row cannot be read.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
        video_key: str = "video",
        max_tries: int = 10,
    ) -> None:
        super().__init__(data, transform)
        if max_tries < 1:
            raise ValueError(f"ReadableClips: max_tries is {max_tries}, allowed are 1 or more.")
        self.video_key = video_key
        self.max_tries = min(max_tries, len(data))

    def _transform(self, index: int) -> dict[str, Any]:
        failed: list[tuple[str, str]] = []
        for number in range(index, index + self.max_tries):
            place = number % len(self.data)
            try:
                item = super()._transform(place)
            except Exception as error:
                path = str(self.data[place][self.video_key])
                reason = str(_clip_error(error)).removeprefix(f"{path}: ")
                failed.append((path, " ".join(reason.splitlines())))
            else:
                paths, reasons = zip(*failed, strict=True) if failed else ((), ())
                return {**item, UNREADABLE: "\n".join(paths), REASON: "\n".join(reasons)}
        path, reason = failed[0]
        raise ClipError(f"{path}: {reason} The next {self.max_tries - 1} clips cannot be read either.")


def _clip_error(error: BaseException) -> ClipError:
    """Return the ClipError below what MONAI raises in its place; raise ``error`` again when there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ClipError):
        cause = cause.__cause__
    if cause is None:
        raise error
    return cause
