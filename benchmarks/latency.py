# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measured times: CakesConv layers, whole networks and their peers, a whole CT volume; ratios within one run.

    python benchmarks/latency.py                    # layers and networks, with the engines that are installed
    python benchmarks/latency.py --parts volume     # a 512x512x200 CT from file to label map, and where the time goes
    python benchmarks/latency.py --table            # prints what was measured, and draws it

All alternatives of a part are measured in turns, so that what else the machine does meets all of them; medians count.
Results are in benchmarks/results/latency.json, pictures beside it.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import monai
import nibabel as nib
import numpy as np
import torch
import typer
from memory_watch import GB, in_own_process, peak_resident_gb, resident_gb
from monai.networks.nets import DiNTS, DynUNet, SegResNet, SwinUNETR, TopologyInstance, UNet
from torch import Tensor, nn

from cakes_monai.architecture import SUB_KERNELS, Architecture, KernelSplit
from cakes_monai.atomic_file import written_whole
from cakes_monai.blocks import CakesConv
from cakes_monai.cost import c2fnas_cost
from cakes_monai.inference import PLANS, kernel_of
from cakes_monai.inference.engines import ENGINES, build_checked
from cakes_monai.nets import C2FNAS, ResDSN
from cakes_monai.plots import save_figure
from cakes_monai.search import manual_architecture

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latency.json"
PARTS = ("layers", "networks", "volume")
LAYERS = ((32, 96), (64, 48), (128, 24), (256, 12), (512, 6))  # channels, side of the input: levels of C2FNAS at 96^3
TYPES = (torch.float32, torch.bfloat16)
DENSE, EVEN, COARSE = "dense 3D", "CAKES manual 1,2,3D", "CAKES manual 1,2,3D in multiples of 16"
PEER = "DynUNet as nnU-Net makes it"
REFERENCE = f"{DENSE}/torch/float32"  # network, engine, type
Seconds = dict[str, list[float]]


