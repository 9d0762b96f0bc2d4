# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights and training states that survive a kill at any moment."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.networks.utils import get_state_dict
from monai.utils import ensure_tuple, str2bool
from torch import nn

from cakes_monai.atomic_file import written_whole

__all__ = ["ModelLoader", "ModelSaver", "TrainingCheckpoint"]

logger = logging.getLogger(__name__)


class ModelSaver:
    """
    Write the network's weights: those of the best validation, or those at the end of the training.

    Unlike MONAI's CheckpointSaver it never leaves half a file, and after a resume it keeps the best of the whole
    training, not of the part since the resume.

    Args:
        path: where to, usually ``models/model.pt``.
        network: its state dict is written, without a prefix of DistributedDataParallel.
        validator: its key metric says what is best.
        select: "best", or "last" for a fixed schedule in which the validation chooses nothing. Without any validation
            "best" writes the last weights.

    Raises:
        ValueError: for any other ``select``.
    """

    def __init__(
        self, path: str | os.PathLike[str], network: nn.Module, validator: Evaluator, select: str = "best"
    ) -> None:
        if select not in ("best", "last"):
            raise ValueError(f"unknown select {select!r}, allowed are 'best' and 'last'.")
        self.path = Path(path)
        self.network = network
        self.validator = validator
        self.select = select

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.COMPLETED, self._completed)
        if self.select == "best":
            self.validator.add_event_handler(Events.COMPLETED, self._validated)

    def _validated(self, validator: Engine) -> None:
        if validator.state.best_metric_epoch == validator.state.epoch:
            self._save()

    def _completed(self, trainer: Engine) -> None:
        if self.select == "last" or self.validator.state.best_metric_epoch < 0:
            self._save()

    def _save(self) -> None:
        if idist.get_rank() == 0:
            with written_whole(self.path) as temporary:
                torch.save(get_state_dict(self.network), temporary)
            logger.info("Saved %s.", self.path)


class TrainingCheckpoint:
    """
    Write after every epoch all that a training needs to go on, and go on from it.

    A training killed at any moment and resumed continues with the epoch it was in, with the same learning rate, best
    metric and (together with :class:`EpochSeed`) random numbers, and ends bit by bit where it would have ended.

    Args:
        path: where to. Not ``models/``: MONAI Label takes the weights file with the shortest name there.
        objects: what has a ``state_dict``, by name: network, optimizer ...
        validator: its best metric and the epoch of it are kept as well.
        identity: what must be the same when resuming, by name: fold, seed, architecture ...
        resume: whether to go on from ``path``; when the file does not exist the training starts anew. Also "true" and
            "false", which is what a command line gives.
        interval: epochs between two checkpoints; the last epoch is always saved.

    Raises:
        ValueError: for a ``resume`` that is neither, and when the checkpoint is not of this training.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        objects: Mapping[str, Any],
        validator: Evaluator | None = None,
        identity: Mapping[str, Any] | None = None,
        resume: bool | str = False,
        interval: int = 1,
    ) -> None:
        self.path = Path(path)
        self.objects = objects
        self.validator = validator
        self.identity = dict(identity or {})
        self.resume = str2bool(resume)
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after everything whose effect the checkpoint must hold."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, trainer: Engine) -> None:
        last = trainer.state.epoch == trainer.state.max_epochs or trainer.should_terminate
        if idist.get_rank() != 0 or not (last or trainer.state.epoch % self.interval == 0):
            return
        content = {
            "identity": self.identity,
            "epoch": trainer.state.epoch,
            "iteration": trainer.state.iteration,
            "objects": {name: get_state_dict(item) for name, item in self.objects.items()},
        }
        if self.validator is not None:
            state = self.validator.state
            content["best_metric"], content["best_metric_epoch"] = float(state.best_metric), state.best_metric_epoch
        with written_whole(self.path) as temporary:
            torch.save(content, temporary)

    def _load(self, trainer: Engine) -> None:
        if not self.path.exists():
            logger.info("Nothing to resume: %s does not exist; a new training starts.", self.path)
            return
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, value in self.identity.items():
            if content["identity"].get(name) != value:
                other, own = _in_a_line(content["identity"].get(name)), _in_a_line(value)
                raise ValueError(
                    f"{self.path}: was written with {name} {other}, this training has {own}; resume with the same or "
                    f"start anew with --resume false."
                )
        for name, item in self.objects.items():
            _unwrapped(item).load_state_dict(content["objects"][name])
        trainer.state.epoch, trainer.state.iteration = content["epoch"], content["iteration"]
        if self.validator is not None:
            self.validator.state.best_metric = content["best_metric"]
            self.validator.state.best_metric_epoch = content["best_metric_epoch"]
        logger.info("Resumed from %s after epoch %d.", self.path, trainer.state.epoch)


class ModelLoader:
    """
    Load the network's weights when an evaluator starts, or refuse them in one line.

    Args:
        path: a state dict, as :class:`ModelSaver` writes it, or a list of them.
        network: gets the weights; all of them must fit. With a list a ModuleList of as many networks.

    Raises:
        ValueError: for weights of another number of networks; from the run, when a file does not exist, is no state
            dict, or does not fit its network.
    """

    def __init__(self, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], network: nn.Module) -> None:
        self.paths = [Path(name) for name in ensure_tuple(path)]
        self.networks = list(network) if isinstance(network, nn.ModuleList) else [network]
        if len(self.paths) != len(self.networks):
            raise ValueError(
                f"weights: {len(self.paths)} files for {len(self.networks)} networks; allowed is one each."
            )

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load."""
        for path, network in zip(self.paths, self.networks, strict=True):
            _load_weights(path, network)


def _load_weights(path: Path, network: nn.Module) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; train first, or give the weights' path.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        _unwrapped(network).load_state_dict(weights)
    except Exception as error:  # unpickling raises all kinds
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # of what may be hundreds
        raise ValueError(f"{path}: these are no weights of this network: {reason}") from error


def _in_a_line(value: Any) -> str:
    """A value for a message, or the fingerprint of one that is too long for it."""
    text = str(value)
    return text if len(text) <= 80 and "\n" not in text else hashlib.sha256(text.encode()).hexdigest()[:12]


def _unwrapped(item: Any) -> Any:
    return item.module if isinstance(item, nn.parallel.DistributedDataParallel) else item
