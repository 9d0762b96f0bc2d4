# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""metadata.json of a bundle for the task that its weights were trained for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cakes_monai.data.decathlon_task import DecathlonTask

__all__ = ["task_metadata"]


def task_metadata(task: DecathlonTask, template: str | os.PathLike[str], patch_size: Sequence[int]) -> str:
    """
    Fill in a bundle's metadata.json for a task: MONAI Label reads channels and names of classes there.

    Args:
        task: what the weights were trained for.
        template: metadata.json of the bundle; what does not depend on the task stays as it is.
        patch_size: the network's input.

    Returns:
        The text of the task's metadata.json.
    """
    content: dict[str, Any] = json.loads(Path(template).read_text(encoding="utf-8"))
    modality, structures = task.modality, ", ".join(task.structures)
    classes = {str(value): name for value, name in enumerate(task.class_names)}
    meanings = [f"{value} is {name}" for value, name in classes.items()]
    content["task"] = f"Segmentation of {structures} in {modality} volumes"
    content["description"] = f"A network that segments {structures} in {modality} volumes, trained on {task.name}."
    content["image_classes"] = f"{task.num_channels} channel(s): {', '.join(task.modalities)}"
    content["label_classes"] = f"single channel data, {', '.join(meanings)}"
    channels = ", ".join(f"channel {meaning}" for meaning in meanings)
    content["pred_classes"] = f"{task.num_classes} channels OneHot data, {channels}"
    size = {"spatial_shape": list(patch_size)}
    data_format = content["network_data_format"]
    inputs = ("image",) if task.num_channels == 1 else task.modalities
    data_format["inputs"]["image"] |= size | {
        "modality": modality,
        "num_channels": task.num_channels,
        "channel_def": {str(channel): name for channel, name in enumerate(inputs)},
    }
    data_format["outputs"]["pred"] |= size | {"num_channels": task.num_classes, "channel_def": classes}
    return json.dumps(content, indent=4) + "\n"
