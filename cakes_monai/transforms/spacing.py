# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Spacingd for data that holds more than images, as MONAI Label's does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Spacingd

__all__ = ["SpacingSafed"]


class SpacingSafed(Spacingd):
    """
    ``Spacingd`` that leaves entries such as MONAI Label's ``image_path`` alone.

    Since MONAI 1.6.0 ``Spacingd`` calls ``.update()`` on every entry whose key starts with ``"<key>_"``, which fails
    with an AttributeError when that entry is a string. Here it sees only the images and the metadata dictionaries;
    everything else is in the result unchanged. Takes the arguments of ``Spacingd`` and can be inverted as it can.

    Example:
        >>> SpacingSafed(keys="image", pixdim=(1, 1, 1))({"image": image, "image_path": "case5.nii.gz"})
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resample the images of ``data``; arguments as for ``Spacingd``."""
        seen = {key: value for key, value in data.items() if key in self.keys or _is_metadata(key, value)}
        return {**data, **super().__call__(seen, lazy)}


def _is_metadata(key: Hashable, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, dict)
