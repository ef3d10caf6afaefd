"""What the workers of one test run share is started once, and stopped when nobody uses it any more."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests import worker_watch
from tests.system.shared import Facts, SharedAirflow, shared_by_workers
from tests.worker_watch import started_by, watch
from tools.local_airflow.processes import LocalAirflowError, poll

PROJECT = Path(__file__).parents[2]


class Service:
    def __init__(self) -> None:
        self.starts = 0
        self.runs = False

    @contextlib.contextmanager
    def start(self) -> Iterator[Facts]:
        assert not self.runs
        self.starts += 1
        self.runs = True
        try:
            yield {"number": self.starts}
        finally:
            self.runs = False


def test_it_is_started_once_and_runs_as_long_as_anybody_uses_it(tmp_path: Path):
    service, all_in, all_saw = Service(), threading.Barrier(4), []

    def use(number: int) -> None:
        with shared_by_workers(tmp_path / "shared", service.start) as facts:
            all_in.wait(timeout=30)
            all_saw.append((facts, service.runs))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert all_saw == [({"number": 1}, True)] * 4
    assert not service.runs


def test_who_started_it_waits_for_the_others(tmp_path: Path):
    service, is_in, may_leave = Service(), threading.Event(), threading.Event()

    def use_longer() -> None:
        with shared_by_workers(tmp_path, service.start):
            is_in.set()
            assert may_leave.wait(timeout=30)
            assert service.runs

    with ThreadPoolExecutor(2) as pool:

        def start_and_leave() -> None:
            with shared_by_workers(tmp_path, service.start):
                longer.append(pool.submit(use_longer))
                assert is_in.wait(timeout=30)

        longer: list = []
        first = pool.submit(start_and_leave)
        assert is_in.wait(timeout=30)
        assert not first.done()
        assert service.runs
        may_leave.set()
        first.result(timeout=30)
        longer[0].result(timeout=30)
    assert (service.starts, service.runs) == (1, False)


def test_who_comes_after_the_end_starts_it_again(tmp_path: Path):
    service = Service()
    numbers = []
    for _ in range(2):
        with shared_by_workers(tmp_path, service.start) as facts:
            numbers.append(facts["number"])
    assert numbers == [1, 2]


def test_failed_start_is_told_to_each_and_tried_again(tmp_path: Path):
    @contextlib.contextmanager
    def broken() -> Iterator[Facts]:
        raise LocalAirflowError("no such port")
        yield {}

    for _ in range(2):
        with pytest.raises(LocalAirflowError, match="no such port"), shared_by_workers(tmp_path, broken):
            pytest.fail("It was entered.")
    with shared_by_workers(tmp_path, Service().start) as facts:
        assert facts == {"number": 1}


def test_user_that_is_killed_holds_nobody_up(tmp_path: Path):
    service = Service()
    user = f"""
import contextlib, pathlib, signal
from tests.system.shared import shared_by_workers
with shared_by_workers(pathlib.Path({str(tmp_path)!r}), contextlib.nullcontext):
    print("in", flush=True)
    signal.pause()
"""
    with shared_by_workers(tmp_path, service.start):
        process = subprocess.Popen(
            [sys.executable, "-c", user], stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        os.kill(process.pid, signal.SIGKILL)
    poll(lambda: process.poll() is not None, seconds=10, what="the killed process to end")
    process.stdout.close()
    assert not service.runs


def test_who_comes_after_a_starter_that_was_killed_starts_it_again(tmp_path: Path):
    starter = f"""
import contextlib, pathlib, signal
from tests.system.shared import shared_by_workers
with shared_by_workers(pathlib.Path({str(tmp_path)!r}), contextlib.nullcontext):
    print("in", flush=True)
    signal.pause()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    process.stdout.close()
    process.kill()
    process.wait(timeout=10)
    service = Service()
    with shared_by_workers(tmp_path, service.start):
        assert service.runs


def test_what_a_worker_has_started_is_killed_when_the_worker_dies(monkeypatch: pytest.MonkeyPatch):
    code = """
import signal, subprocess
print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
signal.pause()
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert worker.stdout is not None
    started = psutil.Process(int(worker.stdout.readline()))
    worker.stdout.close()
    seen: list[psutil.Process] = []

    def look(worker: psutil.Process) -> list[psutil.Process]:
        found = started_by(worker)
        seen.extend(found)
        return found

    monkeypatch.setattr(worker_watch, "started_by", look)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch, psutil.Process(worker.pid))
        poll(lambda: seen, seconds=60, what="the watch to look")
        assert started.is_running()
        worker.kill()
        worker.wait(timeout=10)
        watching.result(timeout=60)
    assert set(seen) == {started}
    poll(lambda: not started.is_running() or started.status() == "zombie", seconds=30, what="it to end")


def test_shared_airflow_lets_nobody_stop_its_components(tmp_path: Path):
    facts = {
        "home": str(tmp_path),
        "environment": {},
        "sessions": [],
        "url": "http://127.0.0.1:1",
        "user": None,
    }
    airflow = SharedAirflow(facts)
    for attempt in (airflow.start_component, airflow.stop_component, airflow.kill_component):
        with pytest.raises(LocalAirflowError, match="private_airflow"):
            attempt("triggerer")
    with pytest.raises(LocalAirflowError, match="private_airflow"):
        airflow.start()
