# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A picture of every case's segmentation beside its label map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import FolderLayout, ITKReader, MetaTensor
from monai.transforms import LoadImage, ResampleToMatch

from cakes_monai.handlers.case_names import CaseNames, checked_names
from cakes_monai.plots.contours import draw_contours, save_figure

__all__ = ["ContourPictures"]


class ContourPictures:
    """
    Ignite handler that draws the contours of every segmented case on the image as it was before preprocessing.

    The image is read once more from its file (a folder by ITK, as a DICOM series); a label map in another geometry is
    resampled to it. ``<case>_seg.png`` lies where ``SaveImaged`` with ``output_postfix`` "seg" and ``separate_folder``
    false puts the label map.

    Args:
        output_dir: folder to write to.
        names: name of label 1, of label 2 and so on.
        pred_key: key of the label map, ``(1, D, H, W)``.
        image_key: key of the image; it names the file.
        data_root_dir: as for ``SaveImaged``: pictures keep the folders of their image below it.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        names: Sequence[str],
        pred_key: str = "pred",
        image_key: str = "image",
        data_root_dir: str = "",
    ) -> None:
        self.names = checked_names(names)
        self.pred_key, self.image_key = pred_key, image_key
        self.case_names = CaseNames(image_key, data_root_dir)
        self._load = LoadImage(image_only=True, ensure_channel_first=True)
        self._layout = FolderLayout(output_dir, postfix="seg", extension=".png", data_root_dir=data_root_dir)

    def attach(self, engine: Engine) -> None:
        """Draw after every iteration of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the cases of the iteration that ``engine`` has completed."""
        cases = zip(self.case_names(engine), engine.state.batch, engine.state.output, strict=True)
        for (case, file), batch, output in cases:
            image = self._read(file) if file else {**batch, **output}[self.image_key]
            labels = _on_grid(output[self.pred_key], image)
            figure = draw_contours(image[0], labels[0], None, self.names, title=case)
            save_figure(figure, Path(self._layout.filename(file or case)))

    def _start(self, engine: Engine) -> None:
        self.case_names.start()

    def _read(self, file: str) -> Any:
        return self._load(file, reader=ITKReader() if Path(file).is_dir() else None)


def _on_grid(labels: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Label map on the voxels of ``image``: another reader may have turned the axes, or nothing was inverted."""
    if not isinstance(labels, MetaTensor) or not isinstance(image, MetaTensor):
        return labels
    same_place = np.allclose(labels.affine.cpu(), image.affine.cpu(), rtol=1e-3, atol=1e-2)
    if same_place and labels.shape[1:] == image.shape[1:]:
        return labels
    return ResampleToMatch(mode="nearest", padding_mode="zeros")(labels.cpu(), image.cpu())
