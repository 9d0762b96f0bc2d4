# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Validation of candidates of the fine stage with the weights of the super-network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.inferers import SlidingWindowInferer
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cakes_monai.atomic_file import written_whole
from cakes_monai.blocks import set_execution
from cakes_monai.handlers import EpochSeed
from cakes_monai.inference import AutocastInferer
from cakes_monai.nets import C2FNASOperationSupernet

__all__ = ["CandidateEvaluation", "norms_with_statistics", "remove_images", "write_images", "write_weights"]

_WEIGHTS = "supernet.pt"
_BATCHES = "batches.pt"
_VOLUMES = "volume_*.pt"


class CandidateEvaluation:
    """
    Mean Dice of a path of a super-network on validation volumes, in sliding windows.

    The volumes are those that :func:`write_images` left, preprocessed once for all processes, which share them in
    memory. Running statistics of a norm are collected anew for every candidate: those of the super-network are a
    mixture of all paths.

    Args:
        folder: what :func:`write_weights` and :func:`write_images` wrote.
        network: ``settings`` of the super-network.
        inferer: arguments of MONAI's SlidingWindowInferer.
        amp: whether to use bfloat16 where the device has it.
        execution: how CAKES layers are run.
        device: by default the first GPU this process sees, else the CPU.

    Raises:
        ValueError: when there are no volumes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        network: Mapping[str, Any],
        inferer: Mapping[str, Any],
        amp: bool = True,
        execution: str = "dense",
        device: torch.device | str | None = None,
    ) -> None:
        folder = Path(folder)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = C2FNASOperationSupernet(**network)
        self.network.load_state_dict(_loaded(folder / _WEIGHTS))
        set_execution(self.network, execution).to(self.device).eval()
        self.norms = norms_with_statistics(self.network)
        self.batches: list[Tensor] = _loaded(folder / _BATCHES) if self.norms else []
        self.volumes: list[dict[str, Tensor]] = [_loaded(path) for path in sorted(folder.glob(_VOLUMES))]
        if not self.volumes:
            raise ValueError(f"{folder}: has no validation volumes.")
        self.infer_batch = AutocastInferer(amp=amp)
        self.infer_volume = AutocastInferer(SlidingWindowInferer(**inferer), amp)

    @torch.no_grad()
    def __call__(self, operations: Sequence[str]) -> tuple[float, list[float]]:
        """
        Evaluate a candidate.

        Args:
            operations: one for each cell.

        Returns:
            mean Dice over classes and volumes, and that of every class; the background is none.

        Raises:
            FloatingPointError: when an output or the mean Dice is not finite.
        """
        self.network.choose(operations)
        self._collect_statistics()
        metric = DiceMetric(include_background=False)
        for number, volume in enumerate(self.volumes):
            logits = self.infer_volume(volume["image"][None].to(self.device), self.network)
            if not torch.isfinite(logits).all():
                raise FloatingPointError(f"the output for validation volume {number} is not finite.")
            classes = logits.shape[1]
            label = volume["label"][None].to(self.device)
            metric(one_hot(logits.argmax(1, keepdim=True), classes), one_hot(label, classes))
        score = metric.aggregate("mean").item()
        if score != score:
            raise FloatingPointError("the mean Dice is not a number: no validation volume has a structure.")
        return score, metric.aggregate("mean_batch").tolist()

    def _collect_statistics(self) -> None:
        """The mean over the batches: with weight 1/k for the k-th, whatever the norm's momentum is."""
        for norm in self.norms:
            norm.train()
        for number, batch in enumerate(self.batches, 1):
            for norm in self.norms:
                norm.momentum = 1 / number
            self.infer_batch(batch.to(self.device), self.network)
        self.network.eval()


def norms_with_statistics(network: nn.Module) -> list[_NormBase]:
    """The norms whose results in eval depend on what was seen in training."""
    return [m for m in network.modules() if isinstance(m, _NormBase) and m.track_running_stats]


def write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the weights of the super-network."""
    _save(folder / _WEIGHTS, {name: value.cpu() for name, value in state.items()})


def write_images(
    folder: Path, validation: Sequence[Mapping[str, Any]], training: Iterable[Any], num_batches: int, seed: int
) -> None:
    """
    Write all that candidates are evaluated on.

    Args:
        folder: where to; volumes of an earlier call are removed.
        validation: a dataset of items with image and label, preprocessed.
        training: a loader of batches with images.
        num_batches: of the training, for statistics of norms.
        seed: the batches are those that the first epoch of a training with this seed begins with.
    """
    remove_images(folder)
    for number in range(len(validation)):
        item = validation[number]
        image, label = (convert_to_tensor(item[key], track_meta=False) for key in ("image", "label"))
        _save(folder / _VOLUMES.replace("*", f"{number:05d}"), {"image": image, "label": label.to(torch.uint8)})
    if num_batches:
        batches: list[Tensor] = []
        engine = Engine(lambda _, batch: batches.append(convert_to_tensor(batch["image"], track_meta=False)))
        EpochSeed(seed).attach(engine)
        engine.run(training, max_epochs=1, epoch_length=num_batches)
        _save(folder / _BATCHES, batches)


def remove_images(folder: Path) -> None:
    """Remove what :func:`write_images` wrote."""
    for path in (*folder.glob(_VOLUMES), folder / _BATCHES):
        path.unlink(missing_ok=True)


def _save(path: Path, content: Any) -> None:
    with written_whole(path) as temporary:
        torch.save(content, temporary)


def _loaded(path: Path) -> Any:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
