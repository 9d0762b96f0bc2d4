# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle lets one choose what runs its network, in inference and evaluation."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from cakes_monai.inference import ENGINES, EngineInferer

BUNDLES = sorted(path.name for path in (Path(__file__).resolve().parents[2] / "bundles").iterdir())


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("files", [["inference.json"], ["train.json", "evaluate.json"]], ids=lambda files: files[-1])
def test_option_of_every_bundle(name: str, files: list[str], repository: Path) -> None:
    """The default is "auto", and the option reaches the inferer, which keeps what training says of windows and amp."""
    folder = repository / "bundles" / name / "configs"
    parser = ConfigParser()
    parser.read_config([str(folder / file) for file in files])
    parser["bundle_root"] = str(folder.parent)
    place = "inferer" if len(files) == 1 else "validate#inferer"
    before = parser.get(place)
    assert parser["engine"] == "auto"
    parser["engine"], parser["amp"] = "torch", "true"
    inferer = parser.get_parsed_content(place)
    assert isinstance(inferer, EngineInferer)
    assert (inferer.engine, inferer.amp) == ("torch", True)
    assert type(inferer.inferer).__name__ == before.get("inferer", {"_target_": "SimpleInferer"})["_target_"]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("fast", f"unknown engine 'fast', allowed are auto, {', '.join(ENGINES)}."),
        ("tensorrt", "engine tensorrt: torch_tensorrt is not installed: pip install torch-tensorrt."),
        ("none", "engine none: not_installed is not installed: pip install cakes-monai[none]."),
    ],
)
def test_an_engine_that_is_not_there(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, message: str
) -> None:
    """The cause of the failure is one line, and nothing is written."""
    if engine == "tensorrt" and find_spec("torch_tensorrt"):
        pytest.skip("torch_tensorrt is installed")
    if engine == "none":
        absent = type("Absent", (type(ENGINES["openvino"]),), {"name": "none", "modules": ("not_installed",)})()
        absent.install = "cakes-monai[none]"
        monkeypatch.setitem(ENGINES, "none", absent)
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        output_dir=str(tmp_path / "out"),
        engine=engine,
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as error:
        workflow.run()
    cause: BaseException | None = error.value
    messages = []
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__
    assert message in messages
    assert not (tmp_path / "out").exists()
