# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Volumes that are preprocessed once and kept on disk, where memory cannot hold them all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import Compose, Transform
from monai.transforms.traits import RandomizableTrait
from monai.utils import convert_to_tensor

from cakes_monai.atomic_file import written_whole

__all__ = ["DiskCacheDataset"]

logger = logging.getLogger(__name__)

_DIGITS = 24


class DiskCacheDataset(Dataset):
    """
    Dataset that keeps the result of its first transforms on disk, and of it reads what the others need.

    Unlike MONAI's PersistentDataset it maps files instead of reading them, so that a crop of a large volume costs the
    crop; a file is named after the transforms with all their settings and after names, sizes and times of the item's
    files, so that nothing outdated is used; and what a killed process leaves is never half a file. Folds, runs and
    processes share what is the same. Files that are no longer used are not removed.

    Tensors come from the disk without metadata and the history of transforms, so nothing can be inverted.

    Args:
        data: items, dictionaries of paths.
        transform: all transforms.
        cache_dir: folder of the files, made when it does not exist; "" or None keeps nothing, and then tensors have
            their metadata.
        num_cached: number of first transforms whose result is kept; None for those before the first random one.

    Raises:
        ValueError: when a transform whose result is kept is random or cannot be pickled, or there are not as many.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Compose | Sequence[Transform],
        cache_dir: str | os.PathLike[str] | None = None,
        num_cached: int | None = None,
    ) -> None:
        super().__init__(data, transform if isinstance(transform, Compose) else Compose(transform))
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.num_cached = _first_random(self.transform) if num_cached is None else num_cached
        cached = self.transform.transforms[: self.num_cached]
        if _first_random(Compose(cached)) < self.num_cached:
            raise ValueError(f"num_cached is {num_cached}, allowed are up to {_first_random(self.transform)} here.")
        self._settings = _digest_of_transforms(cached) if self.cache_dir else ""

    def _transform(self, index: int) -> Any:
        item = deepcopy(self.data[index])  # transforms may change it
        if self.cache_dir is None:
            return self.transform(item)
        return self.transform(self._cached(item), start=self.num_cached)

    def _cached(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item after the first transforms, from the disk whether or not it was there."""
        path = self.cache_file(item)
        if path.is_file():
            try:
                return _read(path)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                logger.warning("%s: cannot be read and is made anew: %s", path, error)
        made = self.transform(item, end=self.num_cached)
        tensors = {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}
        with written_whole(path) as temporary:
            torch.save(convert_to_tensor(tensors, track_meta=False), temporary)
        return _read(path)

    def cache_file(self, item: Mapping[str, Any]) -> Path:
        """Where the result of the first transforms for this item is kept."""
        assert self.cache_dir is not None
        text = json.dumps([self._settings, {key: _state(value) for key, value in sorted(item.items())}])
        return self.cache_dir / f"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}.pt"


def _first_random(transform: Compose) -> int:
    """Number of transforms before the first whose result is not always the same."""
    kinds = [_is_random(item) for item in transform.transforms]
    return kinds.index(True) if True in kinds else len(kinds)


def _is_random(transform: Any) -> bool:
    """A Compose, which could be, is so only when it has something random."""
    if isinstance(transform, Compose):
        return any(map(_is_random, transform.transforms))
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def _digest_of_transforms(transforms: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for transform in transforms:
        try:
            found.update(pickle.dumps(transform))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"cache_dir: {type(transform).__name__} cannot be told from another one ({error}); allowed are "
                'transforms that can be pickled, or cache_dir "".'
            ) from error
    return found.hexdigest()[:_DIGITS]


def _state(value: Any) -> Any:
    """What changes when a file or a file of a folder does."""
    if not isinstance(value, (str, os.PathLike)) or not Path(value).exists():
        return str(value)
    path = Path(value).absolute()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [str(path), [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]


def _read(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, mmap=True, weights_only=True))
