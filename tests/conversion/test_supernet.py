# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels are searched on any backbone that has norms with scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn

from cakes_monai.architecture import KERNEL_SETS, KernelSplit
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.blocks import ConcatenatedPaths, SampledPaths, draw_paths, keep_paths, path_operations
from cakes_monai.conversion import find_layers, network_cost, rebuild, shrink, to_supernet
from cakes_monai.handlers import PathSampler
from cakes_monai.inference import path_layers
from cakes_monai.losses import gate_penalty
from cakes_monai.workflows import ArchitectureSaver, KernelSupernet, derive_kernels, kernel_budget

AFFINE = ("INSTANCE", {"affine": True})
SIZE = (1, 1, 16, 16, 16)
GATED = ["dynunet", "dynunet_residual", "segresnet", "unet_residual", "resdsn"]
gated = pytest.mark.parametrize("make", GATED, indirect=True)


def chosen(supernet: nn.Module) -> Mapping[str, Mapping[str, Sequence[int]]]:
    """The channels of each sub-kernel that the gates say."""
    return {name: kept.channels for name, kept in derive_kernels(supernet).ranking.layers.items()}


def trained(supernet: nn.Module) -> nn.Module:
    """Gates, shifts, statistics and weights that are all different."""
    generator = torch.Generator().manual_seed(0)
    for name, value in supernet.state_dict().items():
        if value.is_floating_point() and ("norm" in name or "running" in name):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return supernet.eval()


@gated
@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_3x3x3_paths_alone_are_the_network(network: nn.Module, volumes: list[Tensor], priority: str) -> None:
    """With one candidate, 3x3x3, the super-network is the network, biases in front of norms included."""
    supernet = to_supernet(network, "3d", priority, input_shape=SIZE)
    assert isinstance(supernet, KernelSupernet)
    assert not supernet.training
    with torch.no_grad():
        torch.testing.assert_close(supernet(volumes[0]), network(volumes[0]), rtol=1e-4, atol=1e-5)


@gated
def test_the_derived_network_is_the_super_network_with_these_paths(make: Callable[[], nn.Module], volumes) -> None:
    """Weights, scales, shifts and statistics of the kept paths give its outputs, and fit a rebuilt network."""
    supernet = trained(to_supernet(make(), "123d", input_shape=SIZE))
    channels = chosen(supernet)
    assert {name for kept in channels.values() for name in kept} == set(KERNEL_SETS["123d"])
    derived = supernet.derived_network(channels).eval()
    keep_paths(supernet, channels)
    rebuilt = rebuild(make(), derive_kernels(supernet).architecture)
    rebuilt.load_state_dict(derived.state_dict())
    with torch.no_grad():
        expected = supernet(volumes[0])
        torch.testing.assert_close(derived(volumes[0]), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rebuilt.eval()(volumes[0]), expected, rtol=1e-4, atol=1e-5)


@gated
@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_it_is_trained_and_searched(make: Callable[[], nn.Module], priority: str) -> None:
    """Every path gets a gradient, the penalty counts every gate, budgets are kept by the derived network."""
    network = make().train()
    supernet = to_supernet(network, ["1x3x3", "1x1x3"], priority, input_shape=SIZE)
    searched = path_operations(supernet)
    lower, upper = (
        supernet.derived_cost({n: KernelSplit(((k, m.channels),)) for n, m in searched.items()}, SIZE[2:])
        for k in ("1x1x3", "1x3x3")
    )
    limits = {unit: (getattr(lower, unit) + getattr(upper, unit)) / 2 for unit in ("params", "multiply_adds")}
    budgets = {unit: kernel_budget(supernet, limit, unit, SIZE[2:]) for unit, limit in limits.items()}
    if priority == "performance":
        draw_paths(supernet, 0, 0)
    output = supernet(torch.randn(2, *SIZE[1:]))
    (sum(part.sum() for part in output) if isinstance(output, list) else output.sum()).backward()
    assert all(p.grad is not None for m in searched.values() for p in m.parameters())
    gates = sum(m.gates.detach().abs().sum() for m in searched.values())
    torch.testing.assert_close(gate_penalty(supernet, dict.fromkeys(searched, (1.0, 1.0))).detach(), gates)
    for unit, budget in budgets.items():
        found = derive_kernels(supernet, budget=budget)
        rebuilt = rebuild(make(), found.architecture)
        assert getattr(network_cost(rebuilt, SIZE), unit) == found.ranking.cost <= limits[unit]