def main(
    parts: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(PARTS)}.")] = "layers,networks",
    size: Annotated[int, typer.Option(min=32, help="Side of the patch of whole networks, a multiple of 32.")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 7,
    engines: Annotated[str, typer.Option(help="Comma-separated; empty for all that run here.")] = "",
    results: Annotated[Path, typer.Option(help="JSON file of the results.")] = RESULTS,
    table: Annotated[bool, typer.Option("--table", help="Only print and draw what was measured.")] = False,
) -> None:
    """Measure, write, print and draw."""
    content: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part in () if table else parts.split(","):
        if part not in PARTS:
            raise typer.BadParameter(f"unknown part {part!r}, allowed are {', '.join(PARTS)}.", param_hint="--parts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing and converting
            measured = _measure(part, size, rounds, engines, device)
        content[part] = {"setting": _setting(device, rounds, size), **measured}
        with written_whole(results) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for part, measured in content.items():
        typer.echo(f"\n{part}: {measured['setting']}\n{_table(measured)}")
    _draw(content, results.parent)


def _measure(part: str, size: int, rounds: int, engines: str, device: torch.device) -> dict[str, Any]:
    if part == "layers":
        return {"rows": [row for layer in LAYERS for row in _layer_rows(*layer, rounds, device)]}
    if part == "networks":
        return {"rows": _network_rows(size, rounds, engines.split(",") if engines else list(ENGINES), device)}
    return _volume(device)


def _setting(device: torch.device, rounds: int, size: int) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    versions = {"torch": str(torch.__version__), "monai": monai.__version__, "python": platform.python_version()}
    return {"device": name, "threads": torch.get_num_threads(), "rounds": rounds, "size": size, **versions}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    found = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{found}, {torch.backends.cpu.get_cpu_capability()}"


def _in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> Seconds:
    """Seconds of each, round after round; two rounds more set things up."""
    seconds: Seconds = {name: [] for name in runs}
    with torch.no_grad():
        for number in range(rounds + 2):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if number >= 2:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def _layer_rows(channels: int, side: int, rounds: int, device: torch.device) -> Iterable[dict[str, Any]]:
    """Every plan for three divisions of a layer's channels; ratios to torch's dense one in its better memory format."""
    splits = {
        DENSE: KernelSplit.of({"3x3x3": channels}),
        EVEN: KernelSplit.even(SUB_KERNELS, channels),
        COARSE: KernelSplit.even(SUB_KERNELS, channels, 16),
    }
    for dtype in TYPES:
        x = torch.randn(1, channels, side, side, side, device=device, dtype=dtype)
        last = x.contiguous(memory_format=torch.channels_last_3d)
        weight = torch.randn(channels, channels, 3, 3, 3, device=device, dtype=dtype)
        runs: dict[str, Callable[[], Any]] = {
            f"{DENSE}/torch": partial(nn.functional.conv3d, x, weight, padding=1),
            f"{DENSE}/torch channels-last": partial(nn.functional.conv3d, last, weight, padding=1),
        }
        for name, split in splits.items():
            kernel = kernel_of(CakesConv(channels, split).to(device))
            assert kernel is not None
            for plan, make in PLANS.items():
                module = make(kernel, device, dtype)
                if module is not None:
                    runs[f"{name}/{plan}"] = partial(module, last)
        seconds = {name: statistics.median(times) for name, times in _in_turns(runs, rounds, device).items()}
        dense = min(value for name, value in seconds.items() if name.startswith(f"{DENSE}/torch"))
        for name, split in splits.items():
            own = {key.split("/")[1]: value for key, value in seconds.items() if key.startswith(f"{name}/")}
            best = min(own, key=lambda plan: own[plan])
            yield {
                "layer": f"{channels} channels, {side}^3",
                "type": str(dtype).removeprefix("torch."),
                "split": name,
                "plan": best,
                "share of multiply-adds": split.taps / (27 * channels),
                "ratio to dense": own[best] / dense,
                "ms": {plan: value * 1e3 for plan, value in own.items()},
            }


def _networks() -> dict[str, Callable[[], nn.Module]]:
    def c2fnas(architecture: Architecture) -> Callable[[], nn.Module]:
        return lambda: C2FNAS(1, 2, architecture)

    nnunet: dict[str, Any] = {"filters": [32, 64, 128, 256, 320, 320], "res_block": False}
    return {
        DENSE: c2fnas(Architecture.published("c2fnas-3d")),
        EVEN: c2fnas(Architecture.published("cakes-manual-123d")),
        COARSE: c2fnas(manual_architecture("123d", 16)),
        "ResDSN": lambda: ResDSN(1, 2),
        PEER: lambda: DynUNet(3, 1, 2, [3] * 6, [1, 2, 2, 2, 2, 2], [2] * 5, **nnunet),
        "SegResNet, zoo width": lambda: SegResNet(3, 16, 1, 2, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)),
        "SwinUNETR, 48 features": lambda: SwinUNETR(1, 2, feature_size=48),
        "UNet, residual": lambda: UNet(3, 1, 2, [32, 64, 128, 256, 512], [2] * 4, num_res_units=2),
        "DiNTS": _dints,
    }


def _dints() -> nn.Module:
    """DiNTS with 12 blocks that keep each of four levels, 3x3x3 convolutions."""
    paths = np.zeros((12, 10))  # between neighbouring levels; every third keeps its level
    paths[:, ::3] = 1
    operations = np.ones_like(paths)  # number 1 is the 3x3x3 convolution
    space = TopologyInstance(num_blocks=12, num_depths=4, use_downsample=True, arch_code=[paths, operations])
    return DiNTS(space, in_channels=1, num_classes=2, use_downsample=True)


