# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Commands of ``python -m cakes_video``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from cakes_monai.atomic_file import written_whole
from cakes_monai.backbone_architecture import BackboneArchitecture
from cakes_monai.cost_table import cost_row, cost_table
from cakes_monai.search import split_summary
from cakes_video.architectures import PUBLISHED_NAMES, video_architecture
from cakes_video.class_names import read_class_names
from cakes_video.clip_lists import read_clips
from cakes_video.cost import PUBLISHED_VIDEO_COSTS, video_cost
from cakes_video.residual_plan import BACKBONES
from cakes_video.scan import GOOD, scan_clips, scan_summary, write_scan_report

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

MAX_LISTED = 20  # findings on the screen; the report has all


@app.callback()
def main() -> None:
    """Action recognition in videos with the networks of cakes_monai."""


@app.command()
def scan(
    source: Annotated[Path, typer.Argument(help="List of clips, or folder with a folder for each class.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the clips; without it that of the list.")] = None,
    class_names: Annotated[Path | None, typer.Option(help="File with the names of the classes.")] = None,
    template: Annotated[str | None, typer.Option(help="Names of the files in a frame folder.")] = None,
    split: Annotated[Path | None, typer.Option(help="Text that selects clips from class folders.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    report: Annotated[Path | None, typer.Option(help="CSV with a row for each clip.")] = None,
    decode: Annotated[bool, typer.Option(help="Decode all frames, which alone finds most damage.")] = True,
    min_frames: Annotated[int, typer.Option(min=1, help="Frames that a clip needs.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds a clip may take.")] = 120.0,
) -> None:
    """
    Find broken and mislabelled clips before a training does; exit code 1 when there are any.

    Unreadable, truncated and damaged ones, other frame counts or ranges than the list says, another container than the
    suffix says, too few frames, and files with the same bytes and different labels.
    """
    try:
        clips = read_clips(source, root, class_names, template, split, must_exist=False)
        rows = scan_clips(clips, workers, decode, min_frames, timeout, progress=True)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if report is not None:
        write_scan_report(rows, report)
    found = [row for row in rows if row.status != GOOD]
    for row in found[:MAX_LISTED]:
        typer.echo(f"{row.path}: {row.status}: {row.reason}")
    if len(found) > MAX_LISTED:
        typer.echo(f"... and {len(found) - MAX_LISTED} more")
    typer.echo(scan_summary(rows) + (f"; {report}" if report else ""))
    if found:
        raise typer.Exit(1)


@app.command()
def cost(
    architecture: Annotated[Path | None, typer.Option(help="architecture.json; without it the paper's tables.")] = None,
    size: Annotated[tuple[int, int, int], typer.Option(help="Frames, rows and columns of a clip.")] = (8, 224, 224),
    num_classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 174,
    width: Annotated[int, typer.Option(min=1, help="Channels of the stem.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """
    Parameters, multiply-adds and the paper's FLOPs in closed form.

    Without --architecture: every row of CAKES table 3, and the 16-frame rows of table 4, beside what is printed there
    (table 4 prints twice the rounded figure of 8 frames).
    """
    if min(size) < 1:
        raise typer.BadParameter(f"{size}: sizes must be at least 1.", param_hint="--size")
    rows = []
    try:
        if architecture is not None:
            found = video_cost(BackboneArchitecture.load(architecture), num_classes, width, size)
            rows.append(cost_row(str(architecture), found))
        for row in PUBLISHED_VIDEO_COSTS if architecture is None else ():
            found = video_cost(video_architecture(row.model), size=(row.frames, 224, 224))
            rows.append(cost_row(row.model, found, row.source, row.params_m, row.flops_g))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--architecture") from error
    typer.echo(json.dumps(rows, indent=1) if as_json else cost_table(rows))


@app.command()
def architecture(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PUBLISHED_NAMES)}.")],
    backbone: Annotated[str, typer.Option(help=f"One of {', '.join(BACKBONES)}.")] = "resnet50",
    width: Annotated[int, typer.Option(min=1, help="Channels of the stem.")] = 64,
) -> None:
    """Print architecture.json of the paper's networks: C2D, C3D, P3D, evenly divided, or a published split."""
    try:
        typer.echo(video_architecture(name, backbone, width).dumps(), nl=False)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def summary(path: Annotated[Path, typer.Argument(help="architecture.json.")]) -> None:
    """Print the sub-kernels of every layer, and their totals."""
    try:
        typer.echo(split_summary(BackboneArchitecture.load(path)).table())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the CAKES authors' video code (.tar).")],
    output: Annotated[Path, typer.Option(help="Folder for architecture.json and model.pt.")],
    class_names: Annotated[Path | None, typer.Option(help="File with the names of its classes, in its order.")] = None,
) -> None:
    """Turn a checkpoint of the authors' code into an architecture and weights with the same logits."""
    import torch

    from cakes_video.authors_checkpoint import load_authors_checkpoint
    from cakes_video.resnet import VideoResNet

    try:
        found, weights = load_authors_checkpoint(checkpoint)
        classes = len(weights["fc.weight"])
        names = read_class_names(class_names) if class_names else classes
        network = VideoResNet(found, names, len(weights["conv1.weight"]))
        if network.num_classes != classes:
            raise ValueError(f"{class_names}: has {network.num_classes} names, the checkpoint has {classes} classes.")
        network.load_state_dict(weights)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found.save(output / "architecture.json")
    with written_whole(output / "model.pt") as temporary:
        torch.save(network.state_dict(), temporary)
    typer.echo(f"{output}: architecture.json and model.pt, {found.backbone} with {classes} classes.")


if __name__ == "__main__":
    app(prog_name="python -m cakes_video")
