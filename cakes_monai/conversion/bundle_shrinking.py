# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From a MONAI bundle to one of its shrunken network, which runs, is trained on and is exported as before."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import ResizeWithPadOrCrop
from torch import Tensor, nn

from cakes_monai.conversion.division import Kernels
from cakes_monai.conversion.report import ShrinkReport
from cakes_monai.conversion.shrink import shrink

__all__ = ["shrink_bundle"]

_NETWORK = "network_def"
_SPLITS = "configs/shrunken.json"
_WEIGHTS = "models/model.pt"
_SHORTER = 10  # times fewer epochs for fine-tuning, at a learning rate so much lower


def shrink_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kernels: Kernels,
    images: Sequence[str | os.PathLike[str]] = (),
    size: Sequence[int] | None = None,
    **options: Any,
) -> ShrinkReport:
    """
    Write a copy of a bundle with its network shrunken.

    The network of the bundle is its ``network_def`` (that of the inference configuration, if there are several) with
    ``models/model.pt``. In the copy each configuration with that ``network_def`` builds the shrunken network from
    ``configs/shrunken.json``; metadata.json says what was done. Where the bundle has a training configuration with a
    number of ``max_epochs``, ``configs/finetune.json`` after it starts from the shrunken weights for a tenth of them,
    and at a tenth of the learning rate, so that it does not undo what they start from.

    A configuration can run any Python code; give only bundles that you trust.

    Args:
        bundle: folder of the bundle; it is not changed.
        output: folder to write, which must not exist.
        kernels: what :func:`~cakes_monai.conversion.shrink` takes.
        images: files for the bundle's ``preprocessing``, which gives the volumes.
        size: voxels to crop or pad the volumes to; by default they stay as they are.
        options: other options of ``shrink``.

    Returns:
        The report of ``shrink``.

    Raises:
        ValueError: when the folder has no ``network_def``, weights or preprocessing, or ``output`` exists; and
            everything ``shrink`` refuses.
    """
    bundle, output = Path(bundle), Path(output)
    if output.exists():
        raise ValueError(f"{output}: exists already; give a folder that does not.")
    configs = _configs(bundle)
    main = next((file for file in configs if file.stem == "inference"), next(iter(configs)))
    parser = ConfigParser({**configs[main], "bundle_root": str(bundle)})
    network = _network(bundle, parser)
    volumes = [_volume(parser, main, image, size) for image in images]
    shrunken, report = shrink(network, kernels, volumes, **options)
    part = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        shutil.copytree(bundle, part, ignore=shutil.ignore_patterns("models", "eval"))
        (part / _WEIGHTS).parent.mkdir()
        torch.save({name: value.cpu() for name, value in shrunken.state_dict().items()}, part / _WEIGHTS)
        report.architecture.save(part / _SPLITS)
        _rewrite(part, {file.name: content for file, content in configs.items()}, configs[main][_NETWORK])
        _describe(part / "configs" / "metadata.json", bundle, report)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _configs(bundle: Path) -> dict[Path, dict[str, Any]]:
    """Content of the configurations with a network."""
    files = sorted(file for kind in ("json", "yaml", "yml") for file in bundle.glob(f"configs/*.{kind}"))
    contents: dict[Path, Any] = {}
    for file in files:
        try:
            contents[file] = ConfigParser.load_config_file(str(file))
        except Exception as error:  # of JSON or YAML
            raise ValueError(f"{file}: is no configuration ({' '.join(str(error).split())}).") from error
    found = {file: content for file, content in contents.items() if isinstance(content, dict) and _NETWORK in content}
    if not found:
        raise ValueError(f"{bundle}: none of its configurations ({len(files)} in configs/) has a {_NETWORK}.")
    return found


