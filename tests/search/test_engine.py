# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""What every engine keeps to (test_engine_ray.py runs the same tests), and processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cakes_monai.search import trial_process
from cakes_monai.search.engine import Engine, Result, Task, make_engine
from cakes_monai.search.engine_processes import gpu_ids

HERE = str(Path(__file__).parent)
SECONDS = 60  # more than anything here takes on a machine under load

DRIVER = """
import json, sys
from pathlib import Path

from cakes_monai.search.engine import Task, make_engine

sys.path.insert(0, sys.argv[1])
engine = make_engine(sys.argv[2], **json.loads(sys.argv[3]))
engine.submit(Task(0, "trial_functions:brood", {"then": "wait", "deaf": False}, Path(sys.argv[4]) / "trial_0"))
engine.next_finished()
"""

EngineOf = Callable[..., Engine]


@pytest.fixture
def engine_name() -> str:
    """The engine under test."""
    return "processes"


@pytest.fixture
def engine_options() -> dict[str, Any]:
    """With these it has two slots."""
    return {"slots": 2, "threads_per_trial": 1}


@pytest.fixture
def driver_options(engine_options: dict[str, Any]) -> dict[str, Any]:
    """The same for an engine in another process."""
    return engine_options


@pytest.fixture
def engine_of(engine_name: str, engine_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineOf]:
    """Make engines with two slots that find trial_functions.py; they are closed after the test."""
    monkeypatch.syspath_prepend(HERE)
    engines: list[Engine] = []

    def made(**options: Any) -> Engine:
        engines.append(make_engine(engine_name, **engine_options, **options))
        return engines[-1]

    yield made
    for engine in engines:
        engine.close()


def task(index: int, function: str, folder: Path, **arguments: Any) -> Task:
    """A function of trial_functions.py in a folder of its own."""
    return Task(index, f"trial_functions:{function}", arguments, folder / f"trial_{index}")


def finished(engine: Engine) -> Result:
    """The next result, which must come."""
    result = engine.next_finished(SECONDS)
    assert result is not None, "nothing finished"
    return result


def all_results(engine: Engine, functions: list[str], folder: Path) -> list[Result]:
    """Results of trials with these functions, by index."""
    results: list[Result] = []
    left = list(enumerate(functions))
    while left or engine.running:
        while left and engine.free_slots:
            engine.submit(task(*left.pop(0), folder))
        results.append(finished(engine))
        assert results[-1].value is None or results[-1].error is None
    return sorted(results, key=lambda result: result.index)


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition, which must come true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def gone(process: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice has."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return state.parent.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def parent_of(process: int) -> int:
    """The process that started another one."""
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, check=True).stdout)


def processes(folder: Path) -> list[int]:
    """Numbers of the processes of ``brood``."""
    until((folder / "processes.json").exists)
    return list(json.loads((folder / "processes.json").read_text()))


def test_results_come_in_the_order_in_which_trials_end(engine_of: EngineOf, tmp_path: Path) -> None:
    """The second trial ends first and is reported first; values are what JSON makes of them; output is in log.txt."""
    engine = engine_of()
    assert (engine.free_slots, engine.running, engine.next_finished()) == (2, (), None)
    engine.submit(task(7, "answer", tmp_path, wait_for=str(tmp_path / "go"), pair=(1, 2)))
    engine.submit(task(3, "answer", tmp_path, text="Ä\n"))
    assert (engine.free_slots, engine.running) == (0, (7, 3))
    first = finished(engine)
    assert (first.index, first.value, first.error) == (3, {"folder": "trial_3", "text": "Ä\n"}, None)
    assert (first.attempts, first.lost) == (1, False)
    assert 0 < first.seconds < SECONDS
    assert (engine.free_slots, engine.running, engine.next_finished(0.1)) == (1, (7,), None)
    (tmp_path / "go").touch()
    assert finished(engine).value == {"folder": "trial_7", "pair": [1, 2]}
    assert (engine.free_slots, engine.running, engine.next_finished(0)) == (2, (), None)
    header, *output = (tmp_path / "trial_7" / "log.txt").read_text().splitlines()
    assert header.startswith("trial 7, attempt 1: process ")
    assert output == ["waiting", "for a file"]


