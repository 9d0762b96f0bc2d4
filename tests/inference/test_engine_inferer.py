# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""An inferer whose network is run by an engine, in place of any inferer."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn

from cakes_monai.inference import ENGINES, AutocastInferer, Engine, EngineInferer
from cakes_monai.inference.engine_inferer import num_windows
from cakes_monai.inference.engines import Run, engines_of


class Recorded(Engine):
    """Runs the copy of the network that it was built from, and notes the sizes it is given."""

    name = "recorded"

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        self.builds = 0

    def build(self, network: nn.Module, example: Tensor, dtype: torch.dtype) -> Run:
        self.builds += 1

        def run(x: Tensor) -> Tensor:
            self.sizes.append(tuple(x.shape))
            return network(x)

        return run


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """An engine that can be asked for by its name."""
    engine = Recorded()
    monkeypatch.setitem(ENGINES, engine.name, engine)
    return engine


def network() -> nn.Module:
    """A network whose result depends on the place of every voxel."""
    torch.manual_seed(0)
    layers = (nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.ReLU(), nn.Conv3d(4, 2, 1))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    ("size", "roi", "overlap", "batch"),
    [
        ((20, 17, 9), (8, 8, 8), 0.5, 1),
        ((20, 17, 9), (8, 20, 9), (0.25, 0.5, 0.0), 2),
        ((8, 8, 8), (8, 8, 8), 0.5, 3),
        ((5, 30, 8), (8, -1, 8), 0.7, 1),
    ],
)
def test_number_of_windows(size: tuple[int, ...], roi: tuple[int, ...], overlap: Any, batch: int) -> None:
    """It is what the sliding window really gives to the network."""
    inferer = SlidingWindowInferer(roi, 3, overlap=overlap)
    image = torch.zeros(batch, 1, *size)
    seen = []
    inferer(image, lambda x: (seen.append(len(x)), x)[1])
    assert num_windows(inferer, image) == sum(seen)
    assert num_windows(SimpleInferer(), image) == batch


def test_result_is_that_of_the_wrapped_inferer(recorded: Recorded) -> None:
    """Whatever the number of windows; on a CPU the engine gets one at a time."""
    model, inferer = network(), SlidingWindowInferer((8, 8, 8), 4, overlap=0.5, mode="gaussian")
    image = torch.randn(1, 1, 20, 12, 9)
    with torch.no_grad():
        expected = inferer(image, model)
    torch.testing.assert_close(EngineInferer(inferer, "recorded")(image, model), expected)
    assert {*recorded.sizes} == {(1, 1, 8, 8, 8)}
    assert len(recorded.sizes) == num_windows(inferer, image) + 1, "one more for the check"
    assert recorded.builds == 1
    assert not EngineInferer(inferer, "recorded")(image, model).requires_grad
    assert recorded.builds == 1, "another inferer, the same network"


def test_each_size_has_its_engine(recorded: Recorded) -> None:
    """A network that is given volumes of other sizes is built for each of them once."""
    model, inferer = network(), EngineInferer(engine="recorded")
    for size in (6, 8, 6, 8):
        image = torch.randn(2, 1, size, size, size)
        torch.testing.assert_close(inferer(image, model), model(image).detach())
    assert recorded.builds == 2


def load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """As a checkpoint is loaded."""
    model.load_state_dict(weights)


def write(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Past the version counter."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])


def replace(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """With other tensors."""
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]


def train(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """By a step of an optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.ones(1, 1, 6, 6, 6)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [load, write, replace, train])
def test_changed_weights(recorded: Recorded, change: Any) -> None:
    """However weights change, what is computed is what the network computes now."""
    model, inferer, image = network(), EngineInferer(engine="recorded"), torch.randn(1, 1, 6, 6, 6)
    before = inferer(image, model)
    change(model, {name: weight + 0.1 for name, weight in model.state_dict().items()})
    now = inferer(image, model)
    assert not torch.allclose(now, before)
    torch.testing.assert_close(now, model(image).detach())
    inferer(image, model)
    assert recorded.builds == 2


def test_copies_have_their_own(recorded: Recorded) -> None:
    """A copy with other weights, as MONAI Label makes it, is not served what was built from the first network."""
    model, inferer, image = network(), EngineInferer(engine="recorded"), torch.randn(1, 1, 6, 6, 6)
    inferer(image, model)
    other = copy.deepcopy(model)
    nn.init.zeros_(other[-1].weight)
    torch.testing.assert_close(inferer(image, other), other(image).detach())
    torch.testing.assert_close(inferer(image, model), model(image).detach())
    assert recorded.builds == 2


def test_networks_are_let_go(recorded: Recorded) -> None:
    """What was built does not keep a network in memory."""
    model = network()
    EngineInferer(engine="recorded")(torch.randn(1, 1, 6, 6, 6), model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_training_is_left_to_torch(recorded: Recorded) -> None:
    """A network in training mode has gradients and its dropout; so has one that is no module."""
    model, inferer, image = network().train(), EngineInferer(engine="recorded"), torch.randn(1, 1, 6, 6, 6)
    assert inferer(image, model).requires_grad
    assert torch.equal(inferer(image, lambda x: 2 * x), 2 * image)
    assert recorded.builds == 0


class TwoInputs(nn.Module):
    """Needs more than the image."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_more_inputs_are_left_to_torch(recorded: Recorded) -> None:
    """Arguments behind the network reach it."""
    image = torch.ones(1, 1, 6, 6, 6)
    assert torch.equal(EngineInferer(engine="recorded")(image, TwoInputs().eval(), image), 2 * image)
    assert recorded.builds == 0


@pytest.mark.parametrize("amp", [True, "false"])
def test_amp_is_that_of_the_autocast_inferer(amp: Any) -> None:
    """With eager torch the result is the same, in float32; options come as text from a command line."""
    model, image = network(), torch.randn(2, 1, 6, 6, 6)
    with torch.no_grad():
        expected = AutocastInferer(amp=amp)(image, model)
    result = EngineInferer(engine="torch", amp=amp)(image, model)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_auto_is_bit_by_bit_that_of_torch_for_short_jobs() -> None:
    """Few windows are never worth a build, so their result is that of eager torch."""
    model, inferer = network(), SlidingWindowInferer((8, 8, 8), 4, overlap=0.5, mode="gaussian")
    image = torch.randn(1, 1, 20, 12, 9)
    with torch.no_grad():
        expected = inferer(image, model)
    for _ in range(3):
        assert torch.equal(EngineInferer(inferer)(image, model), expected)
    (chosen,) = engines_of(model, "auto").choices.values()
    assert chosen.engine == "torch"


def test_the_evaluator_of_monai(recorded: Recorded) -> None:
    """The metadata of the image is that of the prediction, as without an engine."""
    images = [MetaTensor(torch.randn(1, 6, 6, 6), affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))) for _ in range(3)]
    model, seen = network(), []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": image} for image in images]), batch_size=2),
        network=model,
        inferer=EngineInferer(engine="recorded"),
        postprocessing=lambda item: (seen.append(item["pred"]), item)[1],
    )
    evaluator.run()
    assert recorded.builds == 1
    for pred, image in zip(seen, images, strict=True):
        assert isinstance(pred, MetaTensor)
        assert torch.equal(pred.affine, image.affine)
        torch.testing.assert_close(pred.as_tensor(), model(image.as_tensor()[None])[0].detach())
