# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A shrunken network is the network, as far as sub-kernels can be it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from cakes_monai.architecture import KERNEL_SETS, KernelSplit
from cakes_monai.blocks import CakesConv, set_execution
from cakes_monai.conversion import find_layers, network_cost, shrink
from cakes_monai.conversion.replacement import dense_kernel, sub_kernel_of

SIZE = (1, 1, 16, 16, 16)


def without_dropped_taps(network: nn.Module, kernels: str = "12d") -> dict[str, KernelSplit]:
    """Set all taps outside random sub-kernels to zero, in the network; how many channels have which."""
    generator = np.random.default_rng(0)
    splits = {}
    for name, layer in find_layers(network, SIZE).layers.items():
        chosen = generator.choice(KERNEL_SETS[kernels], layer.out_channels)
        kernel = dense_kernel(layer).detach()
        kept = torch.zeros_like(kernel)
        for channel, sub_kernel in enumerate(chosen):
            sub_kernel_of(kept, sub_kernel)[channel] = sub_kernel_of(kernel, sub_kernel)[channel]
        kernel.copy_(kept)  # in place, the layer's own
        splits[name] = KernelSplit(tuple((k, int((chosen == k).sum())) for k in KERNEL_SETS[kernels]))
    return splits


def state_of(network: nn.Module) -> dict[str, Any]:
    """Everything that could be changed by mistake."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [(name, module.training, len(module._forward_hooks)) for name, module in network.named_modules()]
    return {"state": state, "modes": modes, "grads": [p.requires_grad for p in network.parameters()]}


def assert_unchanged(network: nn.Module, before: dict[str, Any]) -> None:
    """As :func:`state_of` saw it."""
    after = state_of(network)
    torch.testing.assert_close(after.pop("state"), before["state"], rtol=0, atol=0, equal_nan=True)
    assert after == {key: value for key, value in before.items() if key != "state"}


@pytest.mark.parametrize("init", ["project", "slice"])
def test_what_is_zero_outside_sub_kernels_is_reproduced(network: nn.Module, volumes: list[Tensor], init: str) -> None:
    """With kernels that are sub-kernels already, the outputs are those of the network, BatchNorms and all."""
    network = network.double()
    splits = without_dropped_taps(network)
    before = state_of(network)
    shrunken, report = shrink(network, splits, volumes[:2], init=init, samples=100)
    assert [layer.error for layer in report.layers] == [0.0] * len(splits)
    with torch.no_grad():
        for volume in volumes:
            torch.testing.assert_close(shrunken(volume.double()), network(volume.double()))
    assert_unchanged(network, before)


def test_3x3x3_keeps_everything(network: nn.Module, volumes: list[Tensor]) -> None:
    """The best of a set with 3x3x3 is 3x3x3 everywhere, and the same network."""
    shrunken, report = shrink(network, "123d", volumes[:1], division="best", samples=20)
    assert {tuple(layer.split.as_dict()) for layer in report.layers} == {("3x3x3",)}
    assert report.before == report.after
    with torch.no_grad():
        torch.testing.assert_close(shrunken(volumes[0]), network(volumes[0]), rtol=1e-4, atol=1e-5)


def test_least_squares_on_data_beats_slice_and_sum(volumes: list[Tensor]) -> None:
    """Of one layer, on volumes that no fit has seen, the output of "project" is the nearest to the network's."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 2, 1))
    errors = {}
    for init in ("project", "slice", "sum"):
        shrunken, _ = shrink(network, "12d", volumes[:2], init=init)
        with torch.no_grad():
            errors[init] = float((shrunken(volumes[2]) - network(volumes[2])).square().mean())
    assert errors["project"] < 0.8 * errors["slice"]
    assert errors["project"] < 0.8 * errors["sum"]


