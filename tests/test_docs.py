# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is what the code does: commands, JSON, Python examples, options and numbers."""

from __future__ import annotations

import ast
import csv
import doctest
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from monai.bundle import ConfigParser
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.architecture import Architecture
from cakes_monai.data import IMAGE_SUFFIXES
from cakes_monai.nets import C2FNAS
from cakes_video.__main__ import app as video_app

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
BUNDLE = REPOSITORY / "bundles" / "hippocampus_mr_c2fnas_cakes"


def fences(language: str) -> list[tuple[str, str]]:
    """Page and text of every block of a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page.name, text) for page in PAGES for text in pattern.findall(page.read_text(encoding="utf-8"))]


def commands() -> list[str]:
    """Every line of every shell block."""
    return [line for _, text in fences("bash") for line in text.splitlines()]


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the first table behind a heading."""
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n{heading}\n")[1]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert rows is not None
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.group().splitlines()[2:]]


def merged(files: list[str], folder: Path = BUNDLE) -> dict[str, Any]:
    """Top level of configuration files that are given together, later ones first."""
    content: dict[str, Any] = {}
    for file in files:
        content |= json.loads((folder / file).read_text(encoding="utf-8"))
    return content


def shown(row: dict[str, Any], name: str, unit: float, digits: int) -> str:
    """A number of the cost command as the documentation shows it."""
    return "-" if row[name] is None else f"{row[name] / unit:.{digits}f}"


@pytest.mark.parametrize("page", [page for page in PAGES if "```pycon" in page.read_text()], ids=lambda p: p.name)
def test_python_examples_give_what_they_show(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example prints, or raises with, exactly the text below it."""
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(page.read_text(), {}, page.name, str(page), 0)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def test_architecture_of_the_format_page_builds_the_network_it_describes() -> None:
    """The example is legal, made for 8 filters, and is read and written without a change."""
    ((page, text),) = fences("json")
    architecture = Architecture.from_json(json.loads(text))
    assert page == "architecture.md"
    assert architecture.init_filters == 8
    assert architecture.to_json() == json.loads(text)
    assert [cell.operation for cell in architecture.cells] == ["3d", "cakes", "cakes"]
    assert len(C2FNAS(1, 2, architecture, init_filters=8).cells) == 3


def test_published_architectures_are_listed_with_their_cells() -> None:
    """The table has every name, in order, and the cells of C2FNAS-Panc."""
    rows = table("architecture.md", "## Published architectures")
    assert [row[0].strip("`") for row in rows] == list(Architecture.published_names())
    for name, cells, _ in rows:
        operations = [cell.operation for cell in Architecture.published(name.strip("`")).cells]
        described = cells.split(", ") if name == "`c2fnas-panc`" else [re.split("[ ,]", cells)[0]] * 12
        assert operations == described


def test_cost_table_is_what_the_command_prints() -> None:
    """Every row and digit of the tables in reproducing.md, ours and the papers', comes from the command."""
    for command, heading in (
        (app, "## Cost: CAKES table 1 and C2FNAS table 2"),
        (video_app, "## Cost: CAKES tables 3 and 4"),
    ):
        result = CliRunner().invoke(command, ["cost", "--json"])
        assert table("reproducing.md", heading) == shown_costs(json.loads(result.stdout))


@pytest.mark.parametrize("command", [line for line in commands() if re.search("(?<!latency.py) --table", line)])
def test_measured_tables_are_what_their_commands_print(command: str) -> None:
    """Rows that a benchmark prints from its results are those of its section; latency.py prints for a terminal."""
    printed = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    page = (DOCS / "reproducing.md").read_text(encoding="utf-8")
    (section,) = (part for part in page.split("\n## ") if command in part.splitlines())
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) > 2
    assert [line for line in section.splitlines() if line.startswith("|")] == rows


