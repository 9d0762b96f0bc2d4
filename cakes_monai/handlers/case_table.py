# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of all cases: gathered from every process, each case once, written whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import string_list_all_gather

from cakes_monai.atomic_file import written_whole

__all__ = ["distinct_cases", "gathered_records", "write_csv", "write_json"]


def gathered_records(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of all processes in the order of MONAI's metric buffers: those of the first process, of the second..."""
    texts = string_list_all_gather([json.dumps(record) for record in records])
    return [json.loads(text) for text in texts if text]  # a process without records gives one empty text


def distinct_cases(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records sorted by case; a case that a sampler repeated to give every process the same number is left once."""
    first = {(record["case"], record["file"]): record for record in reversed(records)}
    return [first[key] for key in sorted(first)]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows`` under a line of ``columns``, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, value: Any) -> None:
    """Write ``value``, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