def test_two_slots_run_two_trials(engine_of: EngineOf, tmp_path: Path) -> None:
    """Two trials run at the same time, a third, and one in a folder that is in use, are refused."""
    engine, go = engine_of(), str(tmp_path / "go")
    engine.submit(task(0, "answer", tmp_path, wait_for=go))
    with pytest.raises(ValueError, match=r"trial 0 in .*trial_0: trial 0 is running there"):
        engine.submit(task(0, "answer", tmp_path))
    engine.submit(task(1, "answer", tmp_path, wait_for=go))
    with pytest.raises(ValueError, match="trial 2: no free slot, 2 trials run in 2"):
        engine.submit(task(2, "answer", tmp_path))
    until(lambda: all((tmp_path / f"trial_{index}" / "running").exists() for index in (0, 1)))
    (tmp_path / "go").touch()
    assert {finished(engine).index, finished(engine).index} == {0, 1}
    assert not (tmp_path / "trial_2").exists()


def test_surroundings(engine_of: EngineOf, tmp_path: Path) -> None:
    """A trial has a process, its threads and no GPU; nothing but its function was imported there."""
    engine = engine_of()
    engine.submit(task(0, "surroundings", tmp_path))
    value = finished(engine).value
    assert value is not None
    assert value["variables"] == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert value["process"] != os.getpid()
    assert (value["directory"], value["main"], value["libraries"]) == (str(Path.cwd()), None, [])


def test_an_exception_is_retried(engine_of: EngineOf, tmp_path: Path) -> None:
    """A function that raises is called again once; the reason is one line, and log.txt has the tracebacks of both."""
    engine = engine_of()
    engine.submit(task(0, "fail", tmp_path, times=9))
    result = finished(engine)
    assert (result.value, result.attempts, result.lost) == (None, 2, False)
    assert result.error == "RuntimeError: first line second line of call 2"
    log = (tmp_path / "trial_0" / "log.txt").read_text()
    assert [log.count(text) for text in ("attempt 1", "attempt 2", "Traceback", "trial_functions.py")] == [1, 1, 2, 2]


def test_a_killed_trial_goes_on_from_its_checkpoint(engine_of: EngineOf, tmp_path: Path) -> None:
    """SIGKILL in the middle: the trial runs again in its folder, and counts on from where it was."""
    engine, checkpoint = engine_of(), tmp_path / "trial_0" / "checkpoint.json"
    engine.submit(task(0, "count", tmp_path, total=5, stop_at=3, after=str(tmp_path / "go")))
    until(lambda: checkpoint.exists() and len(json.loads(checkpoint.read_text())) == 3)
    (killed,) = set(json.loads(checkpoint.read_text()))
    os.kill(killed, signal.SIGKILL)
    (tmp_path / "go").touch()
    result = finished(engine)
    assert (result.error, result.attempts, result.lost) == (None, 2, False)
    assert result.value is not None
    assert result.value["start"] == 3
    first, second = dict.fromkeys(result.value["processes"])
    assert (first, result.value["processes"]) == (killed, [first] * 3 + [second] * 2)


def test_failures_have_reasons(engine_of: EngineOf, tmp_path: Path) -> None:
    """A trial lost too often, a full disk, a missing function and a missing folder are told in one line each."""
    (tmp_path / "trial_3").write_text("a file where the folder should be")
    expected = [
        ("kill_itself", True, 2, "killed by SIGKILL"),
        ("fill_disk", False, 1, "OSError: [Errno 28] No space left on device: 'model.pt'"),
        ("missing", False, 1, "ValueError: trial_functions:missing: the module has no such function."),
        ("answer", False, 1, f"FileExistsError: [Errno 17] File exists: '{tmp_path / 'trial_3'}'"),
    ]
    results = all_results(engine_of(max_losses=1, max_retries=0), [function for function, *_ in expected], tmp_path)
    assert [(result.lost, result.attempts, result.error) for result in results] == [tuple(e) for _, *e in expected]
    assert (tmp_path / "trial_0" / "deaths.txt").read_text() == "xx"


