# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""From the path a user gives to a checked MONAI data list, and back to a file on disk."""

from __future__ import annotations

from cakes_monai.data.atomic_writer import AtomicNibabelWriter
from cakes_monai.data.decathlon import check_label_names, decathlon_fold, decathlon_label_names
from cakes_monai.data.dicom_series import check_dicom_series, dicom_files, is_dicom_folder
from cakes_monai.data.fingerprint import data_fingerprint
from cakes_monai.data.image_list import ImageList
from cakes_monai.data.image_search import IMAGE_SUFFIXES, find_images
from cakes_monai.data.nifti_header import check_nifti_header

__all__ = [
    "IMAGE_SUFFIXES",
    "AtomicNibabelWriter",
    "ImageList",
    "check_dicom_series",
    "check_label_names",
    "check_nifti_header",
    "data_fingerprint",
    "decathlon_fold",
    "decathlon_label_names",
    "dicom_files",
    "find_images",
    "is_dicom_folder",
]
