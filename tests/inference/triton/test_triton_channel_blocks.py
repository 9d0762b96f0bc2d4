# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Blocks of output channels and their taps."""

from __future__ import annotations

import numpy as np
import pytest

from cakes_monai.architecture import SUB_KERNELS, KernelSplit
from cakes_monai.inference.triton import BLOCK_SIZES, block_size, channel_blocks
from cakes_monai.inference.triton.channel_blocks import sub_kernel_taps


def num_taps(counts: dict[str, int], size: int) -> list[int]:
    """Taps of each block."""
    return [len(block.taps) for block in channel_blocks(KernelSplit.of(counts), size)]


def test_each_channel_is_in_one_block_that_has_its_taps() -> None:
    """Whatever the split, no channel is lost, doubled or in a block without one of its taps, and no block too full."""
    generator = np.random.default_rng(0)
    for _ in range(100):
        counts = generator.integers(0, 70, 7) * (generator.random(7) < 0.6)
        split = KernelSplit.of({"3x3x3": 1} | {n: int(c) for n, c in zip(SUB_KERNELS, counts, strict=True) if c})
        wanted = [sub_kernel_taps(name) for name, count in split.counts for _ in range(count)]
        for size in BLOCK_SIZES:
            blocks = channel_blocks(split, size)
            assert sorted(channel for block in blocks for channel in block.channels) == list(range(len(wanted)))
            for block in blocks:
                assert len(block.channels) <= size
                assert set(block.taps) == set().union(*(wanted[channel] for channel in block.channels))


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ({"3x3x3": 32, "1x3x3": 16, "1x1x3": 16}, 16, [27, 27, 9, 3]),  # multiples: nothing is shared
        ({"3x3x3": 10, "1x3x3": 16, "1x1x3": 6}, 16, [27, 9]),  # 6 channels of 1x1x3 where six columns are free
        ({"1x3x3": 8, "3x1x3": 8}, 16, [15]),  # 9 + 9 - 3 in common
        ({"3x1x1": 5, "1x3x1": 5, "1x1x3": 5}, 16, [7]),  # the middle is in common
        ({"1x3x3": 9, "3x1x3": 9}, 16, [9, 9]),  # 18 channels do not fit
        (dict.fromkeys(SUB_KERNELS, 9) | {"3x3x3": 10}, 16, [27, 9, 9, 9]),  # an even split of 64: 27 fit, 27 are free
    ],
)
def test_taps_of_blocks(counts: dict[str, int], size: int, expected: list[int]) -> None:
    """What is left of a sub-kernel moves where its taps are computed anyway, or shares a block."""
    assert num_taps(counts, size) == expected


def test_block_size_follows_the_model() -> None:
    """Few channels of many kinds are computed as one block, many channels in blocks that follow the split."""
    even = KernelSplit.of(dict.fromkeys(SUB_KERNELS, 9) | {"3x3x3": 10})
    assert block_size(even) == 64  # 27 * max(64, 96) = 2592; 16: 54 * 72 = 3888, 32: 39 * 80, 128: 27 * 128
    assert block_size(even, float32=True) == 32  # 39 * 192 = 7488; 16: 54 * 144 = 7776, 64: 27 * 384
    assert block_size(KernelSplit.of({"1x1x3": 16})) == 16
