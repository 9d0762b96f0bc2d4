# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The convolutions that can be shrunk are found, and for every other one there is a reason."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DynUNet, VNet
from torch import Tensor, nn

from cakes_monai.blocks import CakesConv
from cakes_monai.conversion import find_layers

SIZE = (1, 1, 16, 16, 16)


def conv(in_channels: int = 4, out_channels: int = 4, kernel_size: int = 3, padding: int = 1, **options) -> nn.Conv3d:
    """A convolution that can be shrunk, with other options one that cannot."""
    return nn.Conv3d(in_channels, out_channels, kernel_size, padding=padding, **options)


def between(*layers: nn.Module) -> nn.Sequential:
    """Layers between a stem and an end."""
    return nn.Sequential(conv(1), *layers, conv(4, 2, 1, 0))


class Standardised(nn.Conv3d):
    """A convolution that does something else with its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def hooked() -> nn.Conv3d:
    """A convolution of which something is expected before it is run."""
    layer = conv()
    layer.register_forward_pre_hook(lambda module, args: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (conv(kernel_size=5, padding=2), "kernel 5x5x5"),
        (nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1)), "kernel 1x3x3"),
        (conv(groups=2), "2 groups"),
        (conv(dilation=2, padding=2), "dilation 2x2x2"),
        (conv(padding=0), "padding (0, 0, 0), a sub-kernel needs 1"),
        (nn.ConvTranspose3d(4, 4, 3, padding=1), "a ConvTranspose3d, not a Conv3d"),
        (Standardised(4, 4, 3, padding=1), "a Standardised, not a Conv3d"),
        (nn.utils.parametrizations.weight_norm(conv()), "a ParametrizedConv3d, not a Conv3d"),
        (CakesConv(4, {"3x3x3": 3, "1x1x3": 1}), "has sub-kernels already"),
        (hooked(), "has hooks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_reason_to_pass_over_a_convolution(layer: nn.Module, reason: str) -> None:
    """The reason is given, in the result and, where nothing is left, in the error."""
    found = find_layers(between(conv(), layer), SIZE)
    assert list(found.layers) == ["1"]
    assert found.passed_over == {"0": "reads the image", "2": reason, "3": "kernel 1x1x1"}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        find_layers(between(layer), SIZE)
    assert str(error.value) == (
        f"no convolution of Sequential can be shrunk: 0 (reads the image); 1 ({reason}); 2 (kernel 1x1x1)."
    )


@pytest.mark.parametrize(
    "layer",
    [conv(bias=False), conv(stride=(1, 2, 2)), conv(padding_mode="reflect"), nn.Conv3d(4, 4, 3, padding="same")],
    ids=["bias", "stride", "padding mode", "same"],
)
def test_options_that_are_no_obstacle(layer: nn.Module) -> None:
    """Strides, padding modes, a missing bias and "same" padding are shrunk."""
    assert list(find_layers(between(layer), SIZE).layers) == ["1"]


def test_networks_of_monai(network: nn.Module) -> None:
    """All convolutions of kernel 3 and padding 1 are found but those that read the image or are run last."""
    found = find_layers(network, SIZE)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            end = module.in_channels == 1 or module.out_channels == 2
            assert (name in found.layers) != end, name
        elif isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            assert name in found.passed_over


def test_vnet_has_nothing_to_shrink() -> None:
    """Its 5x5x5 convolutions are named in the error, with the others."""
    with pytest.raises(ValueError, match=r"VNet can be shrunk: in_tr\.conv_block\.conv, .*out_tr.* \(kernel 5x5x5\); "):
        find_layers(VNet(), SIZE)


def test_patterns_choose() -> None:
    """What is not included or excluded is passed over with that reason."""
    network = between(nn.Sequential(conv(), conv()), nn.Sequential(conv()))
    found = find_layers(network, SIZE, include=["1.*", "0"], exclude="*.1")
    assert list(found.layers) == ["1.0"]
    assert found.passed_over == {
        "0": "reads the image",
        "1.1": "excluded",
        "2.0": "not included",
        "3": "kernel 1x1x1",
    }
    with pytest.raises(
        ValueError, match=r"^no convolution has a name like 'encoder\.\*'; there are 0, 1\.0, 1\.1, 2\.0, 3\.$"
    ):
        find_layers(network, SIZE, exclude="encoder.*")


def test_ends_are_kept_only_when_wanted() -> None:
    """Without keep_ends stem and last convolution are found too."""
    network = nn.Sequential(conv(1), conv(), conv())
    assert find_layers(network, SIZE).passed_over == {"0": "reads the image", "2": "the last convolution"}
    assert list(find_layers(network, SIZE, keep_ends=False).layers) == ["0", "1", "2"]


def test_what_is_not_run_is_passed_over() -> None:
    """A layer that only a training runs has no input to learn from."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.auxiliary = between(conv()), conv(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.auxiliary(x) if self.training else self.main(x)

    found = find_layers(Auxiliary().train(), SIZE)
    assert list(found.layers) == ["main.1"]
    assert found.passed_over["auxiliary"] == "not run in eval mode"


