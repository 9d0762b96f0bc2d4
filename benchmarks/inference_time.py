# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of the hippocampus bundle's network and inferer on one volume, for every way to run its CAKES convolutions."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from monai.bundle import ConfigParser

from cakes_monai.blocks import set_execution
from cakes_monai.blocks.execution import EXECUTIONS

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus_mr_c2fnas_cakes" / "configs" / "inference.json"


def main(
    size: Annotated[tuple[int, int, int], typer.Option(help="Voxels of the volume, in mm.")] = (36, 50, 35),
    rounds: Annotated[int, typer.Option(min=1, help="Measured runs of each, taken in turns.")] = 9,
) -> None:
    """Print the median of the runs in seconds."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser["bundle_root"] = str(CONFIG.parents[1])
    parser["engine"] = "torch"
    network, inferer = parser.get_parsed_content("network").eval(), parser.get_parsed_content("inferer")
    image = torch.randn(1, 1, *size, device=next(network.parameters()).device)
    seconds: dict[str, list[float]] = {name: [] for name in EXECUTIONS}
    with torch.inference_mode():
        for round_number in range(rounds + 2):
            for name, times in seconds.items():
                start = time.perf_counter()
                float(inferer(image, set_execution(network, name)).sum())  # waits for a GPU
                if round_number >= 2:  # the first ones choose algorithms
                    times.append(time.perf_counter() - start)
    typer.echo(f"{image.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {rounds}")
    for name, times in seconds.items():
        typer.echo(f"{name}: {statistics.median(times):.3f} s")


if __name__ == "__main__":
    typer.run(main)