def test_accuracy_of_the_hippocampus_is_that_of_its_evaluation() -> None:
    """The tables of both READMEs have what evaluate.json wrote to the bundle's results."""
    with (BUNDLE / "docs" / "results" / "summary.csv").open(newline="") as file:
        found = {(row["metric"], row["structure"]): row for row in csv.DictReader(file)}
    pages = [path / "README.md" for path in (BUNDLE / "docs", REPOSITORY)]
    texts = [page.read_text(encoding="utf-8").replace("**", "") for page in pages]
    for structure in ("anterior", "posterior", "mean"):
        dice = {name: float(found["Dice", structure][name]) for name in ("mean", "median", "min", "max")}
        hd95, surface = (float(found[metric, structure]["mean"]) for metric in ("HD95 mm", "surface Dice"))
        cells = " | ".join(f"{value:.4f}" for value in dice.values())
        assert f"| {structure} | {cells} | {hd95:.2f} | {surface:.3f} |" in texts[0]
        shown_dice = f"{dice['mean']:.3f} ({dice['min']:.3f} to {dice['max']:.3f})"
        name = "mean of both" if structure == "mean" else structure
        assert f"| {name} | {shown_dice} | {hd95:.2f} mm | {surface:.3f} |" in texts[1]


def test_accuracy_of_the_digits_is_that_of_its_evaluation() -> None:
    """So that weights are never exchanged without what is said of them."""
    bundle = REPOSITORY / "bundles" / "video_cakes_resnet50"
    found = json.loads((bundle / "docs" / "results" / "summary.json").read_text())
    top1, top5 = (f"{100 * found[name]:.0f} %" for name in ("top1", "top5"))
    assert f"**top-1 {top1}**, top-5 {top5}, " in (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"10 classes: {top1} with " in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def shown_costs(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Cells of the rows of the cost command as the documentation shows them."""
    return [
        [
            f"`{row['model']}`",
            row["source"],
            shown(row, "params", 1e6, 3),
            shown(row, "multiply_adds", 1e9, 3),
            shown(row, "paper_flops", 1e9, 3),
            shown(row, "paper_params_m", 1, 2),
            shown(row, "paper_flops_g", 1, 2),
        ]
        for row in rows
    ]


SERVER = "-m cakes_monai label "


@pytest.mark.parametrize(
    "command", [line for line in commands() if re.search("-m cakes_(monai|video)", line) and SERVER not in line]
)
def test_commands_of_the_package_run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every such command ends well in the root of the repository and prints something."""
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command.partition(" > ")[0])
    result = CliRunner().invoke(video_app if words[2] == "cakes_video" else app, words[3:])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


@pytest.mark.parametrize("command", [line for line in commands() if "-m monai.bundle run" in line])
def test_commands_of_bundles_name_files_and_options_that_exist(command: str) -> None:
    """Configurations exist, options are in them (MONAI adds unknown ones silently), booleans are Python's."""
    words = shlex.split(command.split("monai.bundle run ")[1])
    given = dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))
    files = given.pop("config_file")
    folder = REPOSITORY if "bundles/" in files else BUNDLE
    config = merged(ast.literal_eval(files) if files.startswith("[") else [files], folder)
    assert set(given) <= set(config)
    assert not {"true", "false"} & set(given.values())
    assert ("multi_gpu" in files) == command.startswith("torchrun ")


