# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks of the Medical Segmentation Decathlon from where MONAI downloads them."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import ignite.distributed as idist
from monai.apps import DecathlonDataset, download_url, extractall
from monai.utils import str2bool

__all__ = ["downloaded_task"]

logger = logging.getLogger(__name__)


def downloaded_task(dataset_dir: str | os.PathLike[str], download: bool | str = False) -> str:
    """
    Fetch a task with MONAI's downloader when its folder is not there.

    The archive is put beside the folder and stays there, as with ``monai.apps.DecathlonDataset``. It counts as
    downloaded when its checksum is right, and the folder appears when everything is extracted; so after a kill the
    same call goes on with the step that was not complete. A download itself starts anew. Of several processes of a
    machine one downloads.

    Args:
        dataset_dir: where the task is or shall be; the folder's name says which one, e.g. ``/data/Task09_Spleen``.
        download: whether to fetch it; also "true" and "false", which is what a command line gives.

    Returns:
        ``dataset_dir``.

    Raises:
        ValueError: when the folder's name is no task of the decathlon, the folder is there without dataset.json, or
            the archive cannot be downloaded or extracted.

    Example:
        >>> DecathlonTask.load(downloaded_task("/data/Task09_Spleen", download=True))
    """
    folder = Path(dataset_dir).expanduser()
    if str2bool(download):
        with idist.one_rank_first(local=True):
            if not (folder / "dataset.json").is_file():
                _fetch(folder)
    return str(dataset_dir)


def _fetch(folder: Path) -> None:
    if folder.name not in DecathlonDataset.resource:
        tasks = ", ".join(DecathlonDataset.resource)
        raise ValueError(f"{folder}: is no task that can be downloaded; allowed are folders named {tasks}.")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: has no dataset.json but other files; move them away to download the task.")
    archive = folder.with_name(f"{folder.name}.tar")
    url, md5 = DecathlonDataset.resource[folder.name], DecathlonDataset.md5[folder.name]
    try:
        download_url(url, archive, hash_val=md5, hash_type="md5")
        _extract(archive, folder)
    except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError; MONAI's HashCheckError a ValueError
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{folder}: is not there, and {url} could not be downloaded to {archive} and extracted ({reason}); try "
            "again, or get the task from http://medicaldecathlon.com."
        ) from error


def _extract(archive: Path, folder: Path) -> None:
    """Extract beside ``folder`` and move it there when it is complete."""
    logger.info("Extracting %s.", archive)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    extractall(archive, partial, has_base=False)
    if not (partial / folder.name / "dataset.json").is_file():
        raise ValueError(f"the archive has no {folder.name}/dataset.json")
    if folder.exists():  # empty
        folder.rmdir()
    (partial / folder.name).rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
