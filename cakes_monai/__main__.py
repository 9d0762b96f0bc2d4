# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Commands of ``python -m cakes_monai``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cakes_monai.architecture import Architecture
from cakes_monai.cost import PUBLISHED_COSTS, c2fnas_cost
from cakes_monai.cost_table import cost_row, cost_table
from cakes_monai.label_server import become_label_server, label_server_command
from cakes_monai.search import CROSS_VALIDATION, manual_architecture, progress_line, read_journal, split_summary

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """CAKES and C2FNAS: efficient 3D networks for MONAI."""


@app.command()
def cost(
    architecture: Annotated[Path | None, typer.Option(help="architecture.json; without it the papers' tables.")] = None,
    size: Annotated[tuple[int, int, int], typer.Option(help="Voxels of the input along D, H, W.")] = (96, 96, 96),
    in_channels: Annotated[int, typer.Option(min=1, help="Channels of the image.")] = 1,
    out_channels: Annotated[int, typer.Option(min=1, help="Channels of the output.")] = 2,
    init_filters: Annotated[int | None, typer.Option(min=1, help="Filters of the first convolution.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """
    Parameters, multiply-adds and the papers' FLOPs in closed form.

    Without --architecture: every row of CAKES table 1 and C2FNAS table 2 beside the figures printed there. Where a row
    has no numbers of ours, the paper does not publish the split (or the network is another group's).
    """
    if min(size) < 1:
        raise typer.BadParameter(f"{size}: sizes must be at least 1.", param_hint="--size")
    try:
        if architecture is not None:
            loaded = Architecture.load(architecture)
            filters = init_filters or loaded.init_filters or 32
            rows = [cost_row(str(architecture), c2fnas_cost(loaded, in_channels, out_channels, filters, size))]
        else:
            rows = _published_rows(in_channels, out_channels, init_filters or 32, size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--architecture") from error
    typer.echo(json.dumps(rows, indent=1) if as_json else cost_table(rows))


def _published_rows(in_channels: int, out_channels: int, filters: int, size: tuple[int, int, int]) -> list[Any]:
    rows = []
    for published in PUBLISHED_COSTS:
        ours = None
        if published.architecture:
            network = Architecture.published(published.architecture, filters)
            ours = c2fnas_cost(network, in_channels, out_channels, filters, size)
        rows.append(cost_row(published.model, ours, published.source, published.params_m, published.flops_g))
    return rows


@app.command()
def manual(
    kernels: Annotated[str, typer.Option("--set", help="Name of a set (123d) or sub-kernels with commas.")],
    granularity: Annotated[int, typer.Option(min=1, help="Channels of a sub-kernel are multiples of this.")] = 1,
    init_filters: Annotated[int, typer.Option(min=1, help="Filters of the first convolution.")] = 32,
) -> None:
    """Print architecture.json with evenly divided channels on the topology of C2FNAS-Panc (CAKES, manual settings)."""
    try:
        names = kernels.split(",") if "x" in kernels else kernels
        typer.echo(manual_architecture(names, granularity, init_filters).dumps(), nl=False)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def summary(architecture: Annotated[Path, typer.Argument(help="architecture.json.")]) -> None:
    """Print the sub-kernels of every layer, and the totals that the appendix of CAKES gives."""
    try:
        typer.echo(split_summary(Architecture.load(architecture)).table())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def status(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a search by trials or of a cross-validation, running or stopped.")
    ],
) -> None:
    """Show how far a search by trials or a cross-validation is: finished, running and failed trials, the best first."""
    try:
        content = read_journal(folder / "journal.jsonl")
        limit = folder / "limit.json"
        trials = json.loads(limit.read_text(encoding="utf-8"))["trials"] if limit.exists() else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    folds = content.kind == CROSS_VALIDATION
    typer.echo(progress_line(content.trials, trials, choosing=not folds))
    for trial in sorted(content.trials, key=lambda trial: (trial.score is None, -(trial.score or 0), trial.index)):
        result = f"{trial.score:.4f}" if trial.score is not None else trial.state
        reason = f"  {trial.failures[-1]}" if trial.failures else ""
        typer.echo(f"{trial.index:5d}  {result:>9}  {'fold ' if folds else ''}{trial.proposal.candidate}{reason}")


@app.command()
def plot(
    architecture: Annotated[Path, typer.Argument(help="architecture.json.")],
    output: Annotated[Path, typer.Option(help="Picture to write.")] = Path("architecture.png"),
) -> None:
    """Draw the cells on their levels, what they read and what they do (C2FNAS, figure 5)."""
    from cakes_monai.plots import draw_topology, save_figure

    try:
        save_figure(draw_topology(Architecture.load(architecture)), output)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"{output}")


@app.command()
def shrink(
    bundle: Annotated[Path, typer.Option(help="Folder of a MONAI bundle that you trust; it is not changed.")],
    output: Annotated[Path, typer.Option(help="Folder to write, which must not exist.")],
    kernels: Annotated[str, typer.Option("--set", help="Name of a set (123d) or sub-kernels with commas.")],
    granularity: Annotated[int, typer.Option(min=1, help="Channels of a sub-kernel are multiples of this.")] = 1,
    share: Annotated[
        float | None, typer.Option(help="Divide channels so that this share of the multiply-adds is left; else evenly.")
    ] = None,
    image: Annotated[list[str] | None, typer.Option(help="Image to fit the weights on; may be given again.")] = None,
    size: Annotated[tuple[int, int, int] | None, typer.Option(help="Voxels to crop or pad images to.")] = None,
    init: Annotated[str | None, typer.Option(help="project (with images the default), slice, sum, random.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only convolutions with names like this.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No convolutions with names like this.")] = None,
) -> None:
    """
    Write a copy of a bundle whose 3x3x3 convolutions are replaced by CAKES, starting from its weights.

    Prints what each layer was and is. configs/finetune.json of the copy, given after train.json, trains it on.
    """
    from cakes_monai.conversion import shrink_bundle  # torch, which the other commands do without

    options: dict[str, Any] = {"granularity": granularity, "init": init or ("project" if image else "slice")}
    options |= {} if share is None else {"division": "best", "budget": {"share": share, "unit": "multiply_adds"}}
    options |= {"include": include or "*", "exclude": exclude or ()}
    try:
        names = kernels.split(",") if "x" in kernels else kernels
        report = shrink_bundle(bundle, output, names, image or (), size, **options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(report.table())


@app.command()
def label(
    bundle: Annotated[list[Path], typer.Option(help="Folder of a MONAI bundle that segments; may be given again.")],
    studies: Annotated[str, typer.Option(help="Folder of images, or address of a DICOMweb server.")] = "studies",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    app_folder: Annotated[Path, typer.Option("--app", help="Folder for MONAI Label's app.")] = Path("monailabel_app"),
    epistemic: Annotated[bool, typer.Option("--epistemic", help="Score images without a label by entropy.")] = False,
    conf: Annotated[list[str] | None, typer.Option(help="Setting of the app, name=value; may be given again.")] = None,
) -> None:
    """
    Start MONAI Label's server with bundles, for 3D Slicer and OHIF.

    A training that is started there replaces models/model.pt of the bundle: give a copy to keep what you have.
    """
    try:
        command = label_server_command(bundle, studies, app_folder, host, port, epistemic, conf or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"MONAI Label at http://{host}:{port}, stop it with Ctrl-C. Bundles: {', '.join(map(str, bundle))}")
    sys.stdout.flush()
    become_label_server(command)


if __name__ == "__main__":
    app(prog_name="python -m cakes_monai")
