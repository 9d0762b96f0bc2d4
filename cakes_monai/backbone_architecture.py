# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The architecture of a network with a builder of its own: which sub-kernels its replaced convolutions have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cakes_monai.architecture import KernelSplit
from cakes_monai.architecture_file import FORMAT, ArchitectureFile, check_format, check_keys, made

__all__ = ["BackboneArchitecture"]


@dataclass(frozen=True)
class BackboneArchitecture(ArchitectureFile):
    """
    Splits of the replaced convolutions of a network, by the names of their places in it.

    Args:
        backbone: name of the network whose convolutions these are, e.g. "resnet50".
        layers: for each replaced convolution the splits of the convolutions that follow each other in its place: one,
            or for P3D two.
        origin: how it came about (search stage, seed, versions ...); anything JSON can say.

    Raises:
        ValueError: when there is no layer, or a layer without a split.

    Example:
        >>> split = KernelSplit.of({"1x3x3": 32, "3x1x1": 32})
        >>> BackboneArchitecture("resnet50", {"layer1.0.conv2": (split,)}).splits["layer1.0.conv2"].out_channels
        64
    """

    backbone: str
    layers: Mapping[str, tuple[KernelSplit, ...]] = field(hash=False)
    origin: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers is empty, at least one convolution must have a split.")
        if empty := [name for name, splits in self.layers.items() if not splits]:
            raise ValueError(f"layers[{empty[0]!r}] has no split, there must be at least one.")
        object.__setattr__(self, "layers", {name: tuple(splits) for name, splits in self.layers.items()})

    @classmethod
    def of_splits(
        cls, backbone: str, splits: Mapping[str, KernelSplit], origin: Mapping[str, Any] | None = None
    ) -> BackboneArchitecture:
        """The architecture with one convolution in every place."""
        return cls(backbone, {name: (split,) for name, split in splits.items()}, dict(origin or {}))

    @property
    def splits(self) -> dict[str, KernelSplit]:
        """Split of every place, where one convolution is."""
        return {name: splits[0] for name, splits in self.layers.items() if len(splits) == 1}

    def dumps(self) -> str:
        """The text of architecture.json: one line for each layer."""
        head = {name: json.dumps(value) for name, value in self.to_json().items() if name != "layers"}
        layers = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.to_json()["layers"].items())
        lines = [f' "{name}": {value}' for name, value in head.items()]
        return "{\n" + ",\n".join([*lines, f' "layers": {{\n  {layers}\n }}']) + "\n}\n"

    def to_json(self) -> dict[str, Any]:
        """The architecture in dicts and lists, as in architecture.json."""
        layers = {name: [split.as_dict() for split in splits] for name, splits in self.layers.items()}
        return {"format": FORMAT, "origin": dict(self.origin), "backbone": self.backbone, "layers": layers}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BackboneArchitecture:
        """
        The inverse of :meth:`to_json`.

        Raises:
            ValueError: for an unknown format, missing or unknown keys and everything the parts refuse.
        """
        check_format(content)
        check_keys(content, "the file", required={"format", "backbone", "layers"}, optional={"origin"})
        if not isinstance(content["layers"], Mapping):
            raise ValueError(f"layers must map layers to lists of splits, not {content['layers']!r}.")
        layers = {name: made(f"layers[{name!r}]", _splits, splits) for name, splits in content["layers"].items()}
        return cls(str(content["backbone"]), layers, dict(content.get("origin", {})))


def _splits(content: Any) -> tuple[KernelSplit, ...]:
    if not isinstance(content, list | tuple):
        raise ValueError(f"must be a list of splits, not {content!r}.")
    return tuple(made(f"[{i}]", KernelSplit.of, split) for i, split in enumerate(content))
