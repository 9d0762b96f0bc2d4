# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Mean and vote of networks: by hand, as MONAI's own ensembles, and one network in memory at a time."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import EnsembleEvaluator, SupervisedEvaluator
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import (
    Activationsd,
    AsDiscrete,
    AsDiscreted,
    Compose,
    Invertd,
    MeanEnsembled,
    Orientationd,
    Spacingd,
    VoteEnsemble,
)
from torch import Tensor, nn

from cakes_monai.handlers import ModelLoader
from cakes_monai.inference import EnsembleUpdate, network_copies
from cakes_monai.transforms import InvertLabelsd

#: Classes that five networks see in seven voxels, and what the vote of the first n of them makes of it.
VOTES = [
    [0, 1, 2, 2, 0, 1, 2],
    [0, 1, 1, 1, 1, 0, 1],
    [0, 2, 1, 0, 2, 2, 1],
    [1, 2, 2, 0, 1, 2, 0],
    [1, 0, 0, 2, 2, 1, 0],
]
ELECTED = {1: [0, 1, 2, 2, 0, 1, 2], 2: [0, 1, 1, 1, 0, 0, 1], 3: [0, 1, 1, 0, 0, 0, 1], 4: [0, 1, 1, 0, 1, 2, 1]}
ELECTED[5] = [0, 1, 1, 0, 1, 1, 0]


class Opinion(nn.Module):
    """A network that sees the same in every image of seven voxels, with more or less certainty."""

    def __init__(self, classes: list[int], certainty: float = 3.0) -> None:
        super().__init__()
        logits = nn.functional.one_hot(torch.tensor(classes), 3).T * certainty
        self.register_buffer("logits", logits.reshape(1, 3, 7, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.logits.expand(len(image), -1, -1, -1, -1).clone()


class Random(nn.Module):
    """A network whose probabilities differ from voxel to voxel."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return 5 * self.conv(image)


def items(number: int = 1) -> list[dict[str, Any]]:
    """Images of seven voxels."""
    return [{"image": MetaTensor(torch.full((1, 7, 1, 1), float(n)))} for n in range(number)]


def evaluator(networks: list[nn.Module], update: EnsembleUpdate, data: Any, **options: Any) -> SupervisedEvaluator:
    """MONAI's evaluator with an ensemble in the place of a network."""
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=options.pop("batch_size", 1)),
        network=nn.ModuleList(networks),
        iteration_update=update,
        decollate=False,
        **options,
    )


def results(networks: list[nn.Module], update: EnsembleUpdate, data: Any, **options: Any) -> list[Any]:
    """What an ensemble makes of the last batch."""
    engine = evaluator(networks, update, data, **options)
    engine.run()
    return [output["pred"] for output in engine.state.output]


def simple(ensemble: str, to_onehot: int | None = None) -> EnsembleUpdate:
    """Probabilities, then labels."""
    discrete = AsDiscreted("pred", argmax=True, to_onehot=to_onehot)
    return EnsembleUpdate(Compose([Activationsd("pred", softmax=True), discrete]), ensemble)


@pytest.mark.parametrize("count", sorted(ELECTED))
def test_votes_by_hand(count: int) -> None:
    """Most votes win without being a majority, of equal ones the lowest class, for label maps and one-hot maps."""
    networks = [Opinion(classes) for classes in VOTES[:count]]
    (labels,) = results(networks, simple("vote"), items())
    assert labels.flatten().tolist() == ELECTED[count]
    (one_hot,) = results(networks, simple("vote", 3), items())
    assert one_hot.shape == (3, 7, 1, 1)
    assert one_hot.argmax(0).flatten().tolist() == ELECTED[count]
    assert torch.equal(one_hot.sum(0), torch.ones(7, 1, 1))


def test_what_monai_makes_of_equal_votes() -> None:
    """VoteEnsemble elects as we do from label maps; from one-hot maps it elects nobody without an absolute majority."""
    maps = [torch.tensor(classes)[None] for classes in VOTES]
    assert VoteEnsemble(num_classes=3)(maps).flatten().tolist() == ELECTED[5]
    one_hot = VoteEnsemble()([AsDiscrete(to_onehot=3)(labels) for labels in maps])
    assert one_hot.sum(0).tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_certainty_counts_in_the_mean_only() -> None:
    """Two networks that are nearly sure of nothing outvote a certain one, and lose to it in the mean."""
    networks = [Opinion([1] * 7, 9.0), Opinion([2] * 7, 0.1), Opinion([2] * 7, 0.1)]
    assert set(results(networks, simple("vote"), items())[0].flatten().tolist()) == {2}
    assert set(results(networks, simple("mean"), items())[0].flatten().tolist()) == {1}


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_a_batch_of_several_images(ensemble: str) -> None:
    """Each item gets its own result, and metrics and handlers see a list of items as without an ensemble."""
    images = [{"image": MetaTensor(torch.randn(1, 4, 5, 6))} for _ in range(3)]
    networks = [Random(seed) for seed in range(3)]
    together = results(networks, simple(ensemble), images, batch_size=3)
    alone = [results(networks, simple(ensemble), [image])[0] for image in images]
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture
def scan() -> Dataset:
    """An image stored as PIR with uneven voxels, as a network gets it: RAS, 1 mm."""
    affine = np.array([[0, 0, 1.4, 3], [-0.8, 0, 0, 5], [0, -1.3, 0, -2], [0, 0, 0, 1]])
    voxels = torch.randn(1, 14, 11, 9, generator=torch.Generator().manual_seed(4))
    meta = {"original_affine": affine, "spatial_shape": np.array([14, 11, 9])}
    steps = [
        Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        Spacingd("image", pixdim=(1.0, 1.0, 1.0)),
    ]
    return Dataset([{"image": MetaTensor(voxels, affine=torch.as_tensor(affine), meta=meta)}], Compose(steps))


