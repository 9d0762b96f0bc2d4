# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Handlers of a training: learning rate, seeds, clipping and inference in bfloat16, on real small trainers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, RandGaussianNoised
from torch import nn

from cakes_monai.handlers import (
    EpochSeed,
    GradientClip,
    PolynomialLearningRate,
    StepLearningRate,
    learning_rate_schedule,
)
from cakes_monai.inference import AutocastInferer, has_fast_bfloat16


class Recorder:
    """Keeps something of every iteration."""

    def __init__(self, look) -> None:
        self.look = look
        self.seen: list = []

    def attach(self, engine) -> None:
        """Look before the step of each iteration."""
        from monai.engines import IterationEvents

        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda e: self.seen.append(self.look(e)))


def trainer(handlers, epochs: int = 3, scale: float = 1.0, workers: int = 0) -> SupervisedTrainer:
    """A linear network trained on four vectors in batches of two, with random noise."""
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    data = [{"image": torch.full((2,), float(i)), "label": torch.full((1,), float(i) * scale)} for i in range(4)]
    transform = Compose([RandGaussianNoised("image", prob=1.0, std=0.1)])
    loader = DataLoader(Dataset(data, transform), batch_size=2, shuffle=True, num_workers=workers)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    made = [handler(network, optimizer) for handler in handlers]
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=made,
        decollate=False,
    )


def test_polynomial_learning_rate_by_hand() -> None:
    """Six iterations: 0.1 * (1 - i/6)^0.9 for i = 0 to 5."""
    recorder = Recorder(lambda engine: engine.optimizer.param_groups[0]["lr"])
    trainer([lambda _n, optimizer: PolynomialLearningRate(optimizer, 0.1, 0.9), lambda *_: recorder]).run()
    np.testing.assert_allclose(recorder.seen, [0.1 * (1 - i / 6) ** 0.9 for i in range(6)])


def test_polynomial_learning_rate_with_warm_up() -> None:
    """Over two iterations it rises linearly to that of the beginning, then it is on the polynomial of all six."""
    recorder = Recorder(lambda engine: engine.optimizer.param_groups[0]["lr"])
    trainer([lambda _n, o: PolynomialLearningRate(o, 0.1, 0.9, 2, 0.02), lambda *_: recorder]).run()
    np.testing.assert_allclose(recorder.seen, [0.02, 0.06, *(0.1 * (1 - i / 6) ** 0.9 for i in range(2, 6))])
    with pytest.raises(ValueError, match="warmup is -1 iterations"):
        PolynomialLearningRate(None, 0.1, warmup=-1)


def test_steps_choose_the_schedule() -> None:
    """Without steps it is the polynomial, with steps it is halved at iterations; both have the warm-up."""
    seen = []
    for steps in ([], [4]):
        recorder = Recorder(lambda engine: engine.optimizer.param_groups[0]["lr"])
        options = {"steps": steps, "warmup": 2, "warmup_lr": 0.02}
        trainer([lambda _n, o: learning_rate_schedule(o, 0.1, **options), lambda *_: recorder]).run()  # noqa: B023
        seen.append(recorder.seen)
    np.testing.assert_allclose(seen[0], [0.02, 0.06, *(0.1 * (1 - i / 6) ** 0.9 for i in range(2, 6))])
    np.testing.assert_allclose(seen[1], [0.02, 0.06, 0.1, 0.1, 0.05, 0.05])


def rates(**options) -> list[float]:
    """Learning rates of six iterations, two an epoch."""
    recorder = Recorder(lambda engine: [group["lr"] for group in engine.optimizer.param_groups])
    trainer([lambda _n, optimizer: StepLearningRate(optimizer, 0.4, **options), lambda *_: recorder]).run()
    return [rate for (rate,) in recorder.seen]


