# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What dataset.json of the Medical Segmentation Decathlon says about a task, and how its images are prepared."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from cakes_monai.data.decathlon import dataset_json, numbered_names

__all__ = ["DecathlonTask"]

TASK_FILE = "task.json"
HU_WINDOW = (-175.0, 250.0)  # air and bone are cut off, soft tissue and lesions keep their contrast


@dataclass(frozen=True)
class DecathlonTask:
    """
    A task: its channels, its classes, and what is done to its images before a network sees them.

    Training writes it beside the weights, so that inference needs no dataset.json and cannot prepare images otherwise.

    Args:
        name: name of the task.
        modalities: modality of each channel: "CT" in any case, everything else counts as MR.
        class_names: names of the label values 0, 1, ..., background first.
        image_size: "3D", or "4D" for images of several channels.
        hu_window: Hounsfield units that become 0 and 1 in CT.
        resampled_size: voxels that every volume is resampled to, whatever its spacing; None for 1 mm.

    Raises:
        ValueError: for fewer than two classes, names given twice, a window that is none, or a size below 16.
    """

    name: str
    modalities: tuple[str, ...]
    class_names: tuple[str, ...]
    image_size: str = "3D"
    hu_window: tuple[float, float] = HU_WINDOW
    resampled_size: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or len(set(map(str.lower, self.class_names))) < len(self.class_names):
            raise ValueError(f"labels: {_list(self.class_names)}; allowed: two or more different names.")
        if not self.modalities:
            raise ValueError("modality: no channel; allowed: one or more.")
        if len(self.hu_window) != 2 or not self.hu_window[0] < self.hu_window[1]:
            raise ValueError(f"hu_window: {_list(self.hu_window)}; allowed: a lower and a higher number.")
        size = self.resampled_size
        if size is not None and (len(size) != 3 or any(not isinstance(s, int) or s < 16 for s in size)):
            raise ValueError(f"resampled_size: {_list(size)}; allowed: three whole numbers of at least 16.")

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return len(self.modalities)

    @property
    def modality(self) -> str:
        """Either "CT" or "MR", as metadata.json has it."""
        return "CT" if all(name.upper() == "CT" for name in self.modalities) else "MR"

    @property
    def num_classes(self) -> int:
        """Classes with the background."""
        return len(self.class_names)

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the classes without the background."""
        return self.class_names[1:]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        hu_window: Sequence[float] | None = None,
        resampled_size: Sequence[int] | None = None,
    ) -> DecathlonTask:
        """
        Read a task from dataset.json, or from the task.json that a training wrote.

        Args:
            path: the file, or the folder that dataset.json is in; of several paths the first one that exists.
            hu_window: in place of what the file says.
            resampled_size: in place of what the file says.

        Raises:
            ValueError: when there is no such file, or it is broken, has no labels or modality, or these are not
                numbered without gaps.
        """
        file = _first_of(path)
        content = json.loads(file.read_text(encoding="utf-8"))
        modalities, size = numbered_names(file, "modality"), resampled_size or content.get("resampled_size")
        try:
            return cls(
                name=str(content.get("name", file.parent.name)),
                modalities=tuple(modalities),
                class_names=tuple(numbered_names(file, "labels")),
                image_size=str(content.get("tensorImageSize", "3D" if len(modalities) == 1 else "4D")),
                hu_window=tuple(map(float, hu_window or content.get("hu_window") or HU_WINDOW)),  # type: ignore[arg-type]
                resampled_size=tuple(size) if size else None,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error

    @classmethod
    def of_weights(
        cls,
        weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        task_file: str | os.PathLike[str] | None = None,
        default: str | os.PathLike[str] | None = None,
    ) -> DecathlonTask:
        """
        Read the task that weights were trained for: task.json beside them.

        Args:
            weights: file of the weights, or a list of files that must be of one task.
            task_file: in place of the file beside the weights.
            default: in place of it when there are no weights yet.

        Raises:
            ValueError: when weights lie there without the file, or those of several tasks, and as in :meth:`load`.
        """
        if task_file:
            return cls.load(task_file)
        paths = [Path(path).expanduser() for path in ensure_tuple(weights)]
        if default and not any(path.exists() or path.with_name(TASK_FILE).exists() for path in paths):
            return cls.load(default)
        first, *others = [cls.load(path.with_name(TASK_FILE)) for path in paths]
        if any(other != first for other in others):
            raise ValueError(f"weights: {_list(paths)} are of different tasks by the {TASK_FILE} beside them.")
        return first

    def dumps(self) -> str:
        """The text of task.json: the entries of dataset.json, and how images are prepared."""
        content: Mapping[str, Any] = {
            "name": self.name,
            "tensorImageSize": self.image_size,
            "modality": {str(number): name for number, name in enumerate(self.modalities)},
            "labels": {str(value): name for value, name in enumerate(self.class_names)},
            "hu_window": list(self.hu_window),
            "resampled_size": list(self.resampled_size) if self.resampled_size else None,
        }
        return json.dumps(content, indent=4) + "\n"


def _first_of(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Path:
    """The JSON file that the first path that exists stands for."""
    paths = [Path(item).expanduser() for item in ensure_tuple(path)]
    found = next((item for item in paths if item.exists()), paths[0])
    if found.suffix == ".json" and not found.is_file():
        raise ValueError(
            f"{found}: no such file; allowed: the task.json that training writes beside the weights, or dataset.json "
            "of the task they were trained for."
        )
    return dataset_json(found, "labels")


def _list(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items)) or "none"