@pytest.mark.parametrize("make", ["dynunet", "segresnet", "unet_residual"], indirect=True)
def test_errors_of_layers_are_least_with_least_squares(network: nn.Module, volumes: list[Tensor]) -> None:
    """In every network the layers lose less than with slices and with sums, on the same patches."""
    means = {}
    for init in ("project", "slice", "sum"):
        _, report = shrink(network, "12d", volumes, init=init, samples=1000)
        means[init] = np.mean([layer.error for layer in report.layers])
    assert means["project"] < 0.9 * means["slice"]
    assert means["project"] < 0.9 * means["sum"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_all_that_a_layer_had_is_kept(dtype: torch.dtype) -> None:
    """Bias, stride, padding mode, type, mode and what is trained are those of the layer; new weights are its taps."""
    layer = nn.Conv3d(4, 6, 3, (1, 2, 2), 1, padding_mode="reflect", dtype=dtype).eval()
    layer.weight.requires_grad_(False)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), layer, nn.Conv3d(6, 2, 1)).to(dtype)
    shrunken, _ = shrink(network, "1d", init="slice")
    conv = shrunken[1]
    assert isinstance(conv, CakesConv)
    assert (conv.stride, conv.padding_mode, conv.training) == ((1, 2, 2), "reflect", False)
    assert torch.equal(conv.bias, layer.bias)
    assert conv.bias.requires_grad
    assert not any(part.weight.requires_grad for part in conv.sub_kernels.values())
    image = torch.randn(1, 4, 4, 6, 6, dtype=dtype)
    assert conv(image).dtype == dtype
    assert conv(image).shape == layer(image).shape
    laid_out = torch.cat([part.weight.flatten(1) for part in conv.sub_kernels.values()])[conv.order]
    for channel, weights in enumerate(laid_out):
        taps = [sub_kernel_of(layer.weight, name)[channel].flatten() for name in conv.sub_kernels]
        assert sum(torch.equal(weights, own) for own in taps) == 1


def test_the_report_by_hand(volumes: list[Tensor]) -> None:
    """One layer of 4 to 4 channels at stride 2, for an input of 16x16x16, hence 512 places."""
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1, bias=False), nn.Conv3d(4, 4, 3, 2, 1), nn.Conv3d(4, 1, 1, bias=False)
    )
    _, report = shrink(network, ["1x3x3", "1x1x3"], volumes)
    (layer,) = report.layers
    assert (layer.name, layer.split.as_dict()) == ("1", {"1x3x3": 2, "1x1x3": 2})
    assert (layer.before.params, layer.after.params) == (4 * 4 * 27 + 4, 4 * 2 * (9 + 3) + 4)
    assert (layer.before.multiply_adds, layer.after.multiply_adds) == (4 * 4 * 27 * 512, 4 * 2 * (9 + 3) * 512)
    assert 0 < layer.error < 1
    rest = 4 * 27 + 4
    assert (report.before.params, report.after.params) == (4 * 4 * 27 + 4 + rest, 4 * 2 * 12 + 4 + rest)
    assert report.passed_over == {"0": "reads the image", "2": "kernel 1x1x1"}
    assert report.input_shape == SIZE
    table = report.table()
    assert table.splitlines()[1].split()[:8] == ["1", "0", "2", "0", "0", "0", "0", "2"]
    assert table.endswith("\npassed over:\n  0 (reads the image)\n  2 (kernel 1x1x1)")
    assert report.to_json()["layers"][0]["split"] == {"1x3x3": 2, "1x1x3": 2}
    assert report.architecture.splits == {"1": layer.split}
    assert report.architecture.origin["init"] == "project"


def test_costs_of_the_report_are_those_of_the_networks(network: nn.Module) -> None:
    """Before and after, in total and layer by layer, whatever the input is."""
    shrunken, report = shrink(network, "12d", init="slice", input_shape=(3, 1, 32, 16, 16))
    assert report.input_shape == (1, 1, 32, 16, 16)
    for version, totals in ((network, report.before), (shrunken, report.after)):
        cost = network_cost(version, (1, 1, 32, 16, 16))
        assert (cost.params, cost.multiply_adds) == (totals.params, totals.multiply_adds)
    saved = report.before.params - report.after.params
    assert saved == sum(layer.before.params - layer.after.params for layer in report.layers) > 0


