# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""A shrunken network is what its constructor, architecture.json and weights say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.conversion import load_shrunken, rebuild, shrink


def plain() -> nn.Sequential:
    """Stem, one convolution to shrink, head."""
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(8, 1, 1))


def test_files_and_constructor_give_the_network_back(
    make: Callable[[], nn.Module], volumes: list[Tensor], tmp_path: Path
) -> None:
    """Saved and loaded, the outputs are the same bit by bit; the fresh network is not changed."""
    shrunken, report = shrink(make().eval(), "123d", volumes[:1], samples=100)
    report.architecture.save(tmp_path / "architecture.json")
    torch.save(shrunken.state_dict(), tmp_path / "model.pt")
    fresh = make().eval()
    loaded = load_shrunken(fresh, tmp_path / "architecture.json", tmp_path / "model.pt")
    with torch.no_grad():
        assert torch.equal(loaded(volumes[1]), shrunken(volumes[1]))
    torch.testing.assert_close(fresh.state_dict(), make().state_dict(), rtol=0, atol=0)
    assert BackboneArchitecture.load(tmp_path / "architecture.json") == report.architecture
    assert "order" not in (tmp_path / "architecture.json").read_text()


def test_the_order_of_channels_travels_with_the_weights(volumes: list[Tensor]) -> None:
    """Two shrunken networks of the same splits and other orders exchange weights without a change of outputs."""
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(shrink(plain(), "2d", volumes, samples=100)[0])
    first, second = networks
    assert not torch.equal(first[1].order, second[1].order)
    with torch.no_grad():
        expected = first(volumes[0])
        second.load_state_dict(first.state_dict())
        assert torch.equal(second(volumes[0]), expected)


def architecture(**layers: object) -> dict[str, object]:
    """The content of architecture.json."""
    return {
        "format": 1,
        "backbone": "Sequential",
        "layers": {name.strip("_"): splits for name, splits in layers.items()},
    }


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            {"_7": [{"1x3x3": 4}]},
            r"^7: the architecture has a split for what cannot be shrunk \(is not in the network\)",
        ),
        ({"_2": [{"1x3x3": 1}]}, r"^2: the architecture has a split for what cannot be shrunk \(kernel 1x1x1\)"),
        ({"_1": [{"1x3x3": 3}]}, r"^1: sub-kernels give 3 channels, the layer has 8\.$"),
        ({"_1": [{"1x3x3": 8}, {"3x1x1": 8}]}, r"^1: the architecture .* \(has several splits\)"),
        ({"_1": [{"1x3x5": 4}]}, r"layers\['1'\]: \[0\]: unknown sub-kernel '1x3x5'"),
    ],
)
def test_architectures_of_other_networks_are_refused(layers, message: str) -> None:
    """The layer is named, and the network not changed."""
    network = plain()
    with pytest.raises(ValueError, match=message):
        rebuild(network, architecture(**layers))
    assert [type(layer) for layer in network] == [nn.Conv3d] * 3


def test_bad_files_are_named(volumes: list[Tensor], tmp_path: Path) -> None:
    """A missing or broken file, and weights of another split, are errors of one line with the file's name."""
    shrunken, report = shrink(plain(), "12d", volumes, samples=100)
    good, weights = tmp_path / "architecture.json", tmp_path / "model.pt"
    report.architecture.save(good)
    torch.save(shrunken.state_dict(), weights)
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        load_shrunken(plain(), tmp_path / "none.json", weights)
    with pytest.raises(ValueError, match=r"none\.pt: this is no file of weights \(FileNotFoundError\)"):
        load_shrunken(plain(), good, tmp_path / "none.pt")
    (tmp_path / "torn.pt").write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"torn\.pt: this is no file of weights"):
        load_shrunken(plain(), good, tmp_path / "torn.pt")
    torch.save(shrink(plain(), "2d", volumes, samples=100)[0].state_dict(), weights)
    with pytest.raises(
        ValueError, match=r"^.*model\.pt: 1: the weights are for sub-kernels .*, the network has "
    ) as error:
        load_shrunken(plain(), good, weights)
    assert "\n" not in str(error.value)
    torch.save(plain().state_dict(), weights)
    with pytest.raises(ValueError, match=r"model\.pt: 1: the weights are for sub-kernels \{\}, the network has "):
        load_shrunken(plain(), good, weights)
