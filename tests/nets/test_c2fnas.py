# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The C2FNAS network: every size, every export, no weights of another architecture."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cakes_monai.architecture import Architecture
from cakes_monai.nets import C2FNAS

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated",  # TorchScript is still what MONAI's ckpt_export and MONAI Label use
    "ignore:.*torch.jit",
)


def network(name: str = "cakes-manual-123d", init_filters: int = 4, **options) -> C2FNAS:
    """A small network in eval mode with seeded weights."""
    torch.manual_seed(0)
    return C2FNAS(1, 3, Architecture.published(name, init_filters), init_filters, **options).eval()


def image(*size: int) -> Tensor:
    """A seeded image."""
    return torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(32, 32, 32), (17, 16, 16), (35, 50, 36), (1, 33, 16)])
def test_any_size_comes_back(size) -> None:
    """The output has the input's size, and padding by hand with the border gives the same numbers."""
    padded = [-length % 16 for length in size]
    margins = [0, padded[2], 0, padded[1], 0, padded[0]]
    net, x = network(), image(*size)
    expected = net(torch.nn.functional.pad(x, margins, mode="replicate"))
    output = net(x)
    assert output.shape == (1, 3, *size)
    torch.testing.assert_close(output, expected[:, :, : size[0], : size[1], : size[2]])


def test_an_image_that_leaves_one_voxel_is_refused() -> None:
    """Instance norm of a single voxel is undefined; the message says what is needed."""
    with pytest.raises(ValueError, match=r"an input of 16x16x16 leaves one voxel .* longer than 16"):
        network()(image(16, 16, 16))


def test_the_skips_are_connected() -> None:
    """Each cell's output reaches the result: without it (zeros instead) the result is another one."""
    net, x = network(), image(32, 32, 32)
    expected = net(x)
    for index, cell in enumerate(net.cells):
        for branch, operation in enumerate(cell.operations):
            handle = operation.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
            assert (net(x) - expected).abs().max() > 1e-4, f"input {branch} of cell {index} has no effect"
            handle.remove()


@pytest.mark.parametrize("name", Architecture.published_names())
def test_torchscript_and_export_give_the_same(name: str) -> None:
    """torch.jit.script and torch.export reproduce the eager result."""
    net, x = network(name), image(32, 35, 48)
    expected = net(x)
    torch.testing.assert_close(torch.jit.script(net)(x), expected)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)


def test_exported_with_free_sizes() -> None:
    """One exported program serves all batches and all sizes that divide."""
    depth, height, width = (16 * torch.export.Dim(axis, min=2, max=16) for axis in "dhw")
    shapes = ({0: torch.export.Dim("n", min=1, max=8), 2: depth, 3: height, 4: width},)
    program = torch.export.export(network(), (torch.cat([image(48, 64, 80)] * 2),), dynamic_shapes=shapes)
    other = torch.cat([image(32, 48, 64)] * 3)
    torch.testing.assert_close(program.module()(other), network()(other))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_runs_like_torch(tmp_path: Path) -> None:
    """The ONNX file, run by ONNX Runtime, gives torch's result."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = network(), image(32, 32, 48)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, input_names=["image"])
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (output,) = session.run(None, {"image": x.numpy()})
    np.testing.assert_allclose(output, net(x).detach().numpy(), atol=2e-3)


def test_json_content_is_as_good_as_the_object() -> None:
    """The constructor takes what JSON can say."""
    content = Architecture.published("c2fnas-panc").to_json()
    assert C2FNAS(1, 2, content, init_filters=4).architecture == Architecture.published("c2fnas-panc")


def test_an_architecture_for_another_width_is_refused() -> None:
    """Splits for 32 filters do not fit a network of 16."""
    with pytest.raises(ValueError, match=r"cells\[0\]\.kernels\[0\]: .* the cell has 32 \(level 0, init_filters 16\)"):
        C2FNAS(1, 2, Architecture.published("cakes-manual-1d"), init_filters=16)


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_another_architecture_are_refused(strict: bool) -> None:
    """The message names the layer; strict=False (MONAI Label) does not help."""
    with pytest.raises(ValueError, match=r"cells\.0\.operations\.0\.convs\.0: the weights are for sub-kernels"):
        network("cakes-manual-1d").load_state_dict(network("c2fnas-3d").state_dict(), strict=strict)


def test_dropout_is_behind_every_cell_and_off_in_eval() -> None:
    """MONAI Label builds the network with dropout: same weights, same eval result, random in training."""
    net, x = network(dropout=0.2), image(32, 32, 32)
    net.load_state_dict(network().state_dict())
    torch.testing.assert_close(net(x), network()(x))
    net.train()
    assert (net(x) - net(x)).abs().max() > 0


def test_norm_and_activation_are_chosen_as_in_monai() -> None:
    """Group norm and leaky ReLU by MONAI's names; the network can be copied."""
    net = copy.deepcopy(network(init_filters=8, norm=("GROUP", {"num_groups": 4}), act="LEAKYRELU"))
    kinds = {type(module).__name__ for module in net.modules()}
    assert {"GroupNorm", "LeakyReLU"} <= kinds
    assert not {"InstanceNorm3d", "ReLU"} & kinds