@pytest.mark.parametrize("priority", ["performance", "cost"])
def test_a_search_on_unet_writes_its_architecture(tmp_path: Path, priority: str) -> None:
    """Trainer, validator and ArchitectureSaver of MONAI's bundle run with it; the file rebuilds the backbone."""
    network = UNet(3, 1, 2, (4, 8, 8), (2, 2), num_res_units=2, norm=AFFINE)
    supernet = to_supernet(network, "12d", priority, input_shape=SIZE)
    data = [{"image": torch.randn(SIZE[1:]), "label": torch.zeros(2, *SIZE[2:])} for _ in range(2)]
    validator = SupervisedEvaluator(torch.device("cpu"), DataLoader(data, batch_size=2), supernet)
    saver = ArchitectureSaver(supernet, tmp_path, validator, budget={"limit": 9000, "unit": "params", "size": SIZE[2:]})
    handlers = [saver, ValidationHandler(1, validator)]
    handlers += [PathSampler(supernet)] if priority == "performance" else []
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1)
    loader = DataLoader(data, batch_size=2)
    loss = nn.MSELoss()
    SupervisedTrainer("cpu", 1, loader, supernet, optimizer, loss, train_handlers=handlers).run()
    found = BackboneArchitecture.load(tmp_path / "architecture.json")
    assert found.backbone == "UNet"
    assert found.origin["priority"] == priority
    assert network_cost(rebuild(network, found), SIZE).params <= 9000


def test_shapes_of_the_paths_are_those_of_the_layers(volumes: list[Tensor]) -> None:
    """What a latency budget measures are the layers of the backbone, at the size they have in it."""
    network = UNet(3, 1, 2, (4, 8, 8), (2, 2), num_res_units=2, norm=AFFINE)
    supernet = to_supernet(network, "12d", input_shape=SIZE)
    layers = path_layers(supernet.train(), SIZE)
    for name, trace in find_layers(network, SIZE).trace.layers.items():
        if f"network.{name}" in layers:
            assert layers[f"network.{name}"].size == trace.size


@gated
def test_what_was_found_shrinks_the_trained_network(make: Callable[[], nn.Module], volumes: list[Tensor]) -> None:
    """The architecture of a search, of cost priority too, goes into shrink, which starts from the trained weights."""
    network = make().eval()
    supernet = trained(to_supernet(network, "12d", "cost", input_shape=SIZE))
    architecture = derive_kernels(supernet, "argmax", granularity=1).architecture
    shrunken, report = shrink(network, architecture, volumes[:1], samples=100)
    assert report.architecture.splits == architecture.splits
    assert set(supernet.norms) == set(architecture.splits)
    assert shrunken(volumes[0]).shape == network(volumes[0]).shape


def test_layers_without_gates_are_passed_over() -> None:
    """In SegResNet a second convolution of a block is read by a sum, so only the first has a norm of its own."""
    supernet = to_supernet(SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)), "12d", input_shape=SIZE)
    assert list(supernet.norms) == [
        "down_layers.0.1.conv1.conv",
        "down_layers.1.1.conv1.conv",
        "up_layers.0.0.conv1.conv",
    ]
    assert supernet.passed_over["down_layers.0.1.conv2.conv"] == "no norm alone reads its output"
    assert supernet.passed_over["convInit.conv"] == "reads the image"


def convolutions(norm: nn.Module, **options) -> nn.Sequential:
    """A stem, a convolution with a norm, a head."""
    layer = nn.Conv3d(2, 4, 3, padding=1, **options)
    return nn.Sequential(nn.Conv3d(1, 2, 1), layer, norm, nn.Conv3d(4, 2, 1))