def test_trials_end_with_a_killed_driver(
    engine_of: EngineOf, engine_name: str, driver_options: dict[str, Any], tmp_path: Path
) -> None:
    """After SIGKILL of the driver its trials and all they started are gone, and a new driver runs the same folders."""
    command = [sys.executable, "-c", DRIVER, HERE, engine_name, json.dumps(driver_options), str(tmp_path)]
    with subprocess.Popen(command) as driver:
        numbers = processes(tmp_path / "trial_0")
        driver.kill()
    until(lambda: all(gone(number) for number in numbers))
    engine = engine_of()
    engine.submit(task(0, "answer", tmp_path))
    assert finished(engine).value == {"folder": "trial_0"}


def test_close_ends_trials(engine_of: EngineOf, tmp_path: Path) -> None:
    """A closed engine leaves no process of a trial, and another one runs the same folder; closing again is harmless."""
    with engine_of() as engine:
        engine.submit(task(0, "brood", tmp_path, then="wait", deaf=False))
        numbers = processes(tmp_path / "trial_0")
        assert not any(gone(number) for number in numbers)
    assert engine.running == ()
    until(lambda: all(gone(number) for number in numbers))
    engine.close()
    other = engine_of()
    other.submit(task(0, "answer", tmp_path))
    assert finished(other).value == {"folder": "trial_0"}


# From here on: processes of this machine only.


def test_a_second_call_may_succeed(engine_of: EngineOf, tmp_path: Path) -> None:
    """A function that raised and then returns has a result without an error, in its second attempt."""
    engine = engine_of()
    engine.submit(task(0, "fail", tmp_path, times=1))
    result = finished(engine)
    assert (result.value, result.error, result.attempts, result.lost) == ({"calls": 2}, None, 2, False)


def test_ends_without_a_result(engine_of: EngineOf, tmp_path: Path) -> None:
    """sys.exit is an exception of the function, os._exit the loss of its process, and a result must be a dict."""
    functions = ["exit_hard", "exit_softly", "no_dict"]
    results = all_results(engine_of(max_losses=0, max_retries=0), functions, tmp_path)
    assert [(result.lost, result.error) for result in results] == [
        (True, "ended with exit code 7 and no result"),
        (False, "SystemExit: 7"),
        (False, "TypeError: trial_functions:no_dict returned int, it must be a dict."),
    ]


