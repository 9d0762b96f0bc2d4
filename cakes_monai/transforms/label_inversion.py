# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From class probabilities on the network's grid to labels on that of the file, within bounded memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SpatialResample, Transform
from monai.utils import MetaKeys

__all__ = ["InvertLabels", "InvertLabelsd"]

SLAB_VOXELS = 2**23  # of the result at a time; MONAI takes about 40 bytes and 4 for each class of one


class InvertLabels(Transform):
    """
    Class probabilities after Orientation and Spacing as the label map of the image they were computed for.

    Gives what ``Invert`` and then ``AsDiscrete(argmax=True)`` give: probabilities are interpolated linearly, the border
    is repeated, the most probable class wins. But these hold all classes, and the coordinates, of all voxels of the
    file in memory, several GB of a large CT. Here the label map is made slab by slab.

    Args:
        slab_voxels: voxels of a slab, at least one plane.

    Raises:
        ValueError: when the probabilities do not know the geometry of the file, as MONAI's ``LoadImage`` leaves it.

    Shapes:
        - input: ``(classes, D, H, W)``, a ``MetaTensor``
        - output: ``(1, *spatial_shape)`` of the file, uint8
    """

    def __init__(self, slab_voxels: int = SLAB_VOXELS) -> None:
        self.slab_voxels = slab_voxels
        self.resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float32)

    def __call__(self, probabilities: torch.Tensor) -> MetaTensor:
        """Return the label map, on the device of the probabilities."""
        affine, shape = _geometry(probabilities)
        labels = torch.empty(shape, dtype=torch.uint8, device=probabilities.device)
        thickness = max(1, self.slab_voxels // (shape[1] * shape[2]))
        for start in range(0, shape[0], thickness):
            slab = labels[start : start + thickness]
            corner = torch.eye(4, dtype=torch.float64)
            corner[0, 3] = start
            resampled = self.resample(probabilities, dst_affine=affine @ corner, spatial_size=slab.shape)
            slab.copy_(torch.as_tensor(resampled).argmax(0))
        meta = {**probabilities.meta, MetaKeys.AFFINE: affine}  # type: ignore[attr-defined]  # it is a MetaTensor
        return MetaTensor(labels[None], meta=meta)


class InvertLabelsd(Invertd):
    """
    Dictionary form of :class:`InvertLabels`, in the place of ``Invertd`` and ``AsDiscreted``.

    It is an ``Invertd`` because MONAI Label leaves those out where it scores images by the entropy of predictions:
    what is left then are the probabilities that an entropy is of, instead of labels.

    Args:
        keys: keys of the probabilities.
        allow_missing_keys: whether a missing key is passed over.

    Raises:
        ValueError: see :class:`InvertLabels`.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, Compose(), allow_missing_keys=allow_missing_keys)  # it takes the geometry from the keys
        self.invert = InvertLabels()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with label maps."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.invert(result[key])
        return result


def _geometry(image: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Affine and spatial shape of the file."""
    meta = image.meta if isinstance(image, MetaTensor) else {}
    if not {MetaKeys.ORIGINAL_AFFINE, MetaKeys.SPATIAL_SHAPE} <= meta.keys() or image.ndim != 4:
        raise ValueError(
            f"InvertLabels: {type(image).__name__} of shape {tuple(image.shape)}; allowed is a MetaTensor (classes, "
            "D, H, W) with original_affine and spatial_shape, as LoadImage leaves them."
        )
    affine = torch.as_tensor(meta[MetaKeys.ORIGINAL_AFFINE]).double().cpu()
    depth, height, width = (int(size) for size in meta[MetaKeys.SPATIAL_SHAPE])
    return affine, (depth, height, width)