def _network(bundle: Path, parser: ConfigParser) -> nn.Module:
    """The network of the bundle with its weights."""
    weights = bundle / _WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; the bundle has no weights to start from.")
    if "imports" in parser.config:
        parser.get_parsed_content("imports")
    network: nn.Module = parser.get_parsed_content(_NETWORK)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state["model"] if isinstance(state.get("model"), Mapping) else state)
    except Exception as error:  # unpickling raises all kinds
        raise ValueError(f"{weights}: does not fit the {_NETWORK} ({' '.join(str(error).split())}).") from error
    return network.eval()


def _volume(parser: ConfigParser, file: Path, image: str | os.PathLike[str], size: Sequence[int] | None) -> Tensor:
    """An image as the network gets it in inference."""
    if "preprocessing" not in parser.config:
        raise ValueError(f"{file}: has no preprocessing for images; without them use init 'slice' or 'sum'.")
    volume = parser.get_parsed_content("preprocessing")({"image": str(image)})["image"]
    return (volume if size is None else ResizeWithPadOrCrop(tuple(size))(volume))[None]


def _rewrite(bundle: Path, configs: Mapping[str, dict[str, Any]], network: Any) -> None:
    """Make the configurations with this network build the shrunken one, and add one for fine-tuning."""
    wrapped = {"network": network, "architecture": f"$@bundle_root + '/{_SPLITS}'"}
    rebuilt = {"_target_": "cakes_monai.conversion.rebuild", **wrapped}
    for name, content in configs.items():
        if content[_NETWORK] == network:
            inner = {key.replace(f"{_NETWORK}#", f"{_NETWORK}#network#"): value for key, value in content.items()}
            _write(bundle / "configs" / name, inner | {_NETWORK: rebuilt})
    training = next((c for name, c in configs.items() if name.startswith("train.") and c[_NETWORK] == network), {})
    if schedule := _short_schedule(training):
        weights = f"$@bundle_root + '/{_WEIGHTS}'"
        loaded = {"_target_": "cakes_monai.conversion.load_shrunken", **wrapped, "weights": weights}
        _write(bundle / "configs" / "finetune.json", {**schedule, _NETWORK: loaded})


def _short_schedule(training: Mapping[str, Any]) -> dict[str, float]:
    """A tenth of the epochs and of the learning rate, under the names that the configuration has for them."""
    epochs = {name: training.get(name) for name in ("max_epochs", "epochs")}
    trainer = training.get("train", {}).get("trainer", {})
    epochs["train#trainer#max_epochs"] = trainer.get("max_epochs") if isinstance(trainer, dict) else None
    numbers = {name: number for name, number in epochs.items() if isinstance(number, int)}
    if not numbers:
        return {}
    rates = {name: training.get(name) for name in ("learning_rate", "lr")}
    optimizer = training.get("optimizer", {})
    rates["optimizer#lr"] = optimizer.get("lr") if isinstance(optimizer, dict) else None
    lower = {name: rate / _SHORTER for name, rate in rates.items() if isinstance(rate, float)}
    return {name: math.ceil(number / _SHORTER) for name, number in numbers.items()} | lower


def _write(file: Path, content: dict[str, Any]) -> None:
    options = {"indent": 4} if file.suffix == ".json" else {"sort_keys": False}
    ConfigParser.export_config_file(content, str(file), file.suffix[1:], **options)


def _describe(file: Path, bundle: Path, report: ShrinkReport) -> None:
    """Say in metadata.json what was done, as a new version."""
    metadata = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    *major, minor = str(metadata.get("version", "0.0.0")).split(".")
    version = ".".join([*major, str(int(minor) + 1)]) if minor.isdigit() else f"{metadata['version']}-shrunken"
    said = f"shrunken from {bundle.resolve().name}: {report.before.params:,} parameters to {report.after.params:,}"
    origin = {"bundle": bundle.resolve().name, "version": metadata.get("version")} | dict(report.architecture.origin)
    changes = {**metadata.get("changelog", {}), version: said}
    metadata |= {"version": version, "changelog": changes, "shrunken": {"origin": origin} | report.to_json()}
    file.write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
