# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
Time and peak memory of a training step of CAKES and its super-networks, over those of the dense 3D network.

    python benchmarks/supernet_cost.py --amp --execution native   # measures one setting, networks in turns
    python benchmarks/supernet_cost.py --table                    # prints all settings that were measured

Results are in benchmarks/results/supernet_cost.json, one entry for each setting.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memory_watch import GB, in_own_process, peak_resident_gb
from monai.losses import DiceCELoss
from torch import nn

from cakes_monai.architecture import Architecture
from cakes_monai.atomic_file import written_whole
from cakes_monai.blocks import SampledPaths, draw_paths, set_execution
from cakes_monai.nets import C2FNAS, C2FNASSupernet
from cakes_monai.search import manual_architecture

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "supernet_cost.json"
NETWORKS = ("dense 3D", "manual", "performance", "cost")


def main(
    size: Annotated[tuple[int, int, int], typer.Option(help="Voxels of the patch along D, H, W.")] = (32, 48, 32),
    batch_size: Annotated[int, typer.Option(min=1)] = 2,
    init_filters: Annotated[int, typer.Option(min=1)] = 14,
    sub_kernels: Annotated[str, typer.Option(help="Set of candidates.")] = "123d",
    execution: Annotated[
        str, typer.Option(help="Of the manual network and the performance super-network: dense or separate.")
    ] = "dense",
    compiled: Annotated[bool, typer.Option("--compile", help="Through torch.compile.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of each network, taken in turns.")] = 7,
    amp: Annotated[bool, typer.Option(help="bfloat16.")] = False,
    networks: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(NETWORKS),
    granularity: Annotated[int, typer.Option(min=1, help="Of the manual network's split.")] = 1,
    output: Annotated[Path, typer.Option(help="JSON file of the results.")] = RESULTS,
    table: Annotated[bool, typer.Option("--table", help="Only print what was measured.")] = False,
) -> None:
    """Measure, print and write."""
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    if table:
        typer.echo(_table(known))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = networks.split(",")
    setting: dict[str, Any] = {
        "size": size,
        "batch_size": batch_size,
        "init_filters": init_filters,
        "sub_kernels": sub_kernels,
        "execution": execution,
        "granularity": granularity,
        "amp": amp,
        "compile": compiled,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps": steps,
    }
    runs = {name: _step(name, setting, device) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(steps + 2):
        for name, run in runs.items():
            elapsed = _timed(run, device)
            if round_number >= 2:  # the first ones make states and choose algorithms
                seconds[name].append(elapsed)
    del runs
    memory = {name: _memory(name, setting, device) for name in names}
    rows: dict[str, dict[str, Any]] = {
        name: {"seconds": statistics.median(seconds[name]), "all_seconds": seconds[name], "mib": memory[name]}
        for name in names
    }
    first = rows[names[0]]
    for row in rows.values():
        row["time_ratio"], row["memory_ratio"] = row["seconds"] / first["seconds"], row["mib"] / first["mib"]
    entry = {"setting": json.loads(json.dumps(setting)), "networks": rows}
    typer.echo(_table([entry]))
    with written_whole(output) as temporary:
        others = [old for old in known if old["setting"] != entry["setting"]]
        temporary.write_text(json.dumps([*others, entry], indent=1) + "\n", encoding="utf-8")


def _table(entries: list[dict[str, Any]]) -> str:
    """Medians in Markdown: seconds and MiB, and in parentheses over the first network."""
    names = list(dict.fromkeys(name for entry in entries for name in entry["networks"]))
    lines = [f"| filters | patches | type | mode | execution | {' | '.join(names)} |", "|---" * (5 + len(names)) + "|"]
    for entry in entries:
        setting = entry["setting"]
        size = "x".join(map(str, setting["size"]))
        cells = [str(setting["init_filters"]), f"{setting['batch_size']} of {size}"]
        cells += ["bfloat16" if setting["amp"] else "float32", "compiled" if setting["compile"] else "eager"]
        coarse = f", multiples of {setting['granularity']}" if setting["granularity"] > 1 else ""
        cells.append(f"{setting['execution']}{coarse}")
        cells += [_cell(entry["networks"][name]) if name in entry["networks"] else "" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, float]) -> str:
    return f"{row['seconds']:.2f} s ({row['time_ratio']:.2f}), {row['mib']:.0f} ({row['memory_ratio']:.2f})"


def _network(name: str, setting: dict[str, Any]) -> nn.Module:
    dense = Architecture.published("c2fnas-3d")
    filters = setting["init_filters"]
    if name == "dense 3D":
        return set_execution(C2FNAS(1, 3, dense, filters), "dense")
    if name == "manual":
        manual = manual_architecture(setting["sub_kernels"], setting["granularity"], filters)
        return set_execution(C2FNAS(1, 3, manual, filters), setting["execution"])
    network = C2FNASSupernet(1, 3, dense.topology, setting["sub_kernels"], name, filters)
    return set_execution(network, setting["execution"] if name == "performance" else "separate")


def _step(name: str, setting: dict[str, Any], device: str) -> Callable[[], None]:
    """A training step as a bundle does it: loss, backward, SGD with momentum."""
    torch.manual_seed(0)
    network = _network(name, setting).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=4e-5)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    shape = (setting["batch_size"], 1, *setting["size"])
    image, label = torch.randn(shape, device=device), torch.randint(3, shape, device=device)
    sampled = any(isinstance(module, SampledPaths) for module in network.modules())
    forward = torch.compile(network) if setting["compile"] else network
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if sampled:
            draw_paths(network, 0, count)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=setting["amp"]):
            logits = forward(image)
        loss(logits.float(), label).backward()
        optimizer.step()

    return step


def _timed(run: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _memory(name: str, setting: dict[str, Any], device: str) -> float:
    """Peak MiB of network, optimiser, activations and gradients, in a process of its own."""
    return in_own_process(_peak, name, setting, device)


def _peak(name: str, setting: dict[str, Any], device: str) -> float:
    torch.set_num_threads(setting["threads"])
    if device == "cpu":
        warm = nn.Conv3d(1, 8, 3)(torch.randn(1, 1, 16, 16, 16)).sum()
        warm.backward()  # libraries are loaded before the count starts
        before = peak_resident_gb()
    run = _step(name, setting, device)
    for _ in range(3):
        run()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return (peak_resident_gb() - before) * GB / 2**20


if __name__ == "__main__":
    typer.run(main)
