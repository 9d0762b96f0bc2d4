# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle runs: from elsewhere, resumed, on two processes, tracked, loaded as a package, in a federation."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import monai
import monai.bundle
import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from packaging.version import Version

TABLES = (".csv", ".json")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2")


def checkpoint(bundle: Any) -> dict[str, Any]:
    """The state after the last epoch."""
    return torch.load(bundle.folder / "eval" / "checkpoint.pt", weights_only=True)


def tables(bundle: Any) -> dict[str, bytes]:
    """Content of the tables that an evaluation writes, and of its summary."""
    return {path.name: path.read_bytes() for path in (bundle.folder / "eval").iterdir() if path.suffix in TABLES}


def test_training_from_another_folder(small: Any) -> None:
    """By absolute paths it writes weights and checkpoint into the bundle, and nothing where it was started."""
    assert small.weights.exists()
    assert checkpoint(small)["epoch"] >= 1
    assert not list((small.folder.parent / "elsewhere").iterdir())


def test_inference_from_another_folder(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By absolute paths it writes its results to the folder that is asked for, and nothing where it was started."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    small.run("inference.json", kind="infer", output_dir=str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())


def test_inference_that_reads_ahead(segmenting: Any, small: Any, tmp_path: Path) -> None:
    """A process that prepares the next image changes nothing in any result."""
    for workers in (0, 1):
        small.run("inference.json", kind="infer", num_workers=workers, output_dir=str(tmp_path / str(workers)))
    of_none, of_one = ({path.name: path.read_bytes() for path in (tmp_path / n).glob("*.nii.gz")} for n in "01")
    assert of_one == of_none
    assert of_none


def test_resumed_with_more_epochs(small: Any, entry: dict[str, Any], tmp_path: Path) -> None:
    """A finished training goes on after its last epoch, and its best validation is not forgotten."""
    bundle, before = small.copy(tmp_path), checkpoint(small)
    bundle.run("train.json", resume=True, **entry["longer"])
    after = checkpoint(bundle)
    assert after["epoch"] == before["epoch"] + 1
    assert after["iteration"] == before["iteration"] // before["epoch"] * after["epoch"]
    assert after["best_metric"] >= before["best_metric"]


@pytest.mark.filterwarnings("ignore:the prediction of class")  # MONAI's remark on a structure that was missed
def test_two_processes(small: Any, tmp_path: Path) -> None:
    """Two processes (torchrun, gloo) share an epoch or its batches, and evaluate each case once, as one does."""
    bundle, alone = small.copy(tmp_path), checkpoint(small)
    bundle.python(tmp_path, ["train.json", "multi_gpu_train.json"], *TORCHRUN)
    together = checkpoint(bundle)
    assert together["epoch"] == alone["epoch"]
    halved = -(-alone["iteration"] // alone["epoch"] // 2) * alone["epoch"]
    of_all = "volumes_per_process" in json.dumps(bundle.config("train.json"))  # a batch is divided among processes
    assert together["iteration"] == (alone["iteration"] if of_all else halved)
    assert not any(name.startswith("module.") for name in torch.load(bundle.weights, weights_only=True))
    bundle.python(tmp_path, ["train.json", "evaluate.json", "multi_gpu_evaluate.json"], *TORCHRUN)
    of_two = tables(bundle)
    bundle.run("train.json", "evaluate.json")
    assert tables(bundle) == of_two
    assert of_two


@pytest.mark.skipif(Version(monai.__version__) < Version("1.6"), reason="MONAI tracks to a store that MLflow gave up")
def test_tracking(small: Any, tmp_path: Path) -> None:
    """--tracking mlflow keeps the loss of every iteration in a data base in the output folder."""
    pytest.importorskip("mlflow")
    bundle = small.copy(tmp_path)
    options = {"config_file": bundle.file("train.json"), "bundle_root": str(bundle.folder), "tracking": "mlflow"}
    process = multiprocessing.get_context("forkserver").Process(target=monai.bundle.run, kwargs=options)
    process.start()
    process.join()
    assert process.exitcode == 0
    with sqlite3.connect(bundle.folder / "eval" / "mlruns.db") as store:
        losses = store.execute("select count(*) from metrics where key = 'train_loss'").fetchone()[0]
    store.close()
    assert losses == checkpoint(bundle)["iteration"]


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_load_without_data(small: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """monai.bundle.load gives the network with its weights where there is no data."""
    bundle = small.copy(tmp_path)
    Path(bundle.file("logging.conf")).unlink()  # it would change how the other tests log
    file = Path(bundle.file(f"{kind}.json"))
    file.write_text(json.dumps(bundle.config(file.name) | {"dataset_dir": "/nowhere"}))
    monkeypatch.chdir(bundle.folder)
    network = monai.bundle.load(bundle.name, bundle_dir=tmp_path, workflow_type=kind, device="cpu")
    loaded, weights = network.state_dict(), torch.load(bundle.weights, weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in weights.items() if name != "_extra_state")


@pytest.mark.filterwarnings("ignore:executing the bundle config", "ignore:the prediction of class")
def test_federated_round(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MonaiAlgo with its default file names trains from the server's weights, returns new ones and evaluates them."""
    bundle = small.copy(tmp_path)
    monkeypatch.chdir(bundle.folder)
    before = torch.load(bundle.weights, weights_only=True)
    algorithm = MonaiAlgo(bundle_root=str(bundle.folder), local_epochs=1, send_weight_diff=False)
    algorithm.initialize({ExtraItems.CLIENT_NAME: "clinic"})
    server = ExchangeObject(weights=dict(before))
    algorithm.train(server)
    after = algorithm.get_weights()
    learned = [name for name in before if name.endswith("weight")]
    assert after.weights.keys() >= set(learned)
    assert any(not torch.equal(torch.as_tensor(after.weights[name]), before[name]) for name in learned)
    metrics = algorithm.evaluate(ExchangeObject(weights=after.weights)).metrics
    assert metrics
    algorithm.finalize()
