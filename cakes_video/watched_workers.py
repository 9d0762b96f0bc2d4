# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that work through a list of items, of which one that crashes or hangs costs its own item only."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["WatchedWorkers", "WorkerError"]

START_TIMEOUT = 120.0  # seconds until a new process has imported what it needs


class WorkerError(Exception):
    """What became of an item without a result: ``kind`` is "crash", "timeout" or "error"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class WatchedWorkers:
    """
    Processes that apply functions to items; a context manager.

    The pools of ``concurrent.futures`` lose all that is waiting when a process crashes, and cannot end a task. Here a
    thread watches each process: it starts another one in place of one that crashed or was too slow.

    Args:
        num_workers: number of processes.
        timeout: seconds that an item may take.
        preload: module that processes need, imported once for all where the system can.

    Raises:
        ValueError: when ``num_workers`` is below 1 or ``timeout`` not above 0.
    """

    def __init__(self, num_workers: int, timeout: float, preload: str) -> None:
        if num_workers < 1:
            raise ValueError(f"workers: {num_workers}, allowed are 1 or more.")
        if not timeout > 0:
            raise ValueError(f"timeout: {timeout} s, allowed are more than 0.")
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        context.set_forkserver_preload([preload])
        self._workers = [_Worker(context, timeout) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers)

    def __enter__(self) -> WatchedWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown()

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """
        Apply ``function`` to each item, and yield index and result in the order in which they are done.

        Args:
            function: of a module, for processes import it.
            items: what it takes.

        Returns:
            Index and result; the result is a :class:`WorkerError` where there is none.
        """
        futures: dict[Future[Any], int] = {
            self._threads.submit(self._ask, function, item): index for index, item in enumerate(items)
        }
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _ask(self, function: Callable[[Any], Any], item: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker.ask(function, item)
        except WorkerError as error:
            return error
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, started when it is first asked, and again after it was lost."""

    def __init__(self, context: Any, timeout: float) -> None:
        self.context, self.timeout = context, timeout
        self.process: Any = None
        self.closed = False

    def ask(self, function: Callable[[Any], Any], item: Any) -> Any:
        if self.process is None:
            self._start()
        try:
            self.connection.send((function, item))
            good, result = self._receive(self.timeout)
        except (EOFError, OSError) as error:
            self.process.join(self.timeout)
            code = self.process.exitcode
            self.kill()
            raise WorkerError("crash", f"the process that read it ended with exit code {code}") from error
        if not good:
            raise WorkerError("error", result)
        return result

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def _start(self) -> None:
        if self.closed:
            raise WorkerError("error", "stopped")
        self.connection, other = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()  # so that the end of the process is the end of the connection
        try:
            self._receive(START_TIMEOUT)
        except EOFError as error:
            self.kill()
            raise WorkerError("error", "a process could not be started, see its message above") from error

    def _receive(self, timeout: float) -> Any:
        if not self.connection.poll(timeout):
            self.kill()
            raise WorkerError("timeout", f"not done after {timeout:g} s")
        return self.connection.recv()


def _serve(connection: Connection) -> None:
    """Answer until the other side is gone."""
    connection.send((True, None))
    while True:
        try:
            function, item = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, function(item))
        except Exception as error:  # whatever it is, the other items must go on
            answer = (False, f"{type(error).__name__}: {error}")
        connection.send(answer)
