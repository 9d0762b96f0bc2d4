# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The fine stage of C2FNAS after its training: candidates are ranked, the best becomes architecture.json."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from monai.utils import ensure_tuple, str2bool
from torch import Tensor, nn

from cakes_monai import __version__
from cakes_monai.architecture import Architecture
from cakes_monai.nets import C2FNASOperationSupernet
from cakes_monai.plots import draw_topology, save_figure
from cakes_monai.search import Trial, best_trial, draw_candidates
from cakes_monai.search.engine import Engine, Task, make_engine
from cakes_monai.search.journal_lock import JournalLock
from cakes_monai.workflows.candidate_chunk import MAX_STARTS, chunk_folder, ended_candidates
from cakes_monai.workflows.candidate_evaluation import norms_with_statistics, remove_images, write_images, write_weights
from cakes_monai.workflows.candidate_table import CandidateTable

__all__ = ["OperationRanking"]

logger = logging.getLogger(__name__)

_FUNCTION = "cakes_monai.workflows.candidate_chunk:score_candidates"


class OperationRanking:
    """
    Rank random candidates by their validation Dice with the weights of the super-network (C2FNAS, sections 3.4, 4.1).

    Candidates are evaluated in chunks, each a task of an engine; every score is on the disk when the next candidate
    begins. A ranking that was killed goes on with the candidates without a score. At the end ``output_dir`` has
    architecture.json (what train.json reads), candidates.json and candidates.csv (sorted by score), candidates.png
    (histogram) and architecture.png.

    Args:
        network: the super-network, trained when :meth:`run` is called.
        output_dir: folder to write to; the state of the ranking is in its folder "ranking".
        architecture: the file from which the topology was taken, or the name of a published one, for the origin.
        validation: a dataset of preprocessed items with image and label.
        training: a loader of batches, used for networks with BatchNorm only.
        inferer: arguments of MONAI's SlidingWindowInferer.
        class_names: names of the classes but the background.
        candidates: how many are drawn, 2000 in the paper.
        seed: of the draw.
        data: fingerprint of the data, for the origin and against mixing rankings.
        amp: whether to use bfloat16 where the device has it; also "true" and "false".
        execution: how CAKES layers are run.
        engine: what runs the tasks: "processes" of this machine or "ray".
        slots: tasks at the same time, an option of the engine "processes"; None for its default.
        engine_options: further options of the engine.
        chunk_size: candidates of one task.
        norm_batches: training batches from which each candidate's running statistics are collected, if its norm has
            such.
        resume: whether to go on with the scores in ``output_dir``; also "true" and "false".

    Raises:
        ValueError: for wrong settings, and as :func:`~cakes_monai.search.draw_candidates`.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | os.PathLike[str],
        architecture: str | os.PathLike[str],
        validation: Sequence[Mapping[str, Any]],
        training: Iterable[Any],
        inferer: Mapping[str, Any],
        class_names: Sequence[str],
        candidates: int = 2000,
        seed: int = 0,
        data: str | None = None,
        amp: bool | str = True,
        execution: str = "dense",
        engine: str = "processes",
        slots: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
        chunk_size: int = 20,
        norm_batches: int = 8,
        resume: bool | str = False,
    ) -> None:
        bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        if not isinstance(bare, C2FNASOperationSupernet):
            raise ValueError(f"operations are ranked with a C2FNASOperationSupernet, not with a {type(bare).__name__}.")
        overlap = inferer.get("overlap", 0.25)
        if not all(0 <= part < 1 for part in ensure_tuple(overlap)):
            raise ValueError(f"overlap is {overlap}, allowed is from 0 to below 1.")
        if len(class_names) != bare.out_channels - 1:
            raise ValueError(f"{len(class_names)} class names, the network has {bare.out_channels - 1} classes.")
        for name, number in (("chunk_size", chunk_size), ("norm_batches", norm_batches)):
            if number < 1:
                raise ValueError(f"{name} is {number}, allowed is 1 or more.")
        self.network = bare
        self.output_dir, self.folder = Path(output_dir), Path(output_dir) / "ranking"
        self.parent = architecture
        self.validation, self.training = validation, training
        self.inferer = dict(inferer)
        self.class_names = list(class_names)
        self.candidates = draw_candidates(seed, candidates, bare.num_cells, bare.operations)
        self.seed, self.data, self.resume = seed, data, str2bool(resume)
        self.evaluation = {"network": bare.settings, "inferer": self.inferer, "amp": str2bool(amp)}
        self.execution = execution
        self.engine = {"name": engine, **(engine_options or {}), **({} if slots is None else {"slots": slots})}
        self.chunk_size = chunk_size
        self.norm_batches = norm_batches if norms_with_statistics(bare) else 0

    def check(self) -> None:
        """
        Find out before the training whether its result can be ranked.

        Raises:
            ValueError: when the topology is another one than that of ``architecture``, that file would be overwritten,
                the engine cannot be made, or there are scores already and ``resume`` is not set.
        """
        topology, output = Architecture.find(self.parent).topology, self.output_dir / "architecture.json"
        if topology != self.network.topology:
            raise ValueError(f"{self.parent}: has levels {list(topology.levels)}, the super-network has others.")
        if Path(self.parent).resolve() == output.resolve():
            raise ValueError(f"{output}: gives the topology and would be overwritten; choose another output_dir.")
        self._make_engine().close()
        if not self.resume and any(trial.score is not None for trial in ended_candidates(self.folder).values()):
            raise ValueError(f"{self.folder}: has scores of an earlier run; use --resume True, or delete it.")

    def run(self) -> Architecture:
        """
        Evaluate the candidates that have no score yet, and write what was found.

        Raises:
            ValueError: when there are scores of another search, another process ranks in the same folder, or no
                candidate could be evaluated.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the memory of the training is for the tasks
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = JournalLock(self.folder / "driver")
        try:
            ended = self._evaluated()
            remove_images(self.folder)
        finally:
            lock.release()
        best = best_trial(ended[candidate] for candidate in self.candidates)
        if best is None:
            raise ValueError(f"no candidate has a score; the first failed: {ended[self.candidates[0]].failures[-1]}")
        size = self.inferer["roi_size"]
        table = CandidateTable.of(self.network, self.candidates, ended, self.class_names, size)
        found = self.network.derived(table.rows[0]["operations"], self._origin(table))
        table.save(self.output_dir)
        save_figure(draw_topology(found), self.output_dir / "architecture.png")
        found.save(self.output_dir / "architecture.json")
        logger.info(
            "Found, in %s: %s, Dice %.4f with the super-network's weights.",
            self.output_dir / "architecture.json",
            " ".join(table.rows[0]["operations"]),
            table.scores[0],
        )
        return found

    @property
    def search(self) -> dict[str, Any]:
        """What scores must have in common to be compared."""
        statistics = {"batches": self.norm_batches, "seed": self.seed} if self.norm_batches else None
        weights = _digest(self.network.state_dict())
        return {**self.evaluation, "weights": weights, "statistics": statistics, "data": self.data}

    def _evaluated(self) -> dict[tuple[str, ...], Trial]:
        """The trials of all candidates."""
        search = self.search
        if not any(trial.score is not None for trial in ended_candidates(self.folder).values()):
            for path in self.folder.glob("chunk_*"):  # what failed before the first score shall not stay failed
                shutil.rmtree(path)
        ended = ended_candidates(self.folder, search)
        if set(self.candidates) - ended.keys():
            write_weights(self.folder, self.network.state_dict())
            write_images(self.folder, self.validation, self.training, self.norm_batches, self.seed)
        while remaining := [candidate for candidate in self.candidates if candidate not in ended]:
            before = len(ended)
            error = self._evaluate(remaining, search)
            ended = ended_candidates(self.folder, search)
            if len(ended) == before:
                raise ValueError(f"{len(remaining)} candidates could not be evaluated: {error}")
        return ended

    def _evaluate(self, candidates: Sequence[tuple[str, ...]], search: Mapping[str, Any]) -> str | None:
        """Run all chunks once; what was wrong with the last that failed."""
        evaluation = {"folder": str(self.folder.absolute()), **self.evaluation, "execution": self.execution}
        tasks = []
        for number, start in enumerate(range(0, len(candidates), self.chunk_size)):
            chunk = candidates[start : start + self.chunk_size]
            arguments = {"evaluation": evaluation, "search": search, "candidates": chunk}
            tasks.append(Task(number, _FUNCTION, arguments, chunk_folder(self.folder, chunk)))
        waiting, error = list(tasks), None
        with self._make_engine() as engine:
            while waiting or engine.running:
                while waiting and engine.free_slots:
                    engine.submit(waiting.pop(0))
                result = engine.next_finished()
                if result is None:  # no machine at the moment
                    time.sleep(1)
                    continue
                if result.error is not None:
                    error = f"{result.error}; see {tasks[result.index].folder / 'log.txt'}"
                self._report(search, error)
        return error

    def _report(self, search: Mapping[str, Any], error: str | None) -> None:
        """Log how far it is; an error before the first score would only be repeated."""
        ended = ended_candidates(self.folder, search)
        if (best := best_trial(ended.values())) is None:
            if error is not None:
                raise ValueError(f"no candidate could be evaluated: {error}")
            return
        if error is not None:
            logger.warning("Candidates are evaluated again: %s", error)
        logger.info("Evaluated %d of %d candidates, best Dice %.4f.", len(ended), len(self.candidates), best.score)

    def _make_engine(self) -> Engine:
        return make_engine(**{"max_losses": MAX_STARTS, "max_retries": MAX_STARTS - 1, **self.engine})

    def _origin(self, table: CandidateTable) -> dict[str, Any]:
        return {
            "stage": "operations",
            "operations": list(self.network.operations),
            "seed": self.seed,
            "candidates": len(table.rows),
            "failed": len(table.rows) - len(table.scores),
            "score": table.scores[0],
            "versions": {"cakes_monai": __version__, "torch": str(torch.__version__), "monai": monai.__version__},
            "data": self.data,
            "topology": dict(Architecture.find(self.parent).origin),
        }


def _digest(state: Mapping[str, Tensor]) -> str:
    """Twelve letters that stand for weights."""
    found = hashlib.sha256()
    for name, value in state.items():
        found.update(name.encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()[:12]
