# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's real server with a copy of the hippocampus bundle: inference, options, scoring, training by REST."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import requests
from monai.bundle import ConfigWorkflow

pytestmark = pytest.mark.label

CASES = ("hippocampus_001", "hippocampus_003", "hippocampus_004")
SECONDS_TO_START = 300
SECONDS_OF_A_TASK = 600


class Server:
    """A running server with one bundle, called as 3D Slicer calls it."""

    def __init__(self, python: Path, bundle: Path, folder: Path) -> None:
        self.bundle, self.log_file = bundle, folder / "server.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.command = [str(python), "-m", "cakes_monai", "label", "--bundle", str(bundle), "--epistemic"]
        self.command += ["--studies", str(folder / "the studies"), "--app", str(folder / "the app")]
        self.command += ["--port", str(self.port)]
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
            "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",  # a score when it is asked for, not after every step
        }
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                self.command, cwd=folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> str:
        """All that the server has written."""
        return self.log_file.read_text(errors="replace")

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """The answer to a request, which must be a good one."""
        answer = requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS_OF_A_TASK, **options)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text}\n{self.log[-3000:]}"
        return answer

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.call("GET", "/info/")
            except requests.ConnectionError:
                time.sleep(0.2)
            else:
                return
        pytest.fail(f"the server did not start: {self.log[-3000:]}")

    def stop(self) -> None:
        """End the server and all that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def config(self, section: str) -> dict[str, Any]:
        """Options that a client shows, each with the value that it sends where nothing is changed."""
        config = self.call("GET", "/info/").json()[section][self.bundle.name]["config"]
        return {name: value[0] if isinstance(value, list) else value for name, value in config.items()}

    def add(self, file: Path, name: str) -> None:
        """Upload an image."""
        with file.open("rb") as content:
            self.call(
                "PUT", f"/datastore/image?image={name}", files={"file": (file.name, content)}, data={"params": "{}"}
            )

    def open_session(self, file: Path) -> str:
        """Upload an image for a while, as 3D Slicer does with one that is not among the studies."""
        with file.open("rb") as content:
            return str(self.call("PUT", "/session/", files={"files": (file.name, content)}).json()["session_id"])

    def infer(self, output: Path, image: str = "", session: str = "", **options: Any) -> Path:
        """Label map of an uploaded image, with the client's options and these."""
        params = json.dumps(self.config("models") | {"result_dtype": "uint8"} | options)
        path = f"/infer/{self.bundle.name}?image={image}&session_id={session}&output=image"
        output.write_bytes(self.call("POST", path, data={"params": params}).content)
        return output

    def train(self, **options: Any) -> str:
        """Run a training, and return what the log says of it."""
        before = len(self.log)
        self.call("POST", f"/train/{self.bundle.name}", json=self.config("trainers") | options)
        deadline = time.monotonic() + SECONDS_OF_A_TASK
        while (status := self.call("GET", "/train/").json()["status"]) in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.5)
        assert status == "DONE", self.log[-6000:]
        return self.log[before:]


