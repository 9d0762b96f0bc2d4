# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures of a run with several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.handlers import CaseReport

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:.*get_mask_edges.always_return_as_numpy:FutureWarning"),  # MONAI's own call
    pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class .* is all 0"),
]

NAMES = ["head", "tail"]

SCRIPT = """
import sys
from pathlib import Path

import torch.distributed as dist
from monai.data import partition_dataset

sys.path.insert(0, sys.argv[1])
import conftest as case
from cakes_monai.handlers import CaseReport, VolumeReport

dist.init_process_group("gloo")
items = case.write_cases(Path(sys.argv[2]) / f"data{dist.get_rank()}")  # a folder each, so that nothing is half written
items = [{k: v.replace(f"data{dist.get_rank()}", "data0") for k, v in item.items()} for item in items]
dist.barrier()
part = partition_dataset(items, num_partitions=2, even_divisible=True)[dist.get_rank()]
case.evaluate_cases(part, CaseReport(Path(sys.argv[2]) / "two", ["head", "tail"]))


class Volumes(VolumeReport):
    def _collect(self, engine):
        for output in engine.state.output:
            output["pred"] = output["pred"].argmax(0, keepdim=True)
        super()._collect(engine)


case.evaluate_cases(part, Volumes(Path(sys.argv[2]) / "two", ["head", "tail"]))
dist.destroy_process_group()
"""


def test_two_processes_write_the_report_of_one(tmp_path: Path, three_cases: Any, evaluate: Any) -> None:
    """With two processes and a sampler that repeats a case, tables and pictures are those of a single process."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    items = [{k: v.replace("data/", "data0/") for k, v in case.items()} for case in three_cases]
    evaluate(items, CaseReport(tmp_path / "one", NAMES))
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(
        p.name for p in (tmp_path / "two").iterdir() if not p.name.startswith("volumes")
    )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    volumes = json.loads((tmp_path / "two" / "volumes.json").read_text())
    # Bars of 4 voxels a plane of 6 mm3: 8, 8 and 4 planes of head, 8, 8 and none of tail.
    assert [(v["case"], v["total"]["volume_ml"]) for v in volumes] == [("a", 0.384), ("b", 0.384), ("c", 0.096)]
