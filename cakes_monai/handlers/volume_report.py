# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Volumes of the segmented structures of every case, as a table of the whole run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from cakes_monai.handlers.case_names import CaseNames, checked_names
from cakes_monai.handlers.case_table import distinct_cases, gathered_records, write_csv, write_json

__all__ = ["VolumeReport"]

logger = logging.getLogger(__name__)


class VolumeReport:
    """
    Ignite handler that writes the volume of every segmented structure to ``volumes.csv`` and ``volumes.json``.

    It reads label maps after post-processing, in the geometry of the input (after ``Invertd`` and ``AsDiscreted``). The
    CSV has the columns case, file, structure, voxels and volume_ml, the JSON a list with one object a case that also
    has the total. With several processes the first one writes the cases of all.

    Args:
        output_dir: folder to write to.
        names: name of label 1, of label 2 and so on.
        pred_key: key of the label map, ``(1, D, H, W)``, a ``MetaTensor`` whose affine gives the size of a voxel in mm.
        image_key: key of the image whose file names the case.
        filename: name of both files without suffix.
        data_root_dir: as for ``SaveImaged``: cases are named by their path below it. Without it by the file alone,
            then cases of the same file name keep their own rows and differ in the column file.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        names: Sequence[str],
        pred_key: str = "pred",
        image_key: str = "image",
        filename: str = "volumes",
        data_root_dir: str = "",
    ) -> None:
        self.output_dir, self.filename = Path(output_dir), filename
        self.names = checked_names(names)
        self.pred_key = pred_key
        self.case_names = CaseNames(image_key, data_root_dir)
        self._cases: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Start with the epoch of ``engine``, collect after every iteration, write when the epoch is complete."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the tables of all cases seen since the epoch started."""
        cases = distinct_cases(gathered_records(self._cases))
        if idist.get_rank() != 0:
            return
        rows = [
            {"case": case["case"], "file": case["file"], "structure": name, **volume}
            for case in cases
            for name, volume in case["structures"].items()
        ]
        write_csv(self.output_dir / f"{self.filename}.csv", ("case", "file", "structure", "voxels", "volume_ml"), rows)
        write_json(self.output_dir / f"{self.filename}.json", cases)
        logger.info("Volumes in ml, also in %s:\n%s", self.output_dir / f"{self.filename}.csv", self._table(cases))

    def _start(self, engine: Engine) -> None:
        self._cases = []
        self.case_names.start()

    def _collect(self, engine: Engine) -> None:
        for (case, file), output in zip(self.case_names(engine), engine.state.output, strict=True):
            voxels, milliliters = self._measure(case, output[self.pred_key])
            volumes = [{"voxels": v, "volume_ml": round(v * milliliters, 6)} for v in (*voxels, sum(voxels))]
            structures = dict(zip(self.names, volumes[:-1], strict=True))
            self._cases.append({"case": case, "file": file, "structures": structures, "total": volumes[-1]})

    def _measure(self, case: str, labels: torch.Tensor) -> tuple[list[int], float]:
        """Voxels of every structure, and the ml of one voxel."""
        if not isinstance(labels, MetaTensor) or labels.ndim != 4 or len(labels) != 1:
            found = f"{type(labels).__name__} of shape {tuple(labels.shape)}"
            raise ValueError(f"{case}: {self.pred_key} is a {found}; allowed is a MetaTensor (1, D, H, W) of labels.")
        values, count = labels.as_tensor(), len(self.names)
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > count or (values.is_floating_point() and bool((values % 1).any())):
            raise ValueError(
                f"{case}: labels from {low:g} to {high:g}; {count} names allow whole numbers 0 to {count}."
            )
        # not a sum, which makes 64 bits of every voxel
        voxels = [int(torch.count_nonzero(values == label)) for label in range(1, count + 1)]
        return voxels, abs(float(torch.linalg.det(labels.affine[:3, :3].double()))) / 1000

    def _table(self, cases: Sequence[Mapping[str, Any]]) -> str:
        rows = [["case", *self.names, "total"]]
        for case in cases:
            volumes = [*case["structures"].values(), case["total"]]
            rows.append([case["case"], *(f"{v['volume_ml']:.3f}" for v in volumes)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
        return "\n".join("  ".join(row) for row in aligned)