@pytest.mark.parametrize("command", [line for line in commands() if SERVER in line])
def test_commands_of_the_server_have_its_options(command: str) -> None:
    """Options exist, and bundles are there."""
    given = shlex.split(command.split(SERVER)[1])
    (label,) = (item for item in typer.main.get_command(app).commands.values() if item.name == "label")
    assert set(given[::2]) <= {name for option in label.params for name in option.opts}
    bundle = given[given.index("--bundle") + 1]
    assert (REPOSITORY / bundle / "configs" / "inference.json").exists()


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make ")])
def test_targets_of_make_exist(command: str) -> None:
    """Targets and variables are in the Makefile."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    target, *variables = shlex.split(command)[1:]
    assert re.search(rf"^{target}:", text, re.MULTILINE)
    for variable in variables:
        assert re.search(rf"^{variable.partition('=')[0]} [:?]=", text, re.MULTILINE)


def test_options_of_the_server_are_described() -> None:
    """The table has every option and its default."""
    (label,) = (item for item in typer.main.get_command(app).commands.values() if item.name == "label")
    rows = table("monai_label.md", "## Start")
    assert {row[0].strip("`") for row in rows} == {option.opts[0] for option in label.params}
    defaults = {option.opts[0]: option.default for option in label.params}
    for name, default, _ in rows:
        assert default in ("", "off", f"`{defaults[name.strip('`')]}`"), name


def test_no_command_is_left_unchecked() -> None:
    """
    What is in a shell block is one of the commands above, a script or folder of the repository, or TensorBoard.

    Requests with curl are checked by the tests of MONAI Label, against the server's own description; what installs it
    is what the Makefile does.
    """
    for command in commands():
        first, *rest = shlex.split(command)
        if re.search("-m cakes_(monai|video)", command) or "-m monai.bundle run" in command or first == "tensorboard":
            continue
        if first in ("make", "curl"):
            continue
        if "pip install" in command:
            installed = command.split("pip install ")[-1]
            assert installed in (REPOSITORY / "Makefile").read_text(encoding="utf-8"), command
            continue
        assert first in ("python", "cd"), command
        assert (REPOSITORY / rest[0]).exists(), command


def described_options(heading: str) -> dict[str, str]:
    """Default of every option in the tables of a section of bundles.md."""
    section = (DOCS / "bundles.md").read_text(encoding="utf-8").split(f"\n{heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", section, re.MULTILINE))


def options(config: dict[str, Any]) -> dict[str, Any]:
    """What is neither built from its configuration nor part of the workflow."""
    workflow = {"imports", "bundle_root", "network", "handlers", "initialize", "run", "finalize"}
    return {k: v for k, v in config.items() if not isinstance(v, dict) and "#" not in k and k not in workflow}


@pytest.mark.filterwarnings("ignore:.*:UserWarning:monai.bundle")  # MONAI's remark on every configuration
@pytest.mark.parametrize(
    ("heading", "files"),
    [
        ("## Inference", ["configs/inference.json"]),
        ("## Training", ["configs/train.json"]),
        ("## Evaluation", ["configs/train.json", "configs/evaluate.json"]),
        ("## Cross-validation", ["configs/cross_validation.json"]),
        ("## Ensemble", ["configs/ensemble.json"]),
    ],
)
def test_defaults_of_options_are_those_of_the_configuration(heading: str, files: list[str]) -> None:
    """Values are equal as JSON, paths are those that the expressions give."""
    content = options(merged(files))
    parser = ConfigParser({**content, "bundle_root": "here"})
    defaults = described_options(heading)
    for name, default in defaults.items():
        shown_value = default.split("`")[1] if "`" in default else None
        if default.endswith("` in the bundle"):
            assert parser.get_parsed_content(name) == f"here/{shown_value}"
        elif shown_value is not None:
            assert shown_value in (json.dumps(content[name]), content[name])
        else:
            assert name in content


def test_no_option_is_left_out() -> None:
    """What the configurations let one choose is in the tables, and nothing else is."""
    inference, training, evaluation = (described_options(f"## {x}") for x in ("Inference", "Training", "Evaluation"))
    assert set(inference) == set(options(merged(["configs/inference.json"])))
    folds = described_options("## Cross-validation")
    assert set(folds) == set(options(merged(["configs/cross_validation.json"])))
    assert set(evaluation) == set(options(merged(["configs/evaluate.json"])))
    only_inference = {"weights", "overlap", "sw_batch_size", "dicom_seg", "engine"}
    assert set(training) | set(inference) - only_inference == set(options(merged(["configs/train.json"])))


def test_all_image_suffixes_are_named() -> None:
    """The list of what goes in has every suffix that is searched for."""
    text = (DOCS / "bundles.md").read_text(encoding="utf-8").split("### What goes in")[1].split("###")[0]
    assert set(re.findall(r"`(\.[a-z.]+)`", text)) == set(IMAGE_SUFFIXES)


def test_what_is_said_about_the_orientation_of_the_hippocampus_data(hippocampus: Path) -> None:
    """In all 260 labels the header is RAS with 1 mm and the anterior part lies towards A of the posterior part."""
    files = sorted((hippocampus / "labelsTr").glob("*.nii.gz"))
    assert len(files) == 260
    sizes = []
    for file in files:
        image: Any = nib.load(file)
        labels = np.asarray(image.dataobj)
        np.testing.assert_allclose(image.affine[:3, :3], np.eye(3))
        ahead = np.argwhere(labels == 1).mean(0) - np.argwhere(labels == 2).mean(0)
        assert ahead[1] > 0, file.name
        sizes.append(labels.shape)
    assert np.min(sizes, axis=0).tolist() == [31, 40, 24]
    assert np.max(sizes, axis=0).tolist() == [43, 59, 47]
