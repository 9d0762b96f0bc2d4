# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The test images of a task of the Medical Segmentation Decathlon, and whether all of them were segmented."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cakes_monai.data.decathlon import decathlon_test_images
from cakes_monai.data.image_list import ImageList

__all__ = ["DecathlonTestImages"]


class DecathlonTestImages(ImageList):
    """
    :class:`ImageList` of the test images of a task: those that dataset.json lists, or else those in ``imagesTs``.

    The decathlon takes one folder for each task, named as the task's own, with a label map for each test image, named
    as the image: ``Task09_Spleen/spleen_1.nii.gz``.

    Args:
        dataset_dir: folder with dataset.json.
        output_dir: folder in which the task's folder of label maps is or shall be.
        num_channels: number of channels an image must have.
        task_folder: name of the folder of label maps; by default that of ``dataset_dir``.
        shared: whether processes divide the images among them to look at.

    Attributes:
        label_dir: folder of the label maps.

    Raises:
        ValueError: when there are no test images, listed ones are missing, or ``task_folder`` is not ``Task`` with
            two digits and a name.

    Example:
        >>> images = DecathlonTestImages("/data/Task09_Spleen", "submission")
        >>> images.raise_for_rejected()  # after all are segmented
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        num_channels: int = 1,
        task_folder: str | None = None,
        shared: bool = False,
    ) -> None:
        dataset_dir = Path(dataset_dir).expanduser().absolute()
        task_folder = task_folder or dataset_dir.name
        if not re.fullmatch(r"Task\d\d_\w+", task_folder):
            raise ValueError(
                f"task_folder: {task_folder!r} is no folder of a submission; allowed: the task's name, such as "
                "Task09_Spleen."
            )
        self.label_dir = Path(output_dir, task_folder)
        self.test_images = decathlon_test_images(dataset_dir)
        super().__init__(self.test_images, num_channels, shared)

    def raise_for_rejected(self) -> None:
        """
        End the program with status 1 unless every test image has a label map; to be called when all are done.

        Raises:
            SystemExit: with a text that lists the test images without one, and why where that is known.
        """
        reasons = dict(self.rejected)
        lines = [
            f"  {path.name}: {reasons.get(str(path), 'was not segmented')}"
            for path in self.test_images
            if str(path) in reasons or not Path(self.label_dir, path.name).is_file()
        ]
        if lines:
            head = f"{len(lines)} of {len(self.test_images)} test images have no label map in {self.label_dir}:"
            raise SystemExit("\n".join([head, *lines]))