def inversion(scan: Dataset) -> list[Any]:
    """Probabilities in the geometry of the file."""
    return [Activationsd("pred", softmax=True), Invertd("pred", scan.transform, "image", nearest_interp=False)]


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_labels_made_slab_by_slab_are_the_same(ensemble: str, scan: Dataset) -> None:
    """InvertLabelsd in the place of Invertd and AsDiscreted gives the same ensemble."""
    networks = [Random(seed) for seed in range(5)]
    whole = EnsembleUpdate(Compose([*inversion(scan), AsDiscreted("pred", argmax=True)]), ensemble)
    slabs = EnsembleUpdate(Compose([Activationsd("pred", softmax=True), InvertLabelsd("pred")]), ensemble)
    (expected,) = results(networks, whole, scan)
    (found,) = results(networks, slabs, scan)
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape == (1, 14, 11, 9)
    assert len(found.unique()) == 3
    assert torch.equal(found.float(), expected.float())
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)


def test_the_mean_is_that_of_monai(scan: Dataset) -> None:
    """EnsembleEvaluator, all predictions inverted and then MeanEnsembled and argmax, gives the same label map."""
    networks, keys = [Random(seed) for seed in range(3)], ["pred_0", "pred_1", "pred_2"]
    steps = [
        Activationsd(keys, softmax=True),
        Invertd(keys, scan.transform, "image", nearest_interp=False),
        MeanEnsembled(keys, output_key="pred"),
        AsDiscreted("pred", argmax=True),
    ]
    theirs = EnsembleEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(scan, batch_size=1),
        networks=networks,
        postprocessing=Compose(steps),
    )
    theirs.run()
    ours = EnsembleUpdate(Compose([*inversion(scan), AsDiscreted("pred", argmax=True)]))
    assert torch.equal(results(networks, ours, scan)[0], theirs.state.output[0]["pred"])


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_networks_that_agree_are_as_one(ensemble: str, scan: Dataset) -> None:
    """One network alone, by its usual evaluator, and it three times give one label map."""
    steps = Compose([*inversion(scan), AsDiscreted("pred", argmax=True)])
    usual = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(scan, batch_size=1),
        network=Random(0),
        postprocessing=steps,
    )
    usual.run()
    for count in (1, 3):
        (found,) = results([Random(0) for _ in range(count)], EnsembleUpdate(steps, ensemble), scan)
        assert torch.equal(found, usual.state.output[0]["pred"])


class Watched(Inferer):
    """Counts the predictions that are still in memory when the next is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.alive: list[int] = []
        self.inferer = SimpleInferer()

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        self.alive.append(sum(made() is not None for made in self.made))
        pred = self.inferer(inputs, network)
        self.made.append(weakref.ref(pred.untyped_storage()))
        return pred


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_one_prediction_at_a_time(ensemble: str, scan: Dataset) -> None:
    """When a network runs no prediction of an earlier one is kept; MONAI's EnsembleEvaluator keeps all."""
    steps = Compose([*inversion(scan), AsDiscreted("pred", argmax=True)])
    networks, watched, theirs = [Random(seed) for seed in range(4)], Watched(), Watched()
    results(networks, EnsembleUpdate(steps, ensemble), scan, inferer=watched)
    assert watched.alive == [0, 0, 0, 0]
    loader = DataLoader(scan, batch_size=1)
    EnsembleEvaluator(torch.device("cpu"), val_data_loader=loader, networks=networks, inferer=theirs).run()
    assert theirs.alive == [0, 1, 2, 3]


def test_what_is_no_ensemble() -> None:
    """One clear line each."""
    steps = Compose([Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)])
    with pytest.raises(ValueError, match=r"ensemble is 'median', allowed are mean and vote\."):
        EnsembleUpdate(steps, "median")
    with pytest.raises(ValueError, match=r"postprocessing: makes no labels of 'pred'"):
        EnsembleUpdate(Compose([AsDiscreted("pred", to_onehot=3)]))
    with pytest.raises(ValueError, match=r"weights: 0 files; allowed are 1 to 255"):
        network_copies(Random(0), [])
    engine = evaluator([Random(0)], EnsembleUpdate(steps), items())
    engine.network = Random(0)
    with pytest.raises(ValueError, match=r"network: is a Random; an ensemble is a ModuleList"):
        engine.run()


def test_every_network_gets_its_own_weights(tmp_path: Path) -> None:
    """Files are loaded in their order; another number of them and other weights are named."""
    files = [str(tmp_path / f"{seed}.pt") for seed in range(3)]
    for seed, file in enumerate(files):
        torch.save(Random(seed).state_dict(), file)
    networks = network_copies(Random(9), files)
    engine = evaluator(list(networks), simple("mean"), [{"image": torch.zeros(1, 4, 4, 4)}])
    ModelLoader(files, networks).attach(engine)
    engine.run()
    for seed, network in enumerate(networks):
        assert torch.equal(network.conv.weight, Random(seed).conv.weight)
    with pytest.raises(ValueError, match=r"weights: 2 files for 3 networks; allowed is one each\."):
        ModelLoader(files[:2], networks)
    with pytest.raises(ValueError, match=r"weights: 3 files for 1 networks"):
        ModelLoader(files, Random(0))
    torch.save({"other": torch.zeros(1)}, files[1])
    with pytest.raises(ValueError, match=r"1\.pt: these are no weights of this network"):
        ModelLoader(files, networks)(engine)
