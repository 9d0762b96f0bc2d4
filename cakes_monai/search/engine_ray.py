# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Trials on the machines of a Ray cluster."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cakes_monai.search.engine import Engine, Task
from cakes_monai.search.trial_outcome import Outcome, one_line
from cakes_monai.search.trial_process import GRACE_SECONDS, TrialProcess, stop, wait

__all__ = ["RayEngine"]

_ADDRESS_SECONDS = 5.0


class RayEngine(Engine):
    """
    Runs trials on a Ray cluster, each in an interpreter of its own beside the Ray worker that waits for it.

    The folders of the trials must be on a file system that all machines share, under the same path: a trial whose
    machine is lost goes on from its folder on another one. cakes-monai and the trial's function must be installed
    everywhere; ``sys.path`` and, where it exists, the working directory are the driver's, the variables are those of
    the machine's Ray.

    The driver's machine must be part of the cluster (``ray start --address=...``). When the driver dies, Ray ends its
    trials. All resources of the cluster are taken to be free: beside other users of it trials may wait for them.

    Args:
        address: "host:port" of the cluster, "auto" for the one this machine is part of, None to start Ray here. When
            Ray is connected already that connection is used, and kept by :meth:`close`.
        cpus_per_trial: CPUs and, as ``OMP_NUM_THREADS`` and ``MKL_NUM_THREADS``, threads of a trial.
        gpus_per_trial: GPUs of a trial, on one machine; 0 hides them.
        resources_per_trial: custom resources of the cluster that a trial takes.
        max_losses: how often a trial is run again after its process was killed or its machine was lost.
        max_retries: how often a trial is run again after its function raised an exception.

    Raises:
        ValueError: without Ray, when the cluster cannot be reached, and when no machine has what one trial needs.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus_per_trial: float = 1,
        gpus_per_trial: float = 0,
        resources_per_trial: Mapping[str, float] | None = None,
        max_losses: int = 3,
        max_retries: int = 1,
    ) -> None:
        super().__init__(max_losses, max_retries)
        needs = {"CPU": cpus_per_trial, "GPU": gpus_per_trial, **(resources_per_trial or {})}
        self._needs = {name: number for name, number in needs.items() if number}
        if not self._needs or min(self._needs.values()) < 0:
            raise ValueError(f"a trial needs {needs}: at least one must be positive, and none negative.")
        self._tasks: dict[int, Any] = {}  # Ray's reference to the running attempt of each trial
        self._ray = _ray()
        self._connected = _connect(self._ray, address)
        # Lost attempts are started again by Engine, which counts them: Ray retries without limit when memory is short.
        options = {"num_cpus": cpus_per_trial, "num_gpus": gpus_per_trial, "resources": dict(resources_per_trial or {})}
        self._attempt = self._ray.remote(**options, max_retries=0)(_attempt)
        if not self.slots:
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.close()
            raise ValueError(f"no machine has what a trial needs, {self._needs}; there are {machines}.")

    @property
    def slots(self) -> int:
        """Number of trials for which the machines of the cluster that are alive have all they need."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(_times(machine.get(name, 0), self._needs[name]) for name in self._needs) for machine in machines)

    def _start(self, task: Task, attempt: int) -> None:
        request = {**asdict(task), "folder": str(task.folder)}
        threads, gpus = max(1, int(self._needs.get("CPU", 1))), "GPU" in self._needs
        self._tasks[task.index] = self._attempt.remote(request, attempt, threads, gpus, str(Path.cwd()), sys.path)

    def _ended(self, timeout: float | None) -> Iterable[tuple[int, Outcome]]:
        references = list(self._tasks.values())
        ready, _ = self._ray.wait(references, num_returns=1, timeout=timeout)
        ended = [(index, self._outcome(task)) for index, task in self._tasks.items() if task in ready]
        for index, _ in ended:
            del self._tasks[index]
        return ended

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return Outcome(**self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:  # before the trial's process: no folder, no log
            return Outcome(error=one_line(error.cause))
        except self._ray.exceptions.RayError as error:
            return Outcome(error=f"worker lost, {one_line(error)}", lost=True)

    def _stop(self) -> None:
        references = list(self._tasks.values())
        self._tasks.clear()
        if references and self._ray.is_initialized():
            for reference in references:
                self._ray.cancel(reference)
            _, left = self._ray.wait(references, num_returns=len(references), timeout=2 * GRACE_SECONDS)
            for reference in left:
                self._ray.cancel(reference, force=True)
        if self._connected:
            self._ray.shutdown()
            self._connected = False


def _attempt(
    request: Mapping[str, Any], attempt: int, threads: int, gpus: bool, directory: str, path: Sequence[str]
) -> dict[str, Any]:
    """What a Ray worker does: start the trial's process and wait for its end. Ray has set the GPUs."""
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    trial = TrialProcess(Task(**request), attempt, environment, path, Path(directory))
    try:
        while (outcome := trial.outcome()) is None:
            wait([trial], None)
        return asdict(outcome)
    finally:  # also when the task is cancelled
        stop([trial])


def _times(available: float, needed: float) -> int:
    return int(available / needed + 1e-6)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default, else it warns
    try:
        import ray
    except ImportError as error:
        raise ValueError("the engine 'ray' needs Ray: pip install \"cakes-monai[ray]\".") from error
    return ray


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to the cluster; False when there was a connection."""
    if ray.is_initialized():
        if address not in (None, "auto"):
            raise ValueError(f"{address}: Ray is connected already; disconnect first, or give no address.")
        return False
    if address not in (None, "auto"):
        _check_address(str(address))
    small = {"object_store_memory": 100 * 2**20} if address is None else {}
    try:
        ray.init(address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **small)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"Ray cluster {address or 'on this machine'}: {one_line(error)}") from error
    return True


def _check_address(address: str) -> None:
    """Raise a ValueError when no Ray answers: Ray itself would try for minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError(f"Ray cluster {address!r}: the address must be 'host:port' or 'auto'.")
    try:
        with socket.create_connection((host, int(port)), timeout=_ADDRESS_SECONDS) as connection:
            answers = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except OSError as error:
        raise ValueError(f"Ray cluster {address}: cannot be reached ({error}).") from error
    if not answers:
        raise ValueError(f"Ray cluster {address}: what listens there is not Ray; its port is 6379 by default.")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side answers the preface of HTTP/2, on which Ray's gRPC runs, with its settings (RFC 9113)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    return connection.recv(9)[3:4] == b"\x04"