@pytest.mark.parametrize("then", ["return", "linger", "die"])
def test_nothing_a_trial_started_outlives_it(
    then: str, engine_of: EngineOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes deaf to SIGTERM or in a session of their own end before their trial is reported, however it ends."""
    monkeypatch.setattr(trial_process, "GRACE_SECONDS", 0.5)
    engine = engine_of(max_losses=0)
    engine.submit(task(0, "brood", tmp_path, then=then))
    result = finished(engine)
    reason = (None, "killed by SIGKILL", True) if then == "die" else ({"then": then}, None, False)
    assert (result.value, result.error, result.lost) == reason
    assert all(gone(number) for number in processes(tmp_path / "trial_0"))


def test_a_trial_ends_with_its_guard(engine_of: EngineOf, tmp_path: Path) -> None:
    """When the guard between driver and trial is killed, the trial ends with what it started, and counts as lost."""
    engine = engine_of(max_losses=0)
    engine.submit(task(0, "brood", tmp_path, then="wait", deaf=False))
    numbers = processes(tmp_path / "trial_0")
    os.kill(parent_of(numbers[0]), signal.SIGKILL)
    result = finished(engine)
    assert (result.error, result.lost) == ("killed by SIGKILL", True)
    until(lambda: all(gone(number) for number in numbers))


def test_a_folder_has_one_process(engine_of: EngineOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second driver waits for the folder; after its patience it gives up, naming the other process."""
    monkeypatch.setattr(trial_process, "LOCK_SECONDS", 0.5)
    first, second = engine_of(), engine_of(max_retries=0)
    first.submit(task(0, "answer", tmp_path, wait_for=str(tmp_path / "go")))
    until((tmp_path / "trial_0" / "running").exists)
    second.submit(task(0, "answer", tmp_path))
    holder = (tmp_path / "trial_0" / "running").read_text()
    error = finished(second).error
    assert error is not None
    assert error.startswith(f"ValueError: {tmp_path / 'trial_0'}: process {holder} on ")
    monkeypatch.setattr(trial_process, "LOCK_SECONDS", float(SECONDS))
    second.submit(task(0, "answer", tmp_path))
    assert second.next_finished(1) is None
    (tmp_path / "go").touch()
    assert (finished(first).error, finished(second).error) == (None, None)


def test_sigterm_lets_a_trial_clean_up(engine_of: EngineOf, tmp_path: Path) -> None:
    """A trial that gets SIGTERM leaves its blocks, so that temporary files are removed, and counts as lost."""
    engine = engine_of(max_losses=0)
    engine.submit(task(0, "clean_up", tmp_path))
    until((tmp_path / "trial_0" / "open").exists)
    os.kill(int((tmp_path / "trial_0" / "open").read_text()), signal.SIGTERM)
    result = finished(engine)
    assert (result.error, result.lost) == ("killed by SIGTERM", True)
    assert sorted(path.name for path in (tmp_path / "trial_0").iterdir()) == [".lock", "log.txt"]


def test_slots_have_gpus_of_their_own(engine_of: EngineOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The visible GPUs are divided among the slots, and the next trial gets those of the free slot."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-8f,2,0")
    engine, seen = engine_of(), []
    engine.submit(task(0, "answer", tmp_path, wait_for=str(tmp_path / "go")))
    for index in (1, 2):
        engine.submit(task(index, "surroundings", tmp_path))
        value = finished(engine).value
        assert value is not None
        seen.append(value["variables"]["CUDA_VISIBLE_DEVICES"])
    assert seen == ["2,0", "2,0"]


def test_gpus_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES counts as CUDA reads it, else what nvidia-smi lists; none of both are no GPUs."""
    for variable, ids in {"": (), "-1": (), "1,-1,3": ("1",), "3,1": ("3", "1")}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        assert gpu_ids() == ids
    assert gpu_ids(1) == ("3",)
    with pytest.raises(ValueError, match="3 GPUs, but CUDA_VISIBLE_DEVICES is '3,1'"):
        gpu_ids(3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (gpu_ids(), gpu_ids(2)) == ((), ("0", "1"))
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: a)'\necho '  MIG 1g (UUID: b)'\necho 'GPU 1: H200'\n")
    program.chmod(0o755)
    assert gpu_ids() == ("0", "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "0 slots, there must be at least 1"),
        ({"slots": 2, "num_gpus": 3}, "3 GPUs cannot be divided evenly among 2 slots; give gpus_per_trial"),
        ({"slots": 2, "num_gpus": 3, "gpus_per_trial": 2}, "2 slots with 2 GPUs each, there are 3 GPUs"),
        ({"threads_per_trial": 0}, "0 threads for a trial"),
        ({"max_losses": -1}, "max_losses -1 and max_retries 1, they must not be negative"),
        ({"slot": 2}, "engine 'processes' has no option 'slot', allowed are slots, gpus_per_trial, num_gpus"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that cannot be met are errors."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ValueError, match=message):
        make_engine("processes", **options)


def test_names_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown engines, functions of another form, arguments JSON cannot say and Ray that is missing are errors."""
    with pytest.raises(ValueError, match="unknown engine 'dask', allowed are processes, ray"):
        make_engine("dask")
    with pytest.raises(ValueError, match=r"trial 4: function 'package\.function', it must be 'package\.module:f"):
        Task(4, "package.function", {}, tmp_path)
    with pytest.raises(ValueError, match="trial 4: its arguments must be what JSON can say: Object of type object"):
        Task(4, "package.module:function", {"value": object()}, tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"the engine 'ray' needs Ray: pip install \"cakes-monai\[ray\]\""):
        make_engine("ray")