def test_norms_behind_layers_are_those_that_alone_read_them() -> None:
    """A norm counts only when nothing stands between, and nothing else reads the layer's output."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([conv(1), conv(), conv(), conv(), conv()])
            self.norms = nn.ModuleList([nn.InstanceNorm3d(4, affine=True) for _ in range(4)])
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norms[0](self.convs[0](x))
            x = self.norms[1](self.act(self.convs[1](x)))  # in place, so the same tensor
            y = self.convs[2](x)
            x = self.norms[2](y) + y
            return self.norms[3](self.convs[3](x)) + self.convs[4](x)

    layers = find_layers(Residual(), SIZE, keep_ends=False).trace.layers
    assert [layers[f"convs.{i}"].norm for i in range(5)] == ["norms.0", None, None, "norms.3", None]


def test_shared_layers_and_weights_are_refused() -> None:
    """The places are named; what is excluded may be shared."""
    shared = conv()
    with pytest.raises(ValueError, match=r"^1 and 2 are the same, a shared layer; exclude 1\.$"):
        find_layers(between(shared, shared), SIZE)
    tied = conv()
    tied.weight = shared.weight
    with pytest.raises(ValueError, match=r"^1\.weight and 2\.weight are the same, a shared layer; exclude 1\.$"):
        find_layers(between(shared, tied), SIZE)
    assert list(find_layers(between(shared, shared, conv()), SIZE, exclude="1").layers) == ["3"]


def test_parts_under_two_names_are_not_shared() -> None:
    """DynUNet holds its blocks under two names, which is no obstacle."""
    network = DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 4, 4])
    assert network.skip_layers.downsample is network.input_block
    assert "bottleneck.conv2.conv" in find_layers(network, SIZE).layers


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_layers_in_script_modules_are_refused() -> None:
    """Their name is given; excluded they are left alone; a whole ScriptModule is refused as such."""
    network = between(torch.jit.script(nn.Sequential(conv())), conv())
    with pytest.raises(ValueError, match=r"^1\.0 is in a ScriptModule, where no layer can be replaced; exclude it"):
        find_layers(network, SIZE)
    with pytest.raises(
        ValueError, match=r"^the network is wrapped as ScriptModule; give the network it was made of\.$"
    ):
        find_layers(torch.jit.script(network), SIZE)
    with pytest.raises(
        ValueError, match=r"^the network is wrapped as DataParallel; give the network it was made of\.$"
    ):
        find_layers(nn.DataParallel(network), SIZE)
    with pytest.raises(
        ValueError, match=r"^the network is wrapped as OptimizedModule; give the network it was made of\.$"
    ):
        find_layers(torch.compile(network), SIZE)


def test_weights_that_are_not_finite_are_refused() -> None:
    """The layer is named, unless it is excluded."""
    broken = conv()
    broken.weight.data[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^2: its weights are not finite\.$"):
        find_layers(between(conv(), broken), SIZE)
    assert list(find_layers(between(conv(), broken), SIZE, exclude="2").layers) == ["1"]