def _network_rows(size: int, rounds: int, engines: list[str], device: torch.device) -> list[dict[str, Any]]:
    """Ours by all engines and types; peers by eager torch in float32 and by OpenVINO, which serves dense ones best."""
    example = torch.randn(1, 1, size, size, size, device=device)
    seconds: dict[str, float] = {}
    references = []
    for group in _groups(engines):
        runs: dict[str, Callable[[], Any]] = {}
        for key in dict.fromkeys([REFERENCE, *group]):
            name, engine, dtype = key.split("/")
            torch.manual_seed(0)
            network = _networks()[name]().eval().to(device)
            if (run := _built(key, network, engine, example, getattr(torch, dtype), device)) is not None:
                runs[key] = partial(run, example)
        medians = {key: statistics.median(times) for key, times in _in_turns(runs, rounds, device).items()}
        references.append(medians[REFERENCE])
        seconds |= {key: medians[key] / medians[REFERENCE] for key in medians}
    scale = statistics.median(references)
    rows = []
    for key, value in seconds.items():
        name, engine, dtype = key.split("/")
        ratios = {
            "ratio to dense on this engine": (key, f"{DENSE}/{engine}/{dtype}"),
            "times faster than eager": (f"{name}/torch/float32", key),
            "times faster than nnU-Net": (f"{PEER}/torch/float32", key),
        }
        rows.append(
            {
                "network": name,
                "engine": engine,
                "type": dtype,
                "seconds": value * scale,
                **{title: seconds[a] / seconds[b] for title, (a, b) in ratios.items() if a in seconds and b in seconds},
                "peak MiB": _peak_memory(name, engine, dtype, size, device),
                **_network_cost(name, size),
            }
        )
    return rows


def _groups(engines: list[str]) -> list[list[str]]:
    """
    What is measured in turns, beside the reference: few at a time, for each keeps its memory.

    Times are divided by the reference's in the same group, so groups can be compared though a machine may be busier
    during one than during another.
    """
    names, types = list(_networks()), [str(dtype).removeprefix("torch.") for dtype in TYPES]
    kinds = [(engine, dtype) for engine in engines for dtype in types]
    served = [kind for kind in kinds if kind == ("torch", "float32") or kind[0] == "openvino"]
    groups = [[f"{name}/{engine}/{dtype}" for name in (DENSE, EVEN, COARSE)] for engine, dtype in kinds]
    for three in (names[3:6], names[6:9]):
        groups += [[f"{name}/{engine}/{dtype}" for name in three] for engine, dtype in served]
    return groups


def _built(
    key: str, network: nn.Module, engine: str, example: Tensor, dtype: torch.dtype, device: torch.device
) -> Callable[[Tensor], Tensor] | None:
    reason = ENGINES[engine].missing(device)
    if reason is None:
        try:
            start = time.perf_counter()
            run = build_checked(ENGINES[engine], network, example, dtype)
            typer.echo(f"{key}: built in {time.perf_counter() - start:.0f} s", err=True)
            return run
        except Exception as error:  # an engine that cannot run a network is a result, too
            reason = str(error).splitlines()[0]
    typer.echo(f"{key}: {reason}", err=True)
    return None


def _network_cost(name: str, size: int) -> dict[str, float]:
    """Parameters, and multiply-adds where there is a closed form."""
    network = _networks()[name]()
    cost: dict[str, float] = {"params (M)": sum(p.numel() for p in network.parameters()) / 1e6}
    if isinstance(network, C2FNAS):
        cost["multiply-adds (G)"] = c2fnas_cost(network.architecture, 1, 2, 32, (size,) * 3).multiply_adds / 1e9
    return cost


def _peak_memory(name: str, engine: str, dtype: str, size: int, device: torch.device) -> float:
    """Peak MiB of building and running in a process of its own, over the process with its libraries."""
    return in_own_process(_peak, name, engine, dtype, size, str(device), torch.get_num_threads())