def test_step_learning_rate_by_hand() -> None:
    """Steps and warm-up in epochs of two iterations (CAKES, video) or in iterations (C2FNAS)."""
    np.testing.assert_allclose(rates(steps=[1, 2]), [0.4, 0.4, 0.04, 0.04, 0.004, 0.004])
    np.testing.assert_allclose(rates(steps=[2], warmup=1, warmup_lr=0.1), [0.1, 0.25, 0.4, 0.4, 0.04, 0.04])
    iterations = rates(steps=[4], factor=0.5, warmup=2, warmup_lr=0.2, in_iterations=True)
    np.testing.assert_allclose(iterations, [0.2, 0.3, 0.4, 0.4, 0.2, 0.2])
    with pytest.raises(ValueError, match=r"steps \[2, 1\] must increase"):
        rates(steps=[2, 1])


def test_groups_scale_the_learning_rate() -> None:
    """A group with "lr_scale" 2 learns twice as fast."""
    layer = nn.Linear(2, 1)
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr_scale": 2.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    trainer([lambda *_: StepLearningRate(optimizer, 0.4, [9])], epochs=1).run()
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.8]


@pytest.mark.parametrize("workers", [0, 1])
def test_random_numbers_depend_on_seed_and_epoch_only(workers: int) -> None:
    """A training that starts in epoch 2 sees what the whole one saw from there, with and without worker processes."""

    def batches(start: int, seed: int) -> list:
        recorder = Recorder(lambda engine: engine.state.output["image"].clone())
        engine = trainer([lambda *_: EpochSeed(seed), lambda *_: recorder], workers=workers)

        def skip(engine) -> None:
            engine.state.epoch, engine.state.iteration = start, 2 * start

        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, skip)
        torch.rand(start + 7)  # whatever was drawn before must not matter
        engine.run()
        return recorder.seen

    whole, rest, other = batches(0, 1), batches(1, 1), batches(0, 2)
    assert len(whole) == 6
    assert len(rest) == 4
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole[2:], rest, strict=True))
    assert not torch.equal(whole[0], whole[2]), "epochs differ"
    assert not torch.equal(whole[0], other[0]), "seeds differ"


def test_gradients_are_clipped() -> None:
    """The norm before the step is at most the given one."""
    norm = Recorder(lambda e: float(torch.cat([p.grad.flatten() for p in e.network.parameters()]).norm()))
    trainer([lambda network, _o: GradientClip(network, 0.5), lambda *_: norm], scale=100.0).run()
    assert max(norm.seen) == pytest.approx(0.5, rel=1e-4)


def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_training_when_it_stays() -> None:
    """The weights stay as they are; after the given number of iterations the training stops with advice."""
    engine = trainer([lambda network, _o: GradientClip(network, 1.0, patience=4)], scale=float("inf"))
    before = [parameter.clone() for parameter in engine.network.parameters()]
    with pytest.raises(FloatingPointError, match="4 times in a row, the training has diverged; lower learning_rate"):
        engine.run()
    assert engine.state.iteration == 4
    assert all(torch.equal(a, b) for a, b in zip(before, engine.network.parameters(), strict=True))


def test_autocast_inferer_computes_in_bfloat16_and_returns_float32() -> None:
    """Where the device has bfloat16 results are rounded to it; with amp false they are float32's."""
    network, image = nn.Conv3d(1, 1, 3), torch.randn(1, 1, 5, 5, 5)
    exact = network(image)
    assert torch.equal(AutocastInferer(amp=False)(image, network), exact)
    result = AutocastInferer()(image, network)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, exact, atol=0.05, rtol=0.05)
    assert torch.equal(result, exact) != has_fast_bfloat16("cpu")


def test_autocast_inferer_runs_the_inferer_it_is_given() -> None:
    """Sliding windows are those of the inferer inside."""
    network, image = nn.Conv3d(1, 1, 1), torch.randn(1, 1, 9, 9, 9)
    windows = SlidingWindowInferer(roi_size=(4, 4, 4), overlap=0.25)
    torch.testing.assert_close(AutocastInferer(windows, amp=False)(image, network), windows(image, network))
