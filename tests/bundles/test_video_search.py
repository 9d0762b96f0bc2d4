# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernel search of the bundle for videos: both priorities, killed and resumed, budgets, and the network it finds."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_video.architectures import video_architecture
from cakes_video.cost import video_cost
from cakes_video.residual_plan import replaced_convolutions

EPOCHS = 10
SIZE = [4, 32, 32]
PRIORITIES = ("performance", "cost")


@pytest.fixture(scope="module", params=PRIORITIES)
def searched(request: pytest.FixtureRequest, video_search: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search of either priority that ran from beginning to end."""
    run = video_search(tmp_path_factory.mktemp(request.param), priority=request.param, max_epochs=EPOCHS)
    run.here()
    return run


#: After this little training gates differ by so much that a budget leaves layers mixed.
APART = {"max_epochs": 3, "learning_rate": 0.3, "warmup_epochs": 0, "sub_kernels": "123d"}


@pytest.fixture(scope="module")
def short_search(video_search: Any) -> Any:
    """Makes a search of one epoch."""
    return lambda folder, **options: video_search(folder, **{"max_epochs": 1, **options})


def found(run: Any) -> BackboneArchitecture:
    """The architecture a search wrote."""
    return BackboneArchitecture.load(run.folder / "eval" / "architecture.json")


def channels(architecture: BackboneArchitecture) -> Counter[str]:
    """Channels of each sub-kernel in all layers."""
    return sum((Counter(split.as_dict()) for split in architecture.splits.values()), Counter())


def test_what_a_search_leaves(searched: Any) -> None:
    """An architecture of all layers with its origin, the sub-kernel of each of its channels, two pictures."""
    architecture, places = found(searched), replaced_convolutions("resnet18", 4)
    origin, output = architecture.origin, searched.folder / "eval"
    assert (origin["priority"], origin["seed"]) == (searched.options["priority"], 0)
    assert origin["set"] == ["1x3x3", "3x1x1"]
    assert origin["data"] == searched.checkpoint["identity"]["data"]
    assert {place: split.out_channels for place, split in architecture.splits.items()} == places
    kernels = json.loads((output / "kernels.json").read_text())
    used = channels(architecture)
    assert kernels["dimensions"] == {"1D": used["3x1x1"], "2D": used["1x3x3"], "3D": 0}
    assert used.total() == sum(places.values())
    for picture in ("architecture.png", "gates.png"):
        assert (output / picture).stat().st_size > 5000


def test_killed_and_resumed_it_finds_the_same(searched: Any, video_search: Any, tmp_path: Path, same_bits: Any) -> None:
    """After two SIGKILLs, --resume true ends with the same architecture.json and weights, bit by bit."""
    run = video_search(tmp_path, priority=searched.options["priority"], max_epochs=EPOCHS, resume=True)
    for seconds in (0.0, 0.05):
        run.killed(seconds)
    run.here()
    same_bits(run.checkpoint, searched.checkpoint)
    for name in ("architecture.json", "kernels.json"):
        assert (run.folder / "eval" / name).read_bytes() == (searched.folder / "eval" / name).read_bytes()


def test_the_found_network_is_trained_by_train_json(searched: Any, video_training: Any, tmp_path: Path) -> None:
    """--architecture is all that train.json needs, and the model has the parameters of the closed form."""
    path = searched.folder / "eval" / "architecture.json"
    run = video_training(tmp_path, architecture=str(path), max_epochs=1)
    run.here()
    expected = video_cost(found(searched), 3, 4, SIZE).params
    learned = {name: value for name, value in run.model.items() if name.endswith(("weight", "bias"))}
    assert sum(value.numel() for value in learned.values()) == expected


def test_a_strong_penalty_finds_a_cheap_network(short_search: Any, tmp_path: Path) -> None:
    """With cost priority and a large lambda 3D sub-kernels, whose gates cost 9 times as much, are chosen least."""
    run = short_search(tmp_path, priority="cost", sub_kernels="123d", lasso=0.05, max_epochs=8)
    run.here()
    dimensions = json.loads((tmp_path / "eval" / "kernels.json").read_text())["dimensions"]
    assert dimensions["1D"] > 2 * dimensions["3D"], dimensions


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"sub_kernels": "23d", "granularity": 2}, {"3x3x3", "1x3x3"}),
        ({"sub_kernels": ["3x3x3", "3x1x1"], "rule": "top_c"}, {"3x3x3", "3x1x1"}),
        ({"sub_kernels": "123d", "priority": "cost", "beta": "flops"}, {"3x3x3", "1x3x3", "3x1x1"}),
    ],
    ids=["set", "list", "flops"],
)
def test_sets_rules_and_betas(options: dict[str, Any], allowed: set[str], short_search: Any, tmp_path: Path) -> None:
    """Only sub-kernels of the set, by its name or as a list, in multiples of the granularity."""
    run = short_search(tmp_path, **options)
    run.here()
    architecture = found(run)
    assert set(channels(architecture)) <= allowed
    counts = [count for split in architecture.splits.values() for _, count in split.counts]
    assert all(count % options.get("granularity", 1) == 0 for count in counts)


@pytest.mark.parametrize("unit", ["params", "paper_flops"])
def test_a_budget_in_closed_form(unit: str, short_search: Any, tmp_path: Path) -> None:
    """The network costs at most the limit, and not much less, and the origin says how much."""
    limit = getattr(video_cost(video_architecture("manual-12d", "resnet18", 4), 3, 4, SIZE), unit)
    run = short_search(tmp_path, **APART, budget={"limit": limit, "unit": unit, "size": SIZE})
    run.here()
    cost = getattr(video_cost(found(run), 3, 4, SIZE), unit)
    assert cost == found(run).origin["budget"]["cost"]
    assert 0.9 * limit < cost <= limit


def test_a_budget_in_milliseconds(short_search: Any, tmp_path: Path) -> None:
    """Measured times are kept; with them a limit between the cheapest network and the one found without is kept."""
    budget = {"unit": "ms", "size": SIZE}
    run = short_search(tmp_path, **APART, budget={"limit": 1e6, **budget})
    run.here()
    free = found(run).origin["budget"]["cost"]
    times = (tmp_path / "eval" / "latency.json").read_bytes()
    (least,) = re.findall(
        r"no split has at most 0 ms, the smallest possible is ([\d.]+)\.\n",
        short_search(tmp_path, **APART, budget={"limit": 0, **budget}).messages() + "\n",
    )
    limit = (float(least) + free) / 2
    run = short_search(tmp_path, **APART, budget={"limit": limit, **budget})
    run.here()
    assert float(least) <= found(run).origin["budget"]["cost"] <= limit * (1 + 1e-9)
    assert (tmp_path / "eval" / "latency.json").read_bytes() == times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "speed"}, "unknown priority 'speed', allowed are performance, cost"),
        ({"sub_kernels": "4d"}, "unknown set '4d', allowed are 1d, 2d, 3d, 12d, 23d, 123d or a list of sub-kernels."),
        ({"sub_kernels": ["3x3x3", "5x5x5"]}, "5x5x5"),
        ({"rule": "best"}, "unknown rule 'best', allowed are argmax, top_c"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19', allowed are resnet18, resnet34, resnet50, resnet101."),
        ({"priority": "cost", "lasso": -1.0}, "must be at least 0"),
        ({"priority": "cost", "beta": "money"}, "unknown beta 'money', allowed are params, flops, latency"),
        ({"granularity": 3}, "layer1.0.conv1: granularity 3 does not divide its 4 channels."),
        ({"budget": {"limit": 10, "unit": "params", "size": SIZE}}, "the smallest possible is"),
        ({"budget": {"limit": 10, "unit": "euros", "size": SIZE}}, "euros"),
    ],
)
def test_wrong_settings_are_refused_before_the_search(
    options: dict[str, Any], message: str, short_search: Any, tmp_path: Path
) -> None:
    """Each is one clear line, and nothing is written."""
    lines = short_search(tmp_path / "run", **options).messages().splitlines()
    assert any(message in line for line in lines), lines
    assert not list((tmp_path / "run").rglob("*.json"))


def test_a_checkpoint_of_another_search_is_refused(searched: Any, video_search: Any, tmp_path: Path) -> None:
    """Another set, width or priority cannot continue a search; its results stay."""
    shutil.copytree(searched.folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "eval" / "architecture.json").read_bytes()
    priority = searched.options["priority"]
    other = next(name for name in PRIORITIES if name != priority)
    for options, message in (
        ({"sub_kernels": "123d"}, "written with sub_kernels 12d, this training has 123d"),
        ({"width": 8}, "written with width 4, this training has 8"),
        ({"priority": other}, f"written with priority {priority}, this training has {other}"),
    ):
        run = video_search(tmp_path, **{"priority": priority, "resume": True, **options})
        assert f"search_checkpoint.pt: was {message}" in run.messages()
    assert (tmp_path / "eval" / "architecture.json").read_bytes() == before


def test_two_processes(video_search: Any, tmp_path: Path) -> None:
    """Two processes (torchrun, gloo) search together and write one architecture."""
    run = video_search(tmp_path, max_epochs=2, batch_size=2)
    run.on_two_processes("multi_gpu_train.json")
    assert run.checkpoint["iteration"] == 2 * 2  # 9 clips, two processes, two a batch: two iterations an epoch
    assert found(run).origin["priority"] == "performance"
