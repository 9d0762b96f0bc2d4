# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Strides of sliding windows, as MONAI moves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.inferers.utils import _get_scan_interval

from cakes_monai.inference import overlap_of_stride

#: Window and stride of every setting of the papers, and of the search.
SETTINGS = {
    "CAKES, MSD": ([96, 96, 96], 32),
    "CAKES, NIH": ([96, 96, 64], 20),
    "C2FNAS": ([96, 96, 96], 16),
    "C2FNAS, ranking": ([96, 96, 96], 48),
    "C2FNAS, Prostate": ([128, 128, 32], [16, 16, 4]),
}


@pytest.mark.parametrize(("size", "stride"), SETTINGS.values(), ids=list(SETTINGS))
def test_the_interval_of_the_papers(size: list[int], stride: int | list[int]) -> None:
    """What MONAI computes from the overlap is the stride along every axis of a larger image."""
    interval = _get_scan_interval((300, 300, 300), size, 3, overlap_of_stride(stride, size))
    assert interval == (tuple(stride) if isinstance(stride, list) else (stride,) * 3)


def test_every_stride_of_every_size() -> None:
    """The interval is the stride for all strides of all windows up to 160 voxels."""
    for size in range(2, 161):
        for stride in range(1, size + 1):
            assert int(size * (1 - overlap_of_stride(stride, [size])[0])) == stride, (size, stride)


def test_the_plain_overlap_would_be_wrong() -> None:
    """Why the function is there: by 1 - stride/size the papers' 32 and 16 of 96 become 31 and 15."""
    assert [int(96 * (1 - (1 - stride / 96))) for stride in (32, 16)] == [31, 15]


def test_windows_that_are_computed() -> None:
    """A window of 4 moved by 3 over 10 voxels stops at 0, 3 and 6; each start is seen in what the network gets."""
    starts: list[float] = []

    def network(window: torch.Tensor) -> torch.Tensor:
        starts.append(window[0, 0, 0, 0, 0].item())
        return window.clone()

    image = torch.arange(10.0).expand(1, 1, 4, 4, 10)
    overlap = overlap_of_stride([4, 4, 3], [4, 4, 4])
    result = SlidingWindowInferer(roi_size=[4, 4, 4], overlap=overlap)(image, network)
    assert starts == [0, 3, 6]
    torch.testing.assert_close(result, image)


@pytest.mark.parametrize(
    ("stride", "size", "message"),
    [
        (97, [96, 96, 96], "stride is 97 for a window of 96 voxels, allowed are whole numbers 1 to 96"),
        (0, [96, 96, 96], "stride is 0"),
        (1.5, [96, 96, 96], r"stride is 1\.5"),
        ([16, 16], [96, 96, 96], r"stride \[16, 16\] is for 2 axes, the window has 3"),
    ],
)
def test_wrong_strides(stride: Any, size: list[int], message: str) -> None:
    """Each is one line with what is allowed."""
    with pytest.raises(ValueError, match=message):
        overlap_of_stride(stride, size)
