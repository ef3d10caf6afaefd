"""One Airflow and one EvoLink for all pytest workers of a run: the first that needs it starts it, the last stops it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import httpx
import psutil

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.client import AirflowClient
from tools.local_airflow.processes import LocalAirflowError, poll, session_processes

Facts = dict[str, Any]


@contextlib.contextmanager
def shared_by_workers(
    folder: Path, start: Callable[[], contextlib.AbstractContextManager[Facts]]
) -> Iterator[Facts]:
    """Enter `start` in one process only, and give what it yields to all.

    Inside the block the thing runs. The process that started it waits at the end until no other uses it; the kernel
    releases the locks of a process that dies. A process that comes after the end starts it again.

    :param folder: the same for all that share it; made if missing.
    :param start: yields how to reach the thing, as JSON has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = folder / "facts.json"
    with (
        contextlib.ExitStack() as ours,
        (folder / "door").open("a") as door,
        (folder / "owner").open("a") as owner,
        (folder / "users").open("a") as users,
    ):
        with _locked(door):
            is_ours = _took(owner)
            if is_ours:
                found = ours.enter_context(start())
                facts.write_text(json.dumps(found), encoding="utf-8")
            else:
                fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield json.loads(facts.read_text(encoding="utf-8"))
        finally:
            while is_ours and not _closed(door, owner, users):
                time.sleep(0.1)


@contextlib.contextmanager
def _locked(file: IO[str]) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _took(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _closed(door: IO[str], owner: IO[str], users: IO[str]) -> bool:
    """Let nobody in any more, if nobody is in."""
    with _locked(door):
        if not _took(users):
            return False
        fcntl.flock(users, fcntl.LOCK_UN)
        fcntl.flock(owner, fcntl.LOCK_UN)
        return True


class SharedAirflow(LocalAirflow):
    """A running Airflow as all workers see it. Nobody may stop its components: other tests are using them."""

    def __init__(self, facts: Facts) -> None:
        AirflowClient.__init__(self, facts["url"], facts["user"])
        self.home = Path(facts["home"])
        self.environment = facts["environment"]
        self._sessions = set(facts["sessions"])

    @staticmethod
    def facts(airflow: LocalAirflow, user: tuple[str, str] | None = None) -> Facts:
        """Return what another process needs to know of an Airflow that runs here, and as whom it asks."""
        return {
            "url": airflow.url,
            "user": user,
            "home": str(airflow.home),
            "environment": airflow.environment,
            "sessions": [each.pid for each in airflow.components.values()],
        }

    def processes(self) -> list[psutil.Process]:
        return session_processes(self._sessions)

    def start(self) -> NoReturn:
        raise LocalAirflowError(
            "Other tests use this Airflow. A test that stops a component needs the fixture `private_airflow`."
        )

    def start_component(self, name: str, *, wait: bool = True) -> NoReturn:
        self.start()

    def stop_component(self, name: str) -> NoReturn:
        self.start()

    def kill_component(self, name: str) -> NoReturn:
        self.start()

    def _launch(self, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
        self.start()


def generations(simulator: str, words: str = "") -> list[Facts]:
    """Return the generations whose prompt holds these words: other tests use the same EvoLink."""
    made = httpx.get(f"{simulator}/_simulator/generations", trust_env=False).json()["data"]
    return [each for each in made if words in each["prompt"]]


def made_elsewhere(simulator: str, prompt: str, hours: float) -> str:
    """Have a generation made on the website some hours ago; returns its id."""
    body = {"prompt": prompt, "age": hours * 3600}
    answer = httpx.post(f"{simulator}/_simulator/generations", json=body, trust_env=False)
    assert answer.status_code == 200
    return answer.json()["id"]


def wait_until_worker_has_ended(airflow: LocalAirflow, waiting: Facts) -> None:
    """Wait until the scheduler knows that the worker of a task that now waits has ended.

    A task that is resumed before may be failed by Airflow.

    :param waiting: the task instance.
    """
    names = ("dag_id", "task_id", "run_id", "try_number", "map_index")
    key = {**waiting, "run_id": waiting["dag_run_id"]}
    parts = ", ".join(f"{name}={key[name]!r}" for name in names)
    ended = f"Received executor event with state success for task instance TaskInstanceKey({parts})"
    log = airflow.home / "scheduler.log"
    poll(lambda: ended in log.read_text(errors="replace"), seconds=400, what=ended)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run."""
    found = []
    for process in processes:
        try:
            # is_running knows a reused pid from the old process.
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
