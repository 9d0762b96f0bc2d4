# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of every case of an evaluation, their summary, and pictures of the best, the median and the worst case."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from cakes_monai.handlers.case_names import CaseNames, checked_names
from cakes_monai.handlers.case_table import distinct_cases, gathered_records, write_csv, write_json
from cakes_monai.plots.contours import draw_planes, save_figure
from cakes_monai.plots.planes import Planes, take_planes

__all__ = ["METRICS", "CaseReport"]

METRICS = {"val_mean_dice": "Dice", "val_hd95": "HD95 mm", "val_surface_dice": "surface Dice"}
SUMMARY: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "std": np.std,
    "median": np.median,
    "min": np.min,
    "max": np.max,
}

logger = logging.getLogger(__name__)


class CaseReport:
    """
    Ignite handler that writes what MONAI's metrics found in every case, one row a case, one column a structure.

    ``cases.csv`` has case, file and for every metric the value of each structure and their mean. ``summary.csv`` and
    ``summary.json`` have the mean, standard deviation (of the population), median, minimum and maximum over the cases.
    A value that is NaN (in MONAI's Dice: the structure is absent in the reference) or infinite (in the Hausdorff
    distance: absent in one of both) stays in ``cases.csv``, is left out of every mean, and is counted as left_out.

    The pictures ``best_<case>.png``, ``median_<case>.png`` and ``worst_<case>.png`` by the mean of the key metric show
    the prediction and, dashed, the reference on the preprocessed image; ``summary.json`` names them, for pictures of
    earlier runs are left in the folder. Until the epoch ends only the three planes of a case that a picture shows are
    kept, in a temporary folder; so memory does not grow with the data set.

    With several processes the first one writes the tables and each draws the cases it holds. Distances are in mm only
    where the metric was given the voxel size, see :class:`~cakes_monai.handlers.SpacedMetric`.

    Args:
        output_dir: folder to write to.
        names: structures in the order of the metrics' columns, without background.
        metrics: name of a metric handler with ``save_details`` -> heading in the tables; by default ``METRICS``.
        key_metric: the metric among them whose mean ranks the cases, more is better.
        image_key: key of the preprocessed image; its file names the case.
        label_key: key of the one-hot reference ``(1 + structures, D, H, W)``, background first.
        pred_key: key of the one-hot prediction.
        pictures: whether to draw.
        data_root_dir: as for ``SaveImaged``: cases are named by their path below it.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        names: Sequence[str],
        metrics: Mapping[str, str] | None = None,
        key_metric: str = "val_mean_dice",
        image_key: str = "image",
        label_key: str = "label",
        pred_key: str = "pred",
        pictures: bool = True,
        data_root_dir: str = "",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.names = checked_names(names)
        self.metrics = dict(METRICS if metrics is None else metrics)
        if len(set(self.metrics.values())) < len(self.metrics):
            raise ValueError(f"metrics: {list(self.metrics.values())}; every metric needs a heading of its own.")
        if key_metric not in self.metrics:
            raise ValueError(f"key_metric: {key_metric!r} is not reported; allowed are {', '.join(self.metrics)}.")
        self.key_metric, self.pictures = key_metric, pictures
        self.image_key, self.label_key, self.pred_key = image_key, label_key, pred_key
        self.case_names = CaseNames(image_key, data_root_dir)
        self._cases: list[dict[str, Any]] = []
        self._folder: Path | None = None

    def attach(self, engine: Engine) -> None:
        """Start with the epoch of ``engine``, collect after every iteration, write when the epoch is complete."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write tables and pictures of all cases seen since the epoch started."""
        gathered = gathered_records(self._cases)
        cases = distinct_cases([{**case, "row": row} for row, case in enumerate(gathered)])
        rows = [case["row"] for case in cases]
        details = {heading: self._details(engine, name, len(gathered)) for name, heading in self.metrics.items()}
        values = {heading: _with_mean(v[rows]) for heading, v in details.items()}
        ranked = values[self.metrics[self.key_metric]]
        chosen = _best_median_worst(ranked[:, -1]) if self.pictures else {}
        if idist.get_rank() == 0:
            self._write_tables(cases, values, {which: _picture(which, cases[i]) for which, i in chosen.items()})
        for which, i in chosen.items():
            if cases[i]["rank"] == idist.get_rank():
                self._draw(which, cases[i], ranked[i])
        self._close()

    def _start(self, engine: Engine) -> None:
        self._close()
        self._cases = []
        self.case_names.start()
        if self.pictures:
            self._folder = Path(mkdtemp(prefix="cakes_monai_"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # when the epoch does not complete

    def _close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def _collect(self, engine: Engine) -> None:
        cases = zip(self.case_names(engine), engine.state.batch, engine.state.output, strict=True)
        for (case, file), batch, output in cases:
            if self._folder is not None:
                planes = self._planes(case, {**batch, **output})
                Path(self._folder, str(len(self._cases))).write_bytes(pickle.dumps(planes))
            self._cases.append({"case": case, "file": file, "rank": idist.get_rank(), "number": len(self._cases)})

    def _planes(self, case: str, item: Mapping[str, Any]) -> Planes:
        maps = []
        for key in (self.pred_key, self.label_key):
            shape, channels = tuple(item[key].shape), len(self.names) + 1
            if shape[0] != channels or len(shape) != 4:
                raise ValueError(f"{case}: {key} has shape {shape}; {channels - 1} names allow ({channels}, D, H, W).")
            maps.append(item[key].to(torch.uint8).argmax(0).cpu().numpy())
        # Without their own affines: the metrics compare voxel by voxel, too, whatever the headers say.
        return take_planes(item[self.image_key][0], maps[0], None, self.names, maps[1])

    def _details(self, engine: Engine, name: str, cases: int) -> NDArray[np.float64]:
        """What the metric ``name`` found: (cases, structures)."""
        details = getattr(engine.state, "metric_details", {})
        if name not in details:
            raise ValueError(
                f"metrics: the engine has no details of {name!r}; allowed are {', '.join(details) or None}."
            )
        values = torch.as_tensor(details[name]).double().cpu().numpy()
        values = values.reshape(len(values), -1)
        if values.shape != (cases, len(self.names)):
            expected = f"{cases} cases and {len(self.names)} names allow {(cases, len(self.names))}"
            raise ValueError(f"metrics: {name} has values of shape {values.shape}; {expected}, without background.")
        return values

    def _write_tables(
        self, cases: Sequence[Mapping[str, Any]], values: Mapping[str, NDArray[np.float64]], pictures: Mapping[str, str]
    ) -> None:
        structures = (*self.names, "mean")
        columns = [f"{heading} {structure}" for heading in values for structure in structures]
        numbers = [[f"{v:.6g}" for v in row] for row in np.concatenate(list(values.values()), axis=1)]
        rows = [
            {"case": case["case"], "file": case["file"], **dict(zip(columns, row, strict=True))}
            for case, row in zip(cases, numbers, strict=True)
        ]
        write_csv(self.output_dir / "cases.csv", ("case", "file", *columns), rows)
        summary = [
            {"metric": heading, "structure": structure, **_summary(column)}
            for heading, table in values.items()
            for structure, column in zip(structures, table.T, strict=True)
        ]
        write_csv(self.output_dir / "summary.csv", list(summary[0]), summary)
        write_json(self.output_dir / "summary.json", {"cases": len(cases), "summary": summary, "pictures": pictures})
        for row in summary:
            logger.info("%(metric)s %(structure)s: %(mean)s +- %(std)s, %(cases)d cases, %(left_out)d left out", row)

    def _draw(self, which: str, case: Mapping[str, Any], values: NDArray[np.float64]) -> None:
        assert self._folder is not None
        planes = pickle.loads(Path(self._folder, str(case["number"])).read_bytes())
        each = ", ".join(f"{name} {value:.3f}" for name, value in zip(self.names, values[:-1], strict=True))
        title = f"{which}: {case['case']}   {self.metrics[self.key_metric]} {values[-1]:.3f} ({each})"
        save_figure(draw_planes(planes, self.names, title), self.output_dir / _picture(which, case))


def _with_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Append the mean of the finite values of every case: (cases, structures + 1)."""
    mean = np.ma.masked_invalid(values).mean(axis=1, keepdims=True).filled(np.nan)
    return np.concatenate([values, mean], axis=1)


def _best_median_worst(scores: NDArray[np.float64]) -> dict[str, int]:
    """Index of the best, worst and (lower) median case, each case at most once, cases without a score never."""
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    if not order:
        return {}
    places = {"best": order[-1], "worst": order[0], "median": order[(len(order) - 1) // 2]}
    return {which: i for n, (which, i) in enumerate(places.items()) if i not in list(places.values())[:n]}


def _summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Number of cases, how many of them have no finite value, and the statistics of the others, None without any."""
    finite = values[np.isfinite(values)]
    statistics = {name: float(f"{of(finite):.6g}") if finite.size else None for name, of in SUMMARY.items()}
    return {"cases": len(values), "left_out": len(values) - len(finite), **statistics}


def _picture(which: str, case: Mapping[str, Any]) -> str:
    return f"{which}_{case['case'].replace('/', '_')}.png"
