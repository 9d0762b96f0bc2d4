# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What keeps MONAI Label's server from starting is said in one line, before it starts."""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cakes_monai.__main__ import app
from cakes_monai.label_server import check_label_bundle, label_server_command


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Folder of a bundle that has all that is looked at."""
    folder = tmp_path / "bundles" / "made"
    outputs = {"pred": {"format": "segmentation"}}
    for name, text in {
        "configs/metadata.json": json.dumps({"network_data_format": {"outputs": outputs}}),
        "configs/inference.json": "{}",
        "models/model.pt": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def error(made: Path, tmp_path: Path) -> Callable[..., str]:
    """The error of a start with other options than good ones."""

    def start(**options: Any) -> str:
        good = {"bundles": [made], "studies": str(tmp_path / "studies"), "app": tmp_path / "app", "port": free_port()}
        with pytest.raises(ValueError, match=": ") as caught:
            label_server_command(**{**good, **options})
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "app" / "model").exists()
        return str(caught.value)

    return start


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_bundles_of_this_repository(repository: Path) -> None:
    """Those that segment and have weights are good, the others are refused for that reason."""
    for configs in (repository / "bundles").glob("*/configs"):
        bundle = configs.parent
        metadata = json.loads((configs / "metadata.json").read_text())
        output = metadata["network_data_format"]["outputs"]["pred"]["format"]
        if output != "segmentation":
            with pytest.raises(ValueError, match=f"{bundle.name}: its output is {output}; allowed are .* segmentation"):
                check_label_bundle(bundle)
        elif not (bundle / "models" / "model.pt").exists():
            with pytest.raises(ValueError, match=r"model.pt: there are no weights; train first"):
                check_label_bundle(bundle)
        else:
            check_label_bundle(bundle)


def test_a_bundle_that_is_not_there(made: Path, error: Callable[..., str]) -> None:
    """The bundles beside it are named."""
    missing = made.parent / "other"
    assert error(bundles=[made, missing]) == f"{missing}: there is no such bundle; beside it are made."
    assert error(bundles=[made / "a" / "b"]) == f"{made / 'a' / 'b'}: there is no such bundle."


def test_second_weights(made: Path, error: Callable[..., str]) -> None:
    """Any other .pt beside model.pt is refused, whatever the length of its name, and named."""
    (made / "models" / "a_long_name.pt").touch()
    (made / "models" / "b.pt").touch()
    assert "models: has a_long_name.pt, b.pt; allowed is only model.pt" in error()


def test_no_weights(made: Path, error: Callable[..., str]) -> None:
    """TorchScript is enough for MONAI Label, nothing is not."""
    (made / "models" / "model.pt").rename(made / "models" / "model.ts")
    check_label_bundle(made)
    (made / "models" / "model.ts").unlink()
    assert "model.pt: there are no weights; train first" in error()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("configs/inference.json", None, "configs/inference.json is missing, which MONAI Label segments with"),
        ("configs/metadata.json", None, "metadata.json: No such file or directory; allowed is the folder of a MONAI"),
        ("configs/metadata.json", "{", "metadata.json: no format of the output .JSONDecodeError"),
        ("configs/metadata.json", "[1]", "metadata.json: no format of the output .TypeError"),
        ("configs/metadata.json", "{}", "metadata.json: no format of the output .KeyError: 'network_data_format'"),
    ],
)
def test_folders_that_are_no_bundles(made: Path, file: str, text: str | None, message: str) -> None:
    """The file that is missing or wrong is named."""
    (made / file).unlink() if text is None else (made / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        check_label_bundle(made)


def test_names(made: Path, error: Callable[..., str]) -> None:
    """MONAI Label knows bundles by the names of their folders, with commas between them."""
    assert "made: names of bundles must differ" in error(bundles=[made, made])
    comma = made.rename(made.with_name("a,b"))
    assert "a,b: names of bundles must differ, and must have no comma" in error(bundles=[comma])


def test_ports(error: Callable[..., str], taken: int) -> None:
    """A port in use and an address of another machine are told apart."""
    assert error(port=taken) == (
        f"127.0.0.1:{taken}: the port is in use; stop the server there, or choose another port."
    )
    assert "192.0.2.1" in (message := error(host="192.0.2.1"))
    assert "cannot listen there: " in message


def test_places(error: Callable[..., str], tmp_path: Path) -> None:
    """Files where folders should be, and settings without a value, are refused."""
    (tmp_path / "file").touch()
    assert error(studies=str(tmp_path / "file")) == f"{tmp_path / 'file'}: is a file; allowed is a folder."
    assert error(conf=["preload"]) == "conf 'preload': allowed is name=value."
    assert error(app=tmp_path) == f"{tmp_path}: is another folder; allowed is an empty one, none, or an app's."


@pytest.mark.skipif(importlib.util.find_spec("monailabel") is not None, reason="MONAI Label is installed here")
def test_monai_label_is_missing(made: Path, error: Callable[..., str]) -> None:
    """The message names the Python and how to install it."""
    assert "MONAI Label is not installed in this Python; `make label` installs it" in error()


def test_command(made: Path, tmp_path: Path, taken: int) -> None:
    """The command ends with status 2 and the same message."""
    words = ["label", "--bundle", str(made), "--port", str(taken), "--app", str(tmp_path / "app")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert f"127.0.0.1:{taken}: the port is in use" in result.output
