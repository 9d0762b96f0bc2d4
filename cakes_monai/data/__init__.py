# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From the path a user gives to a checked MONAI data list, and back to a file on disk."""

from __future__ import annotations

from cakes_monai.data.atomic_writer import AtomicNibabelWriter
from cakes_monai.data.background_writer import BackgroundNibabelWriter, finish_writing
from cakes_monai.data.decathlon import (
    check_label_names,
    decathlon_fold,
    decathlon_label_names,
    decathlon_test_images,
)
from cakes_monai.data.decathlon_download import downloaded_task
from cakes_monai.data.decathlon_task import DecathlonTask
from cakes_monai.data.decathlon_test_images import DecathlonTestImages
from cakes_monai.data.dicom_segmentation import (
    SegmentationSource,
    SeriesReferenceError,
    has_highdicom,
    write_dicom_segmentation,
)
from cakes_monai.data.dicom_series import check_dicom_series, dicom_files, is_dicom_folder
from cakes_monai.data.disk_cache import DiskCacheDataset
from cakes_monai.data.epoch_sampler import EpochSampler
from cakes_monai.data.fingerprint import data_fingerprint
from cakes_monai.data.image_list import ImageList
from cakes_monai.data.image_search import IMAGE_SUFFIXES, find_images
from cakes_monai.data.nifti_header import check_nifti_header
from cakes_monai.data.nih_label import NIHLabeld
from cakes_monai.data.nih_pancreas import nih_pancreas_fold
from cakes_monai.data.patch_batch import volumes_per_process
from cakes_monai.data.slice_stack import stacked_slices
from cakes_monai.data.task_metadata import task_metadata

__all__ = [
    "IMAGE_SUFFIXES",
    "AtomicNibabelWriter",
    "BackgroundNibabelWriter",
    "DecathlonTask",
    "DecathlonTestImages",
    "DiskCacheDataset",
    "EpochSampler",
    "ImageList",
    "NIHLabeld",
    "SegmentationSource",
    "SeriesReferenceError",
    "check_dicom_series",
    "check_label_names",
    "check_nifti_header",
    "data_fingerprint",
    "decathlon_fold",
    "decathlon_label_names",
    "decathlon_test_images",
    "dicom_files",
    "downloaded_task",
    "find_images",
    "finish_writing",
    "has_highdicom",
    "is_dicom_folder",
    "nih_pancreas_fold",
    "stacked_slices",
    "task_metadata",
    "volumes_per_process",
    "write_dicom_segmentation",
]
