# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Resident memory of a bundle's inference on a large CT, step by step, and of one window of its network."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import monai
import monai.bundle
import nibabel as nib
import numpy as np
import torch
import typer
from memory_watch import MemoryWatch, in_own_process, peak_resident_gb, resident_gb
from monai.bundle import ConfigParser

from cakes_monai.architecture import Architecture
from cakes_monai.atomic_file import written_whole
from cakes_monai.blocks import set_execution
from cakes_monai.inference import EngineInferer

ROOT = Path(__file__).resolve().parents[1]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Bundle = Annotated[Path, typer.Option(help="Folder of the bundle.", exists=True)]
Filters = Annotated[int, typer.Option(min=1, help="Filters of the first convolution; the weights are random.")]
Published = Annotated[str, typer.Option(help="Published architecture.")]
EngineName = Annotated[str, typer.Option(help="What runs the network; auto also times engines.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]
Output = Annotated[Path | None, typer.Option(help="JSON file to write; one entry for each setting.")]


def make_ct(path: Path, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Path:
    """Write a cylinder of noisy soft tissue in air, in Hounsfield units of 16 bits."""
    voxels = np.full(size, -1000, np.int16)
    noise = np.random.default_rng(0).normal(40, 20, size[:2]).astype(np.int16)
    rows, columns = (2 * np.arange(length) / length - 1 for length in size[:2])
    body = rows[:, None] ** 2 + columns**2 < 0.6
    for place in range(size[2]):
        voxels[:, :, place][body] = np.roll(noise, 7 * place, 0)[body]
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)
    return path


def other_network(bundle: Path, folder: Path, architecture: Architecture, init_filters: int) -> dict[str, Any]:
    """Options of another network with random weights, which are written to ``folder``."""
    architecture.save(folder / "architecture.json")
    options = {"architecture": str(folder / "architecture.json"), "init_filters": init_filters}
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), **options})
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
    return options | {"weights": str(folder / "model.pt")}


def measured_inference(bundle: str, options: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run inference.json as ``python -m monai.bundle run`` does; what it used and when."""
    torch.set_num_threads(threads)
    start, before = time.perf_counter(), resident_gb()
    with MemoryWatch() as watch:
        monai.bundle.run(config_file=f"{bundle}/configs/inference.json", bundle_root=bundle, **options)
    return {
        "peak_gb": round(peak_resident_gb(), 3),
        "peak_in": watch.peak[1],
        "imported_gb": round(before, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "steps": [asdict(step.rounded()) for step in watch.steps if step.seconds >= 0.1],
    }


def measured_window(bundle: str, options: dict[str, Any], size: list[int], batch: int, engine: str) -> float:
    """Memory that building an engine and running it once take beyond what there was before, in GB."""
    parser = ConfigParser()
    parser.read_config(f"{bundle}/configs/inference.json")
    parser.update({"bundle_root": bundle, **options})
    network = set_execution(parser.get_parsed_content("network_def"), "dense").eval()
    image = torch.zeros(batch, parser.get_parsed_content("network_def#in_channels"), *size)
    before = resident_gb()
    with MemoryWatch() as watch, torch.inference_mode():
        EngineInferer(engine=engine, cache="")(image, network)
    return round(max(watch.peak[0], resident_gb()) - before, 3)


@app.command()
def volume(
    bundle: Bundle = ROOT / "bundles" / "pancreas_ct_c2fnas_cakes",
    size: Annotated[tuple[int, int, int], typer.Option(help="Voxels of the CT.")] = (512, 512, 400),
    spacing: Annotated[tuple[float, float, float], typer.Option(help="Their size in mm.")] = (0.8, 0.8, 1.0),
    patch_size: Annotated[tuple[int, int, int], typer.Option(help="Sliding window.")] = (96, 96, 96),
    sw_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows at a time; by default the bundle's.")
    ] = None,
    init_filters: Filters = 4,
    architecture: Published = "cakes-manual-123d",
    engine: EngineName = "torch",
    threads: Threads = 1,
    output: Output = None,
) -> None:
    """
    Make a CT, run the bundle's inference.json on it in a process of its own, and print the memory of its steps.

    Windows lie side by side: overlap costs time, not memory.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = other_network(bundle, folder, Architecture.published(architecture, init_filters), init_filters) | {
            "dataset_dir": str(make_ct(folder / "ct.nii.gz", size, spacing)),
            "output_dir": str(folder / "out"),
            "patch_size": list(patch_size),
            "stride": list(patch_size),
            "overlap": 0.0,
            "engine": engine,
            **({} if sw_batch_size is None else {"sw_batch_size": sw_batch_size}),
        }
        found = in_own_process(measured_inference, str(bundle), options, threads)
    for step in found["steps"]:
        typer.echo(f"{step['name']:28} {step['seconds']:8.1f} s {step['peak_gb']:7.2f} GB")
    typer.echo(f"peak {found['peak_gb']:.2f} GB in {' > '.join(found['peak_in'])}")
    setting = f"{bundle.name}, {_times(size)} of {_times(spacing)} mm, window {_times(patch_size)}"
    _write(output, "volumes", f"{setting}, {init_filters} filters, {engine}, {threads} threads", found)


@app.command()
def window(
    bundle: Bundle = ROOT / "bundles" / "pancreas_ct_c2fnas_cakes",
    patch_size: Annotated[tuple[int, int, int], typer.Option(help="Sliding window.")] = (96, 96, 96),
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 1,
    init_filters: Filters = 32,
    architecture: Published = "cakes-manual-123d",
    engine: EngineName = "torch",
    output: Output = None,
) -> None:
    """Print the memory that the network takes for the windows of one call, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        options = other_network(bundle, Path(name), Architecture.published(architecture, init_filters), init_filters)
        found = in_own_process(measured_window, str(bundle), options, list(patch_size), batch, engine)
    setting = f"{architecture}, {init_filters} filters, {batch} x {_times(patch_size)}, {engine}"
    typer.echo(f"{setting}: {found:.2f} GB")
    _write(output, "windows", setting, found)


def _times(numbers: tuple[float, ...]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _write(path: Path | None, kind: str, setting: str, found: Any) -> None:
    """Add to, or replace in, what the file has."""
    if path is None:
        return
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content.setdefault(kind, {})[setting] = found
    versions = {"python": platform.python_version(), "torch": torch.__version__, "monai": monai.__version__}
    content["versions"] = versions | {"machine": platform.machine()}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