@pytest.fixture(scope="module")
def server(
    repository: Path, bundle: Path, images: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server, with a copy of the bundle and with images."""
    made = repository / ".venv-label"
    given = os.environ.get("CAKES_LABEL_PYTHON")
    if not given and not (made / "installed").exists():
        pytest.skip(
            f"no MONAI Label in {made}; run `make test-label`, or set CAKES_LABEL_PYTHON to a Python that has it"
        )
    python = Path(given or made / "bin" / "python")
    folder = tmp_path_factory.mktemp("label")
    copy = Path(shutil.copytree(bundle, folder / "bundles" / "hippocampus", ignore=shutil.ignore_patterns("eval")))
    running = Server(python, copy, folder)
    try:
        running.wait()
        for name, file in images.items():
            running.add(file, name)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def images(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real volumes, and one of them with another order of axes, oblique and of another spacing."""
    files = {name: hippocampus / "imagesTr" / f"{name}.nii.gz" for name in CASES}
    image: Any = nib.load(files[CASES[0]])
    turned = np.asarray(image.dataobj).transpose(2, 0, 1)[:, ::-1]
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    axes = np.array([[0, -1.1, 0], [0, 0, 0.9], [1.2, 0, 0]])  # the first axis upwards, the second to the left
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ axes, (11, -22, 33)
    files["turned"] = tmp_path_factory.mktemp("images") / "turned.nii.gz"
    nib.save(nib.Nifti1Image(turned, affine), files["turned"])
    return files


@pytest.fixture(scope="module")
def segment(images: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., np.ndarray]:
    """The bundle's own inference of an image, in this process."""

    def run(bundle: Path, name: str, **options: Any) -> np.ndarray:
        output = tmp_path_factory.mktemp("own")
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / "inference.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            bundle_root=str(bundle),
            dataset_dir=str(images[name]),
            output_dir=str(output),
            **options,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return voxels(output / f"{name}_seg.nii.gz")

    return run


def voxels(file: Path) -> np.ndarray:
    """Voxels of a NIfTI file."""
    image: Any = nib.load(file)
    return np.asarray(image.dataobj)


def test_options_that_clients_show(server: Server) -> None:
    """Structures are numbered as in the bundle; the options are those of displayable_configs with their defaults."""
    assert server.call("GET", "/info/").json()["models"]["hippocampus"]["labels"] == {"anterior": 1, "posterior": 2}
    assert server.config("models") == {
        "device": "cpu",
        "model_filename": "model.pt",
        "overlap": 0.5,
        "sw_batch_size": 8,
    }
    assert server.config("trainers").items() >= {"learning_rate": 0.03, "pretrained": True}.items()


@pytest.mark.parametrize("name", [CASES[0], "turned"])
def test_inference_is_the_bundles_own(
    server: Server, segment: Callable[..., np.ndarray], images: dict[str, Path], name: str, tmp_path: Path
) -> None:
    """Every voxel has the label that inference.json gives it, in the geometry of the image."""
    result: Any = nib.load(server.infer(tmp_path / "result.nii.gz", name))
    image: Any = nib.load(images[name])
    assert result.shape == image.shape
    np.testing.assert_allclose(result.affine, image.affine, atol=1e-5)
    ours = np.asarray(result.dataobj)
    assert ours.dtype == np.uint8
    assert np.unique(ours).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(ours, segment(server.bundle, name))


def test_slicer_gets_nrrd(
    server: Server, segment: Callable[..., np.ndarray], images: dict[str, Path], tmp_path: Path
) -> None:
    """In the format that 3D Slicer asks for, of an image that it sends, are the same labels at the same places."""
    session = server.open_session(images["turned"])
    result = itk.imread(str(server.infer(tmp_path / "result.nrrd", session=session, result_extension=".nrrd")))
    image = itk.imread(str(images["turned"]))
    np.testing.assert_array_equal(itk.array_view_from_image(result).T, segment(server.bundle, "turned"))
    for corner in ((0, 0, 0), (30, 5, 20)):
        ours, theirs = (item.TransformIndexToPhysicalPoint(corner) for item in (result, image))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_options_take_effect(server: Server, segment: Callable[..., np.ndarray], tmp_path: Path) -> None:
    """Another overlap than the default gives what it gives in the bundle, and is gone with the request."""
    default = voxels(server.infer(tmp_path / "default.nii.gz", CASES[1]))
    more = voxels(server.infer(tmp_path / "more.nii.gz", CASES[1], overlap=0.93, sw_batch_size=4))
    np.testing.assert_array_equal(more, segment(server.bundle, CASES[1], overlap=0.93, sw_batch_size=4))
    assert (more != default).any()
    np.testing.assert_array_equal(voxels(server.infer(tmp_path / "again.nii.gz", CASES[1])), default)


def test_scores(server: Server) -> None:
    """As many images without a label as asked for get a mean entropy of three classes, so between 0 and ln 3."""
    options = {"max_workers": 1, "simulation_size": 2, "max_samples": 2}
    summary = server.call("POST", f"/scoring/{server.bundle.name}?run_sync=true", json=options).json()
    assert summary["executed"] == 2
    found = server.call("GET", "/datastore/?output=all").json()["objects"]
    scores = [entry["image"]["info"].get("epistemic_entropy") for entry in found.values()]
    assert scores.count(None) == len(found) - 2
    assert all(0 < score < math.log(3) for score in scores if score is not None), scores


def test_training(server: Server, segment: Callable[..., np.ndarray], hippocampus: Path, tmp_path: Path) -> None:
    """Two epochs on uploaded labels start from the weights, with the client's rate; then the new weights segment."""
    weights = server.bundle / "models" / "model.pt"
    before, old = voxels(server.infer(tmp_path / "before.nii.gz", CASES[0])), weights.read_bytes()
    for name in CASES:
        with (hippocampus / "labelsTr" / f"{name}.nii.gz").open("rb") as content:
            files = {"label": (f"{name}.nii.gz", content)}
            server.call("PUT", f"/datastore/label?image={name}", files=files, data={"params": "{}"})
    log = server.train(max_epochs=2, val_split=0.34, learning_rate=0.07, device="cpu")
    assert "hippocampus/models/model.pt" in log.split("Restored all variables from ")[1].splitlines()[0]
    assert "epoch 1/2: " in log
    assert "epoch 2/2: " in log
    assert "learning rate 0.07," in log.split("epoch 1/2: ")[1].splitlines()[0]
    assert weights.read_bytes() != old
    assert "Reload model from cache" not in server.log
    after = voxels(server.infer(tmp_path / "after.nii.gz", CASES[0]))
    assert "Reload model from cache" in server.log
    assert (after != before).any()
    np.testing.assert_array_equal(after, segment(server.bundle, CASES[0]))


def test_requests_of_the_documentation(server: Server, repository: Path) -> None:
    """The server knows every request that docs/monai_label.md shows."""
    known = server.call("GET", "/openapi.json").json()["paths"]
    text = (repository / "docs" / "monai_label.md").read_text(encoding="utf-8")
    requests_shown = re.findall(r'^curl (?:-X (\w+) )?"http://127\.0\.0\.1:8000([^"?]*)', text, re.MULTILINE)
    assert len(requests_shown) >= 7
    for method, path in requests_shown:
        model = re.sub("/hippocampus_mr_c2fnas_cakes$", "/{[a-z]+}", path)
        assert any(re.fullmatch(model, name) and (method or "GET").lower() in known[name] for name in known), path


def test_a_second_server_at_the_port(server: Server) -> None:
    """It ends with status 2 and one line, and the first one goes on."""
    environment = server.environment | {"COLUMNS": "300"}
    result = subprocess.run(server.command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"127.0.0.1:{server.port}: the port is in use; stop the server there" in result.stderr
    server.call("GET", "/info/")