@pytest.mark.parametrize("make", ["dynunet", "unet_residual"], indirect=True)
@pytest.mark.parametrize("unit", ["params", "multiply_adds", "paper_flops"])
def test_budgets_are_kept(network: nn.Module, volumes: list[Tensor], unit: str) -> None:
    """The whole network costs at most what the budget says, and nearly that; layers that lose most get most."""
    before = getattr(network_cost(network, SIZE), unit)
    for budget in ({"share": 0.7, "unit": unit}, {"limit": 0.7 * before, "unit": unit}):
        shrunken, report = shrink(network, "123d", volumes[:1], division="best", budget=budget, samples=200)
        after = getattr(network_cost(shrunken, SIZE), unit)
        assert 0.65 * before < after <= 0.7 * before
        assert report.architecture.origin["budget"] == budget


def test_a_budget_in_milliseconds(volumes: list[Tensor]) -> None:
    """With more time than everything takes nothing is dropped, with none the error names the unit."""
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 1, 1))
    options = {"division": "best", "samples": 50}
    _, report = shrink(network, "123d", volumes[:1], budget={"limit": 1e6, "unit": "ms"}, **options)
    assert report.layers[0].split.as_dict() == {"3x3x3": 4}
    with pytest.raises(ValueError, match="no split has at most 1e-09 ms"):
        shrink(network, "123d", volumes[:1], budget={"limit": 1e-9, "unit": "ms"}, **options)


def test_random_weights_start_anew() -> None:
    """With init "random" splits are even, weights as nn.Conv3d makes them, and there is no error to report."""
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 1, 1))
    torch.manual_seed(0)
    shrunken, report = shrink(network, "2d", init="random", granularity=2)
    assert report.layers[0].split.as_dict() == {"1x3x3": 4, "3x1x3": 2, "3x3x1": 2}
    assert report.layers[0].error is None
    assert "-" in report.table().splitlines()[1]
    assert torch.equal(shrunken[1].order, torch.arange(8))
    largest = max(float(part.weight.detach().abs().max()) for part in shrunken[1].sub_kernels.values())
    assert 0.9 / 72**0.5 < largest <= 1 / 72**0.5


@pytest.mark.parametrize("make", ["unet_residual", "sequential"], indirect=True)
def test_two_calls_agree(make: Callable[[], nn.Module], volumes: list[Tensor]) -> None:
    """The result depends on network and volumes only, not on the state of torch's generator."""
    network = make().eval()
    first, _ = shrink(network, "12d", volumes, samples=100)
    torch.rand(1)
    second, _ = shrink(network, "12d", volumes, samples=100)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", ["segresnet", "unet_residual", "c2fnas", "sequential"], indirect=True)