def _peak(name: str, engine: str, dtype: str, size: int, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    network = _networks()[name]().eval().to(device).requires_grad_(False)
    x = torch.randn(1, 1, size, size, size, device=device)
    with torch.no_grad():
        ENGINES[engine].build(nn.Conv3d(1, 1, 3).eval().to(device), x, torch.float32)  # loads its libraries
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
        before = resident_gb()
        run = ENGINES[engine].build(network, x, getattr(torch, dtype))
        for _ in range(2):
            run(x)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return (peak_resident_gb() - before) * GB / 2**20


def _volume(device: torch.device) -> dict[str, Any]:
    """A 512x512x200 CT, 0.8x0.8x1 mm, through the pancreas bundle's inference with random weights."""
    from monai.bundle import ConfigParser

    bundle = ROOT / "bundles" / "pancreas_ct_c2fnas_cakes"
    with tempfile.TemporaryDirectory() as folder:
        image = nib.Nifti1Image(np.random.default_rng(0).integers(-100, 200, (512, 512, 200), np.int16), None)
        image.header.set_zooms((0.8, 0.8, 1.0))
        nib.save(nib.Nifti1Image(image.dataobj, np.diag([0.8, 0.8, 1.0, 1.0])), f"{folder}/ct.nii.gz")
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "inference.json"))
        parser["bundle_root"], parser["device"] = str(bundle), device
        network = parser.get_parsed_content("network").eval()
        seconds: dict[str, float] = {}
        data: dict[str, Any] = {"image": f"{folder}/ct.nii.gz"}
        for transform in parser.get_parsed_content("preprocessing").transforms:
            data = _timed(seconds, type(transform).__name__, partial(transform, data))
        inferer = parser.get_parsed_content("inferer")
        with torch.no_grad():
            x = data["image"][None].to(device)
            data["pred"] = _timed(seconds, "windows", partial(inferer, x, network))[0]
        parser["output_dir"] = folder
        for transform in parser.get_parsed_content("postprocessing").transforms:
            data = _timed(seconds, type(transform).__name__, partial(transform, data))
    total = sum(seconds.values())
    rows = [{"step": name, "seconds": value, "share": value / total} for name, value in seconds.items()]
    return {"rows": [*rows, {"step": "all", "seconds": total, "share": 1.0}], "voxels at 1 mm": list(x.shape[2:])}


def _timed(seconds: dict[str, float], name: str, run: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = run()
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    typer.echo(f"{name}: {seconds[name]:.1f} s", err=True)
    return result


def _table(measured: Mapping[str, Any]) -> str:
    rows = [{name: value for name, value in row.items() if not isinstance(value, dict)} for row in measured["rows"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *[[_text(row.get(name, "")) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _draw(content: Mapping[str, Any], folder: Path) -> None:
    """Layers: measured time over share of multiply-adds. Networks: seconds by engine."""
    if "layers" in content:
        figure, axis = plt.subplots(figsize=(6, 5))
        rows = content["layers"]["rows"]
        for dtype in ("float32", "bfloat16"):
            for split, marker in ((DENSE, "s"), (EVEN, "o"), (COARSE, "^")):
                chosen = [row for row in rows if row["split"] == split and row["type"] == dtype]
                x, y = ([row[key] for row in chosen] for key in ("share of multiply-adds", "ratio to dense"))
                axis.plot(x, y, marker, label=f"{split}, {dtype}", fillstyle="full" if dtype == "float32" else "none")
        axis.plot([0, 1], [0, 1], "k:", label="time follows multiply-adds")
        axis.set(xlabel="share of the dense layer's multiply-adds", ylabel="time over torch's dense layer")
        axis.legend(fontsize=7)
        save_figure(figure, folder / "latency_layers.png")
    if "networks" in content:
        rows = [row for row in content["networks"]["rows"] if row["type"] == "float32" or row["engine"] != "torch"]
        figure, axis = plt.subplots(figsize=(7, 0.22 * len(rows) + 1))
        names = [f"{row['network']}, {row['engine']}, {row['type']}" for row in rows]
        axis.barh(names, [row["seconds"] for row in rows])
        axis.invert_yaxis()
        axis.tick_params(labelsize=6)
        axis.set_xlabel("seconds")
        figure.tight_layout()
        save_figure(figure, folder / "latency_networks.png")


if __name__ == "__main__":
    typer.run(main)
