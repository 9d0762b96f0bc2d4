# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Several networks that segment together, one after the other, by the mean of their probabilities or by vote."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import Evaluator, IterationEvents
from monai.engines.utils import engine_apply_transform
from monai.networks.utils import one_hot
from monai.transforms import AsDiscreted, Compose, Decollated
from monai.utils import CommonKeys, convert_to_dst_type, ensure_tuple
from torch import Tensor, nn

from cakes_monai.transforms import InvertLabelsd

__all__ = ["ENSEMBLES", "EnsembleUpdate", "network_copies"]

#: How networks are put together.
ENSEMBLES = ("mean", "vote")

_MAX_VOTES = 255  # what a byte counts

_Item = tuple[dict[str, Any], dict[str, Any]]  # batch and output of one image


class EnsembleUpdate:
    """
    What a SupervisedEvaluator does with a batch (its ``iteration_update``) when its network is a ModuleList.

    The networks run one after the other. In the postprocessing one transform makes labels of class probabilities
    (AsDiscreted with argmax, or InvertLabelsd):

    - "mean": the probabilities before it are averaged over the networks;
    - "vote": each network's label map behind it has one vote in every voxel, and the class with most votes wins, be
      they more than half or not (C2FNAS, table 1, "*").

    Of classes with equal votes the lowest wins, the background first of all. With two classes and an odd number of
    networks there are none. The rest of the postprocessing is applied to the result. In memory are the prediction of
    one network, and one map of the mean or, for votes, one byte for each class and voxel.

    MONAI's EnsembleEvaluator keeps the predictions of all networks. Its VoteEnsembled gives the same labels for label
    maps with ``num_classes``. Of one-hot maps it rounds the mean, which gives no class at all where none has more than
    half of the votes. With a single key both its ensembles take channels for networks.

    The evaluator needs ``decollate`` false and no postprocessing of its own.

    Args:
        postprocessing: of one network.
        ensemble: "mean" or "vote".

    Raises:
        ValueError: for another ensemble, or a postprocessing that makes no labels of "pred".
    """

    def __init__(self, postprocessing: Compose, ensemble: str = "mean") -> None:
        if ensemble not in ENSEMBLES:
            raise ValueError(f"ensemble is {ensemble!r}, allowed are {' and '.join(ENSEMBLES)}.")
        self.ensemble = ensemble
        transforms = list(postprocessing.transforms)
        labels = next((n for n, transform in enumerate(transforms) if _makes_labels(transform)), None)
        if labels is None:
            raise ValueError(
                "postprocessing: makes no labels of 'pred'; allowed: AsDiscreted with argmax, InvertLabelsd."
            )
        end = labels + (ensemble == "vote")
        self.of_each, self.of_all = Compose(transforms[:end]), Compose(transforms[end:])

    def __call__(self, engine: Evaluator, batchdata: dict[str, Any]) -> list[dict[str, Any]]:
        """Predict with one network after the other, and leave the items of the batch with the result of all."""
        networks = _networks(engine.network)
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        sums: list[Tensor] = []
        items: list[_Item] = []
        for network in networks:
            items = []  # before the next prediction takes memory
            items, classes = self._items(engine, network, batchdata, batch)
            preds = [output[CommonKeys.PRED] for _, output in items]
            sums = _votes(sums, preds, classes) if self.ensemble == "vote" else _sums(sums, preds)
            del preds
        for (_, output), total in zip(items, sums, strict=True):
            winner = _elected(total, output[CommonKeys.PRED]) if self.ensemble == "vote" else total.div_(len(networks))
            output[CommonKeys.PRED] = winner
        items = [engine_apply_transform(part, output, self.of_all) for part, output in items]
        engine.state.batch, engine.state.output = [part for part, _ in items], [output for _, output in items]
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _items(self, engine: Evaluator, network: nn.Module, batchdata: Any, batch: Any) -> tuple[list[_Item], int]:
        """What one network says of each item, and the number of classes; the collated batch stays as it is."""
        inputs, targets, *more = batch
        args, kwargs = more or ((), {})
        with engine.mode(network), torch.autocast("cuda", enabled=engine.amp, **engine.amp_kwargs):
            pred = engine.inferer(inputs, network, *args, **kwargs)
        output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets, CommonKeys.PRED: pred}
        decollate = Decollated(keys=None, detach=True)
        items = zip(decollate(batchdata), decollate(output), strict=True)
        return [engine_apply_transform(part, found, self.of_each) for part, found in items], pred.shape[1]


def network_copies(network: nn.Module, weights: Any) -> nn.ModuleList:
    """
    As many networks as there are weights; :class:`~cakes_monai.handlers.ModelLoader` loads them.

    Args:
        network: what is copied.
        weights: a file or a list of files.

    Raises:
        ValueError: without weights.
    """
    files: tuple[str | os.PathLike[str], ...] = ensure_tuple(weights)
    if not 0 < len(files) <= _MAX_VOTES:
        raise ValueError(f"weights: {len(files)} files; allowed are 1 to {_MAX_VOTES}, one for each network.")
    return nn.ModuleList(copy.deepcopy(network) for _ in files)


def _makes_labels(transform: Any) -> bool:
    """Whether a transform makes labels of the probabilities of "pred"."""
    if isinstance(transform, AsDiscreted):
        return any(
            argmax for key, argmax in zip(transform.keys, transform.argmax, strict=True) if key == CommonKeys.PRED
        )
    return isinstance(transform, InvertLabelsd) and CommonKeys.PRED in transform.keys


def _networks(network: nn.Module) -> list[nn.Module]:
    if not isinstance(network, nn.ModuleList):
        raise ValueError(f"network: is a {type(network).__name__}; an ensemble is a ModuleList, see network_copies.")
    return list(network)


def _sums(sums: list[Tensor], preds: Sequence[Tensor]) -> list[Tensor]:
    return [total.add_(pred) for total, pred in zip(sums, preds, strict=True)] if sums else list(preds)


def _votes(votes: list[Tensor], preds: Sequence[Tensor], classes: int) -> list[Tensor]:
    """Votes of each item, ``(classes, D, H, W)``, with one more network's label maps or one-hot maps."""
    for number, pred in enumerate(preds):
        plain = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
        labels = plain.argmax(0) if len(plain) > 1 else plain[0]
        if number == len(votes):
            votes.append(torch.zeros(classes, *labels.shape, dtype=torch.uint8, device=labels.device))
        for label in range(classes):
            votes[number][label] += labels == label
    return votes


def _elected(votes: Tensor, like: Tensor) -> Any:
    """The class with most votes, in the form of one network's result."""
    labels = votes.argmax(0, keepdim=True)  # torch gives the first of equal ones
    return convert_to_dst_type(labels if len(like) == 1 else one_hot(labels, len(like), dim=0), like)[0]
