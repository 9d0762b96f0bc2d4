# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""An optimised network gives the results of the original one, by the plans that were measured."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet, UNet
from torch import nn

from cakes_monai import native
from cakes_monai.architecture import Architecture
from cakes_monai.blocks import CakesConv
from cakes_monai.conversion import shrink
from cakes_monai.inference import PLANS, kernel_of, optimize_for_inference
from cakes_monai.inference import optimization as optimization_module
from cakes_monai.nets import C2FNAS, ResDSN

SPLIT = {"3x3x3": 10, "1x3x3": 9, "1x1x3": 13}


@pytest.fixture(scope="module")
def trained(repository: Path) -> C2FNAS:
    """The hippocampus bundle's network with its weights."""
    bundle = repository / "bundles" / "hippocampus_mr_c2fnas_cakes"
    network = C2FNAS(1, 3, Architecture.load(bundle / "configs" / "architecture.json"), init_filters=14).eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network


@pytest.fixture(scope="module")
def volume(repository: Path) -> torch.Tensor:
    """A real volume, normalised, cut to ``(1, 1, 32, 48, 32)``."""
    path = repository / "bundles" / "hippocampus_mr_c2fnas_cakes" / "sample_data" / "hippocampus_003.nii.gz"
    image = nib.load(path).get_fdata().astype(np.float32)[:32, :48, :32]
    return torch.from_numpy((image - image.mean()) / image.std())[None, None]


def test_trained_weights_in_float32(trained: C2FNAS, volume: torch.Tensor) -> None:
    """Within 1e-5 of the largest logit, and the network itself stays as it was."""
    with torch.no_grad():
        expected = trained(volume)
        found = optimize_for_inference(trained, volume)(volume)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert torch.equal(trained(volume), expected)


def test_trained_weights_in_bfloat16(trained: C2FNAS, volume: torch.Tensor) -> None:
    """The label map has a Dice of at least 0.995 with that of float32 for each class."""
    fast = optimize_for_inference(trained, volume, dtype=torch.bfloat16)
    with torch.no_grad():
        expected, found = trained(volume).argmax(1), fast(volume).argmax(1)
    for label in (1, 2):
        ours, theirs = found == label, expected == label
        assert 2 * (ours & theirs).sum() >= 0.995 * (ours.sum() + theirs.sum())


def test_other_sizes_and_batches(trained: C2FNAS, volume: torch.Tensor) -> None:
    """A plan is chosen for the example's size and right for any other."""
    fast = optimize_for_inference(trained, volume[..., :16])
    x = torch.cat([volume, volume.flip(2)])[:, :, :20, :30]
    with torch.no_grad():
        torch.testing.assert_close(fast(x), trained(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in PLANS if not name.startswith("triton")])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_plan_is_the_layer(name: str, stride: int) -> None:
    """Whatever order, bias, stride and type; padding other than with zeros is left to the layer itself."""
    torch.manual_seed(0)
    layer = CakesConv(6, SPLIT, stride, bias=True, ordered=True)
    layer.order.copy_(torch.randperm(32))
    x = torch.randn(2, 6, 5, 6, 7)
    kernel = kernel_of(layer)
    assert kernel is not None
    module = PLANS[name](kernel, torch.device("cpu"), torch.float32)
    if module is None:
        assert name == "native", "only the native plan may be missing"
        pytest.skip(str(native.missing()))
    with torch.no_grad():
        torch.testing.assert_close(module(x), layer(x), rtol=1e-4, atol=1e-5)
        plain = nn.Conv3d(6, 9, 3, stride, 1)
        plain_plan = PLANS[name](kernel_of(plain), torch.device("cpu"), torch.float32)
        assert (plain_plan is None) == (name in ("separate", "merged"))  # nothing to separate or to merge
        if plain_plan is not None:
            torch.testing.assert_close(plain_plan(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        CakesConv(4, {"3x3x3": 4}, padding_mode="reflect"),
        nn.Conv3d(4, 4, 5, padding=2),
        nn.Conv3d(4, 4, 3),
        nn.Conv3d(4, 4, 3, padding=1, groups=2),
        nn.Conv3d(4, 4, 3, padding=2, dilation=2),
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose3d(4, 4, 2, stride=2),
    ],
)
def test_what_has_no_plan(layer: nn.Module) -> None:
    """Other layers are run as they are."""
    assert kernel_of(layer) is None


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(lambda: ResDSN(1, 2, 4), id="ResDSN"),
        pytest.param(
            lambda: DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 16], res_block=True), id="DynUNet"
        ),
        pytest.param(lambda: UNet(3, 1, 2, [8, 16], [2], num_res_units=2, norm="batch"), id="UNet with batch norms"),
    ],
)
def test_any_network(network) -> None:  # type: ignore[no-untyped-def]  # what makes one
    """Networks of others, dense and shrunken with an order of channels, give their own results."""
    torch.manual_seed(0)
    original = network().eval()
    x = torch.randn(1, 1, 16, 16, 16)
    for given in (original, shrink(original, "123d", granularity=2, init="random")[0].eval()):
        with torch.no_grad():
            expected = given(x)
            fast = optimize_for_inference(given, x)
            assert fast.plans
            torch.testing.assert_close(fast(x), expected, rtol=1e-3, atol=1e-3)


