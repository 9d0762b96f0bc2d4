# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own server with bundles of this project, after checks that it does not make."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["become_label_server", "check_label_bundle", "label_server_command"]


def label_server_command(
    bundles: Sequence[Path],
    studies: str,
    app: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    epistemic: bool = False,
    conf: Sequence[str] = (),
) -> list[str]:
    """
    Check everything, make the folder of MONAI Label's app ``monaibundle`` where there is none, link the bundles there.

    MONAI Label must be installed in the Python that this runs in. The server needs no network: bundles are found by
    their names in the app and nothing is asked of the model zoo.

    Args:
        bundles: folders of bundles that segment, each with weights. A training replaces their models/model.pt.
        studies: folder of images, which is made if need be, or the http(s) address of a DICOMweb server.
        app: folder of the app, with links to bundles and the server's logs.
        host: address to listen on; 0.0.0.0 for all of this machine.
        port: port to listen on.
        epistemic: whether unlabelled images are scored by the entropy of predictions with dropout.
        conf: further settings of the app, ``name=value``.

    Returns:
        Words of the command that is the server.

    Raises:
        ValueError: in one line, for all that would end or mislead the server.
    """
    settings = {"models": _names(bundles), "zoo_source": "local"}
    settings |= {"epistemic_model": settings["models"]} if epistemic else {}
    settings |= dict(map(_setting, conf))
    for bundle in bundles:
        check_label_bundle(bundle)
    _check_port(host, port)
    place = studies if studies.startswith(("http://", "https://")) else str(_folder(Path(studies)))
    _prepare(_folder(app), bundles)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(_folder(app)), "--studies", place]
    command += ["--host", host, "--port", str(port)]
    return command + [word for pair in settings.items() for word in ("--conf", *pair)]


def become_label_server(command: Sequence[str]) -> None:
    """Replace this process by the server; it finds torchrun, which it trains on several GPUs with, beside Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.execve(command[0], list(command), os.environ | {"PATH": path})


def check_label_bundle(folder: Path) -> None:
    """
    Check that MONAI Label can segment with a bundle.

    Raises:
        ValueError: when there is no such bundle, when it does not segment, when it has no weights, and when it has
            several: MONAI Label loads that with the shortest name, whatever it is, and fits it as far as it fits.
    """
    if not folder.is_dir():
        others = ", ".join(sorted(path.parent.name for path in folder.parent.glob("*/configs")))
        raise ValueError(f"{folder}: there is no such bundle" + (f"; beside it are {others}." if others else "."))
    if (output := _output(folder)) != "segmentation":
        raise ValueError(f"{folder}: its output is {output}; allowed are bundles whose output is segmentation.")
    if not any((folder / "configs" / f"inference.{suffix}").is_file() for suffix in ("json", "yaml")):
        raise ValueError(f"{folder}: configs/inference.json is missing, which MONAI Label segments with.")
    weights = folder / "models" / "model.pt"
    others = ", ".join(sorted(path.name for path in weights.parent.glob("*.pt") if path != weights))
    if others:
        raise ValueError(
            f"{weights.parent}: has {others}; allowed is only model.pt, since MONAI Label takes the shortest name."
        )
    if not weights.is_file() and not weights.with_suffix(".ts").is_file():
        raise ValueError(f"{weights}: there are no weights; train first, docs/README.md of the bundle says how.")


def _output(bundle: Path) -> Any:
    """What the metadata of a bundle say that it gives."""
    path = bundle / "configs" / "metadata.json"
    try:
        outputs = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]["outputs"]
        return next(iter(outputs.values()))["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        reason = getattr(error, "strerror", None) or f"no format of the output ({type(error).__name__}: {error})"
        raise ValueError(f"{path}: {reason}; allowed is the folder of a MONAI bundle.") from error


def _names(bundles: Sequence[Path]) -> str:
    """Names of the bundles as MONAI Label takes them."""
    names = [path.resolve().name for path in bundles]
    for name in names:
        if "," in name or names.count(name) > 1:
            raise ValueError(f"{name}: names of bundles must differ, and must have no comma.")
    return ",".join(names)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"conf {text!r}: allowed is name=value.")
    return name, value


def _folder(path: Path) -> Path:
    """An absolute path where a folder is or can be."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; allowed is a folder.")
    return path.absolute()


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server: the last one may have just ended
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"{host}:{port}: the port is in use; stop the server there, or choose another port."
            ) from error
        raise ValueError(f"{host}:{port}: cannot listen there: {error.strerror}.") from error


def _prepare(app: Path, bundles: Sequence[Path]) -> None:
    """Make the app unless it is there, and link the bundles."""
    if app.exists() and any(app.iterdir()) and not (app / "main.py").is_file():
        raise ValueError(f"{app}: is another folder; allowed is an empty one, none, or an app's.")
    if importlib.util.find_spec("monailabel") is None:
        raise ValueError(
            f"{sys.executable}: MONAI Label is not installed in this Python; `make label` installs it in one of its "
            "own, docs/monai_label.md says how to without make."
        )
    if not (app / "main.py").is_file():
        _copy_app(app)
    (app / "model").mkdir(exist_ok=True)
    for bundle in bundles:
        link = app / "model" / bundle.resolve().name
        if link.resolve() == bundle.resolve():
            continue
        if link.exists() and not link.is_symlink():
            raise ValueError(f"{link}: is in the way of a link to {bundle}; move it, or choose another app folder.")
        link.unlink(missing_ok=True)
        link.symlink_to(bundle.resolve(), target_is_directory=True)


def _copy_app(app: Path) -> None:
    """What ``monailabel apps --download`` does, whole or not at all."""
    main = ("sample-apps", "monaibundle", "main.py")
    files = [file for file in importlib.metadata.files("monailabel") or [] if file.parts[-3:] == main]
    if not files:
        raise ValueError(f"{sys.executable}: its MONAI Label has no app monaibundle; install it again.")
    app.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=app.parent) as folder:
        ignored = shutil.ignore_patterns("logs", "model", "__pycache__")
        source = Path(str(files[0].locate())).parent
        shutil.copytree(source, Path(folder) / app.name, ignore=ignored).rename(app)
