# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ray as an engine: what every engine keeps to, and a cluster that loses machines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import test_engine as contract
from test_engine import (  # noqa: F401  # these tests run here as well, with the fixtures below
    EngineOf,
    finished,
    gone,
    parent_of,
    task,
    test_a_killed_trial_goes_on_from_its_checkpoint,
    test_an_exception_is_retried,
    test_close_ends_trials,
    test_failures_have_reasons,
    test_results_come_in_the_order_in_which_trials_end,
    test_surroundings,
    test_trials_end_with_a_killed_driver,
    test_two_slots_run_two_trials,
    until,
)

from cakes_monai.search import engine_ray
from cakes_monai.search.engine import make_engine

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "cakes-monai[ray]"')

SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
SPARE = {"num_cpus": 1, "num_gpus": 2, "resources": {"spare": 1}, **SMALL}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray has clusters of one machine on Linux only")
WATCHFUL = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two machines with a CPU each, of which the second can be lost."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 1, "_system_config": WATCHFUL, **SMALL}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**SPARE)
        logs = cluster.head_node.get_session_dir_path()
        yield cluster
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(logs, ignore_errors=True)


engine_of = contract.engine_of


@pytest.fixture
def engine_name() -> str:
    """The engine under test."""
    return "ray"


@pytest.fixture
def engine_options(cluster: Any) -> dict[str, Any]:
    """With these it has two slots; all tests share a connection, which is dear."""
    if not ray.is_initialized():
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    return {}


@pytest.fixture
def driver_options(cluster: Any) -> dict[str, Any]:
    """The same for an engine in another process."""
    return {"address": cluster.address}


def test_a_lost_machine(engine_of: EngineOf, cluster: Any, tmp_path: Path) -> None:
    """A trial whose machine is lost goes on from its folder on another one; slots follow the machines."""
    checkpoint, go = tmp_path / "trial_0" / "checkpoint.json", tmp_path / "go"
    engine = engine_of(resources_per_trial={"spare": 1})
    assert engine.slots == 1
    engine.submit(task(0, "count", tmp_path, total=5, stop_at=3, after=str(go)))
    (node,) = cluster.worker_nodes
    cluster.add_node(**SPARE)
    assert (engine.slots, engine.free_slots) == (2, 1)
    until(lambda: checkpoint.exists() and len(json.loads(checkpoint.read_text())) == 3)
    (lost,) = set(json.loads(checkpoint.read_text()))
    cluster.remove_node(node, allow_graceful=False)
    until(lambda: gone(lost))
    until(lambda: engine.slots == 1)
    assert (engine.free_slots, engine.running) == (0, (0,))
    go.touch()
    result = finished(engine)
    assert (result.error, result.attempts, result.lost) == (None, 2, False)
    assert result.value is not None
    assert (result.value["start"], result.value["processes"][:3]) == (3, [lost] * 3)


def test_gpus_are_rays(engine_of: EngineOf, tmp_path: Path) -> None:
    """A trial that needs a GPU runs where there is one, and sees the ones that Ray gives it."""
    engine = engine_of(gpus_per_trial=1)
    assert engine.slots == 1
    engine.submit(task(0, "surroundings", tmp_path))
    value = finished(engine).value
    assert value is not None
    assert value["variables"]["CUDA_VISIBLE_DEVICES"] in ("0", "1")


def test_a_lost_worker_is_counted(engine_of: EngineOf, tmp_path: Path) -> None:
    """When Ray's worker is killed its trial ends too; that counts as a loss of the trial."""
    engine = engine_of(max_losses=0)
    engine.submit(task(0, "answer", tmp_path, wait_for=str(tmp_path / "go")))
    running = tmp_path / "trial_0" / "running"
    until(running.exists)
    trial = int(running.read_text())
    os.kill(parent_of(parent_of(trial)), signal.SIGKILL)  # over the guard
    result = finished(engine)
    assert (result.value, result.attempts, result.lost) == (None, 1, True)
    assert result.error is not None
    assert result.error.startswith("worker lost, WorkerCrashedError: ")
    until(lambda: gone(trial))


def test_a_connection_is_kept(engine_of: EngineOf) -> None:
    """An engine uses a connection to Ray that it finds, leaves it open, and refuses an address beside it."""
    with engine_of() as engine:
        assert engine.slots == 2
        with pytest.raises(ValueError, match="Ray is connected already"):
            engine_of(address="127.0.0.1:1")
    assert ray.is_initialized()


def test_a_connection_of_its_own(cluster: Any) -> None:
    """An engine with an address disconnects at the end, also when no machine has what a trial needs."""
    ray.shutdown()
    with make_engine("ray", address=cluster.address) as engine:
        assert engine.slots == 2
    assert not ray.is_initialized()
    with pytest.raises(ValueError, match=r"no machine has what a trial needs, \{'CPU': 2\}; there are \[\{"):
        make_engine("ray", address=cluster.address, cpus_per_trial=2)
    assert not ray.is_initialized()


def test_needs_are_checked() -> None:
    """A trial that needs nothing, or less, is an error."""
    for needs in ({"cpus_per_trial": 0}, {"gpus_per_trial": -1}):
        with pytest.raises(ValueError, match="at least one must be positive, and none negative"):
            make_engine("ray", address="127.0.0.1:1", **needs)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"Ray cluster 127\.0\.0\.1:1: cannot be reached"),
        ("no.such.host.invalid:6379", r"Ray cluster no\.such\.host\.invalid:6379: cannot be reached"),
        ("ray://127.0.0.1:10001", "the address must be 'host:port' or 'auto'"),
        ("localhost", "Ray cluster 'localhost': the address must be"),
    ],
)
def test_unreachable_addresses(address: str, message: str) -> None:
    """An address where no Ray is gives one line, at once."""
    ray.shutdown()
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message):
        make_engine("ray", address=address)
    assert time.monotonic() - begun < 20


def test_another_server_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port at which something else listens, or nothing answers, is an error within seconds."""
    ray.shutdown()
    monkeypatch.setattr(engine_ray, "_ADDRESS_SECONDS", 1.0)
    with HTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.handle_request, daemon=True).start()
        with pytest.raises(ValueError, match="what listens there is not Ray; its port is 6379 by default"):
            make_engine("ray", address=f"127.0.0.1:{web.server_port}")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"Ray cluster {address}: cannot be reached .timed out"):
            make_engine("ray", address=address)


class Quiet(BaseHTTPRequestHandler):
    """An ordinary web server that logs nothing."""

    def log_message(self, *args: Any) -> None:
        """Nothing."""
