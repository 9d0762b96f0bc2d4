# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A DICOM SEG beside the label map of every case that came as a DICOM series."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data import FolderLayout, MetaTensor

from cakes_monai.data.dicom_segmentation import (
    SegmentationSource,
    SeriesReferenceError,
    has_highdicom,
    write_dicom_segmentation,
)
from cakes_monai.data.dicom_series import is_dicom_folder
from cakes_monai.handlers.case_names import CaseNames, checked_names

__all__ = ["DicomSegmentationSaver"]

logger = logging.getLogger(__name__)

NEEDED = 'which needs highdicom: pip install "cakes-monai[dicom]"'
CHOICES = {"true": True, "false": False, "auto": "auto"}


class DicomSegmentationSaver:
    """
    Ignite handler that writes the label map of every DICOM series as a DICOM SEG that refers to the series.

    It reads label maps after post-processing, in the geometry of the input (after ``Invertd`` and ``AsDiscreted``).
    ``<case>_seg.dcm`` lies where ``SaveImaged`` with ``output_postfix`` "seg" and ``separate_folder`` false puts the
    NIfTI label map, and has the same voxels. What it contains is said at
    :func:`cakes_monai.data.write_dicom_segmentation`. Cases that are no DICOM series are passed over.

    Args:
        output_dir: folder to write to.
        names: name of label 1, of label 2 and so on.
        enabled: True, False or "auto". "auto" writes where highdicom is installed and the series has what a DICOM SEG
            must refer to, and otherwise logs why not. With True both are errors: the first when the handler is
            attached, the second when all cases are done.
        metadata: the bundle's metadata.json, whose ``name`` and ``version`` are the algorithm's, and whose
            ``dicom_codes``, if there are any, say what the structures are, e.g.
            ``{"pancreas": {"type": ["15776009", "SCT", "Pancreas"]}}``. "" for this package's name and version.
        pred_key: key of the label map, ``(1, D, H, W)``, a ``MetaTensor``.
        image_key: key of the image; it names the series.
        data_root_dir: as for ``SaveImaged``: files keep the folders of their image below it.

    Raises:
        ValueError: for another ``enabled``, without highdicom, for metadata that cannot be read, when a file cannot be
            written, and as said above.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        names: Sequence[str],
        enabled: bool | str = "auto",
        metadata: str | os.PathLike[str] = "",
        pred_key: str = "pred",
        image_key: str = "image",
        data_root_dir: str = "",
    ) -> None:
        if str(enabled).lower() not in CHOICES:
            raise ValueError(f"DicomSegmentationSaver: enabled is {enabled!r}; allowed: true, false and auto.")
        self.enabled = CHOICES[str(enabled).lower()]
        self.names = checked_names(names)
        self.metadata, self.source = metadata, SegmentationSource()
        self.pred_key = pred_key
        self.case_names = CaseNames(image_key, data_root_dir)
        self._layout = FolderLayout(output_dir, postfix="seg", extension=".dcm", data_root_dir=data_root_dir)
        self._failed: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Write after every iteration of ``engine``."""
        if self.enabled is True and not has_highdicom():
            raise ValueError(f"DicomSegmentationSaver: enabled is true, {NEEDED}.")
        if self.enabled:
            self.source = _read_source(self.metadata) if self.metadata else self.source
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Write the cases of the iteration that ``engine`` has completed."""
        for (case, file), output in zip(self.case_names(engine), engine.state.output, strict=True):
            if file and is_dicom_folder(file):
                self._write(case, file, output[self.pred_key])

    def _start(self, engine: Engine) -> None:
        self._failed = []
        self.case_names.start()

    def _write(self, case: str, file: str, labels: Any) -> None:
        if not isinstance(labels, MetaTensor) or labels.ndim != 4 or len(labels) != 1:
            found = f"{type(labels).__name__} of shape {tuple(labels.shape)}"
            raise ValueError(f"{case}: {self.pred_key} is a {found}; allowed is a MetaTensor (1, D, H, W) of labels.")
        if not has_highdicom():
            logger.info("%s: no DICOM SEG, %s.", case, NEEDED)
            return
        voxels, affine = labels[0].numpy(force=True), labels.affine.numpy(force=True)
        target = Path(self._layout.filename(file))
        try:
            write_dicom_segmentation(target, file, voxels, affine, self.names, self.source)
        except SeriesReferenceError as error:
            logger.warning("%s", error)
            self._failed.append(str(error))
        else:
            logger.info("writing: %s", target)

    def _finish(self, engine: Engine) -> None:
        if self._failed and self.enabled is True:
            raise ValueError(f"{len(self._failed)} DICOM series got no DICOM SEG, the first: {self._failed[0]}")


def _read_source(metadata: str | os.PathLike[str]) -> SegmentationSource:
    try:
        content = json.loads(Path(metadata).read_text(encoding="utf-8"))
        return SegmentationSource(content["name"], content["version"], content.get("dicom_codes", {}))
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{metadata}: {error}; allowed: a bundle's metadata.json with name, version and perhaps dicom_codes."
        ) from error