def test_torchscript_and_other_executions_give_the_same(make: Callable[[], nn.Module], volumes: list[Tensor]) -> None:
    """A shrunken network can be scripted, and its convolutions run densely."""
    shrunken, _ = shrink(make().eval(), "123d", init="slice", input_shape=SIZE)
    with torch.no_grad():
        expected = shrunken(volumes[0])
        torch.testing.assert_close(torch.jit.script(shrunken)(volumes[0]), expected)
        torch.testing.assert_close(set_execution(shrunken, "dense")(volumes[0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("execution", ["separate", "dense"])
@pytest.mark.parametrize("make", ["sequential"], indirect=True)
def test_onnx_gives_the_same(
    make: Callable[[], nn.Module], volumes: list[Tensor], execution: str, tmp_path: Path
) -> None:
    """Exported to ONNX, biases, padding modes and orders are there."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shrunken, _ = shrink(make().eval(), "123d", init="slice", input_shape=SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(set_execution(shrunken, execution), (volumes[0],), tmp_path / "net.onnx", dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: volumes[0].numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(output, shrunken(volumes[0]), rtol=1e-3, atol=1e-4)


def test_it_can_be_trained_on(make: Callable[[], nn.Module]) -> None:
    """All weights get gradients in training, deep supervision included, and after it the network is shrunk further."""
    shrunken, _ = shrink(make().train(), "123d", init="slice", input_shape=SIZE)
    assert all(module.training for module in shrunken.modules())
    output = shrunken(torch.randn(2, 1, 16, 16, 16))
    sum(part.sum() for part in (output if isinstance(output, list) else [output])).backward()
    assert all(part.grad is not None for part in shrunken.parameters())
    again, report = shrink(shrunken, {"1x3x3": 1}, init="slice", input_shape=SIZE, keep_ends=False)
    assert all("reads the image" not in reason for reason in report.passed_over.values())
    assert report.after.params < report.before.params
    assert all(module.training for module in again.modules())


def test_results_of_a_training_step_are_no_obstacle(volumes: list[Tensor]) -> None:
    """A DynUNet with deep supervision keeps its last outputs, which cannot be copied by copy.deepcopy."""
    network = DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4] * 3, deep_supervision=True, deep_supr_num=1)
    network.train()(volumes[0])
    assert any(not head.is_leaf for head in network.heads)
    with pytest.raises(RuntimeError):
        copy.deepcopy(network)
    shrunken, _ = shrink(network.eval(), "12d", volumes, samples=50)
    assert shrunken(volumes[0]).shape == (1, 2, 16, 16, 16)


def test_half_precision_volumes_and_networks(volumes: list[Tensor]) -> None:
    """A bfloat16 network is shrunk in bfloat16, from float32 volumes, and loses about what the float32 one loses."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 1, 1))
    _, full = shrink(network, "12d", volumes)
    shrunken, half = shrink(network.to(torch.bfloat16), "12d", volumes)
    assert {part.dtype for part in shrunken.parameters()} == {torch.bfloat16}
    assert half.layers[0].error == pytest.approx(full.layers[0].error, rel=0.1)


GOOD = torch.zeros(1, 1, 16, 16, 16)


@pytest.mark.parametrize(
    ("kernels", "volumes", "options", "message"),
    [
        ("12d", [], {}, "init 'project' needs volumes .* use 'slice' or 'sum'"),
        ("12d", [], {"init": "mean"}, "unknown init 'mean', allowed are project, slice, sum, random"),
        ("45d", [GOOD], {}, "unknown set '45d'"),
        ("12d", [GOOD], {"division": "greedy"}, "unknown division 'greedy', allowed are even, best"),
        ("12d", [], {"init": "random", "division": "best"}, "init 'random' needs division 'even'"),
        ("12d", [GOOD], {"budget": {"limit": 1, "unit": "params"}}, "a budget is for division 'best'"),
        ("12d", [GOOD], {"samples": 0}, "samples 0 must be at least 1"),
        ("12d", [GOOD], {"granularity": 3}, r"^1: granularity 3 does not divide 4 channels"),
        ({"1x3x3": 3}, [GOOD], {}, r"^1: sub-kernels give 3 channels, the layer has 4"),
        ({"7": {"1x3x3": 4}}, [GOOD], {}, r"^splits for 7; convolutions to shrink are 1\.$"),
        ("12d", [GOOD], {"include": "encoder.*"}, "no convolution has a name like 'encoder"),
        ("12d", [torch.zeros(1, 2, 8, 8, 8)], {}, r"does not take an input of 1x2x8x8x8 \(0 reads 1 channels, not 2\)"),
        ("12d", [GOOD, torch.zeros(1, 2, 8, 8, 8)], {}, r"does not take volumes\[1\] of 1x2x8x8x8"),
        ("12d", [GOOD[0]], {}, r"^volumes\[0\] has shape \(1, 16, 16, 16\), it must be \(N, C, D, H, W\)"),
        ("12d", [GOOD / 0], {}, r"^volumes\[0\] of 1x1x16x16x16 has values that are not finite"),
        ("12d", [GOOD], {"division": "best", "budget": {"limit": 1}}, r"^budget {'limit': 1} must have a unit of"),
        ("12d", [GOOD], {"division": "best", "budget": {"limit": 1, "unit": "GB"}}, "must have a unit of params, mul"),
        ("12d", [GOOD], {"division": "best", "budget": {"share": 0.5, "unit": "ms"}}, "a share of all but ms"),
        (
            "12d",
            [GOOD],
            {"division": "best", "budget": {"limit": 9, "unit": "params"}},
            "no split has at most 9.0 params",
        ),
    ],
)
def test_illegal_arguments_leave_the_network_alone(kernels, volumes, options, message: str) -> None:
    """One line says what is wrong and what is allowed; the network is as before."""
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 1, 1)
    )
    network = nn.Sequential(*(network[i] for i in (0, 2, 1, 3)))
    before = state_of(network)
    with pytest.raises(ValueError, match=message) as error:
        shrink(network, kernels, volumes, **options)
    assert "\n" not in str(error.value)
    assert_unchanged(network, before)