@pytest.mark.parametrize("priority", ["performance", "cost"])
@pytest.mark.parametrize(
    "norm", [nn.BatchNorm3d(4, 1e-3, 0.3), nn.InstanceNorm3d(4, 1e-3, affine=True), nn.GroupNorm(2, 4, 1e-3)], ids=str
)
def test_every_norm_with_scales_gates(norm: nn.Module, priority: str) -> None:
    """Options of the norm, strides and types are those of the network."""
    network = convolutions(norm, stride=2, bias=False).double().eval()
    supernet = to_supernet(network, "3d", priority, input_shape=SIZE)
    image = torch.randn(2, 1, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(supernet(image), network(image))
    operation = path_operations(supernet)["network.1"]
    assert isinstance(operation, SampledPaths if priority == "performance" else ConcatenatedPaths)
    assert isinstance(supernet.network[2], nn.Identity)
    inner = operation.norm.norm if priority == "performance" else operation.adn.N
    assert (type(inner), inner.eps, getattr(inner, "momentum", None)) == (
        type(norm),
        norm.eps,
        getattr(norm, "momentum", None),
    )


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (
            convolutions(nn.InstanceNorm3d(4)),
            {},
            r"Sequential has gates to search with: 1 \(its norm has no scales\)\.$",
        ),
        (convolutions(nn.ReLU()), {}, r"gates to search with: 1 \(no norm alone reads its output\)\.$"),
        (
            convolutions(nn.BatchNorm3d(4), padding_mode="circular"),
            {},
            r"1 \(padding mode circular, searched is zeros\)",
        ),
        (
            convolutions(nn.BatchNorm3d(4)),
            {"priority": "speed"},
            "unknown priority 'speed', allowed are performance, cost",
        ),
        (convolutions(nn.BatchNorm3d(4)), {"init": "project"}, "unknown init 'project', allowed are slice, random"),
        (convolutions(nn.BatchNorm3d(4)), {"exclude": "1"}, r"can be shrunk: 0, 3 \(kernel 1x1x1\); 1 \(excluded\)"),
        (convolutions(nn.BatchNorm3d(4, momentum=None)), {}, "paths that are drawn at random need a momentum"),
    ],
)
def test_what_cannot_be_searched_is_said(network: nn.Module, options, message: str) -> None:
    """One line with the reason for each convolution; the network is as before."""
    with pytest.raises(ValueError, match=message):
        to_supernet(network, "12d", input_shape=SIZE, **options)
    assert isinstance(network[1], nn.Conv3d)


def test_random_paths_start_anew() -> None:
    """With init "random" gates are 1 and weights are not those of the network."""
    network = convolutions(nn.BatchNorm3d(4))
    nn.init.constant_(network[2].weight, 3)
    for init, gate in (("slice", 3.0), ("random", 1.0)):
        operation = path_operations(to_supernet(network, "3d", init=init, input_shape=SIZE))["network.1"]
        assert set(operation.gates.flatten().tolist()) == {gate}
        kept = torch.equal(operation.conv.sub_kernels["3x3x3"].weight, network[1].weight)
        assert kept == (init == "slice")


def test_no_network_with_weights_is_derived_from_cost_priority() -> None:
    """Its paths are added up, so one path for each channel is another network; the error says what to do."""
    supernet = to_supernet(convolutions(nn.BatchNorm3d(4)), "12d", "cost", input_shape=SIZE)
    with pytest.raises(ValueError, match="a network of one path each starts anew: rebuild it"):
        supernet.derived_network(chosen(supernet))
    supernet = to_supernet(convolutions(nn.BatchNorm3d(4)), "12d", input_shape=SIZE)
    with pytest.raises(ValueError, match="exactly one sub-kernel of every channel"):
        supernet.derived_network({"network.1": {"1x3x3": [0, 1, 2]}})
