# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of cases and of structures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from cakes_monai.handlers.case_names import CaseNames, checked_names


@pytest.mark.parametrize("names", ["pancreas", [], ["a", "a"]])
def test_names_must_be_a_list_of_different_names(names: Any) -> None:
    """A string would give one structure a letter, and equal names would share a row."""
    with pytest.raises(ValueError, match="allowed is a list of different names"):
        checked_names(names)


def test_images_without_a_file_are_numbered() -> None:
    """Arrays from memory become the cases 0, 1 and so on until the next start."""
    names = CaseNames()
    assert [names._name(torch.zeros(1)), names._name(MetaTensor(torch.zeros(1)))] == [("0", ""), ("1", "")]
    names.start()
    assert names._name(None) == ("0", "")