def test_a_network_that_keeps_its_last_results() -> None:
    """After a step of training with deep supervision MONAI's DynUNet cannot be copied as it is; its results count."""
    torch.manual_seed(0)
    options = {"filters": [4, 8, 8], "norm_name": ("INSTANCE", {"affine": True})}
    network = DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], deep_supervision=True, deep_supr_num=1, **options)
    x = torch.randn(1, 1, 16, 16, 16)
    network(x).sum().backward()
    fast = optimize_for_inference(network, x, plans=["dense"])
    with torch.no_grad():
        torch.testing.assert_close(fast(x), network.eval()(x), atol=1e-5, rtol=1e-4)


def test_times_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second time nothing is measured; the table says what was chosen and why; the fastest is chosen."""
    network = nn.Sequential(CakesConv(4, {"3x3x3": 2, "1x1x3": 2}), nn.Conv3d(4, 2, 1))
    x, cache = torch.zeros(1, 4, 6, 6, 6), tmp_path / "times.json"
    first = optimize_for_inference(network, x, cache=cache, plans=["separate", "dense"])
    known = json.loads(cache.read_text())
    assert len(known) == 2  # the 1x1x1 convolution has no choice
    slowest = max(known, key=lambda key: known[key])
    assert not slowest.endswith(first.plans[0].plan)
    monkeypatch.setattr(optimization_module, "median_milliseconds", None)
    cache.write_text(json.dumps(known | {slowest: 0.0}))
    second = optimize_for_inference(network, x, cache=cache, plans=["separate", "dense"])
    assert slowest.endswith(second.plans[0].plan)
    lines = second.table().splitlines()
    assert lines[0].split() == ["ms", "input", "plan", "separate", "dense"]
    assert lines[1].split()[:3] == ["0", "1x4x6x6x6", second.plans[0].plan]
    cache.write_text("[]")
    with pytest.raises(ValueError, match="is no file of measured times"):
        optimize_for_inference(network, x, cache=cache)


def test_bad_plans() -> None:
    """Unknown plans are named, and a choice that cannot run says so."""
    network, x = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1)), torch.zeros(1, 1, 4, 4, 4)
    with pytest.raises(ValueError, match="unknown plan 'fast', allowed are separate, merged, dense, native, triton-16"):
        optimize_for_inference(network, x, plans=["fast"])
    with pytest.raises(ValueError, match=r"0: none of the plans separate, triton-16 can run on cpu in torch.float32"):
        optimize_for_inference(network, x, plans=["separate", "triton-16"])
