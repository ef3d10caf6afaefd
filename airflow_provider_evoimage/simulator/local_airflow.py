"""A real Airflow on this machine's loopback, for the demo, for trying out DAGs and for the system tests.

`LocalAirflow` drives Airflow from outside: each component is a process of its own, so that one of them can be
stopped, killed and started again, and everything is read and changed through Airflow's REST API. This module
never imports Airflow.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psutil  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import httpx

TERMINAL_RUN_STATES = frozenset({"success", "failed"})
# A task that runs when everything is stopped is ended after this time.
STOP_SECONDS = 6.0
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")

_STOP_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOPBACK_NAMES = "127.0.0.1,localhost"

Json = dict[str, Any]
Found = TypeVar("Found")


class LocalAirflowError(RuntimeError):
    """Airflow did not start, stopped by itself, or refused a request; the message has the reason."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: unwinds like Ctrl-C, so that everything is stopped on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def poll(look: Callable[[], Found | None], *, seconds: float, what: str, interval: float = 0.25) -> Found:
    """Call `look` until it returns something true.

    :param look: returns a false value as long as the state is not there yet.
    :param seconds: how long to go on before TimeoutError.
    :param what: what is waited for; a word of the error message.
    :param interval: seconds between two looks.
    """
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {seconds:.0f} s for {what}.")
        time.sleep(interval)


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def session_processes(session_ids: set[int]) -> list[psutil.Process]:
    """Return the living processes of these sessions, also those whose parent is gone.

    A component leads a session of its own. What it starts stays in that session, though not always in its
    process group: Airflow gives each task a group, and `serve-logs` outlives a killed parent.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(process.pid) in session_ids and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let no stop signal interrupt the block; those that arrived are raised after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous: dict[int, Any] = {}

    def remember(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    try:
        for number in _STOP_SIGNALS:
            previous[number] = signal.signal(number, remember)
        yield
    finally:
        _restore_signal_handlers(previous)
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def stop_signals_unwind() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `Terminated`, so that context managers and `finally` run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {}

    def unwind(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            previous[number] = signal.signal(number, unwind)
        yield
    finally:
        _restore_signal_handlers(previous)


def _restore_signal_handlers(previous: Mapping[int, Any]) -> None:
    for number, handler in previous.items():
        # None: a handler that Python did not install and cannot put back.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@dataclass
class ManagedProcess:
    """A child process that leads its own session and writes to a log file.

    :param name: what it is called in messages.
    :param command: program and arguments.
    :param environment: its whole environment.
    :param log: its output is appended here.
    :param folder: its working directory.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    folder: Path
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; a signal that arrives meanwhile cannot leave it unrecorded."""
        self.started_at = datetime.now(UTC)
        with self.log.open("ab") as output, signals_deferred():
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                cwd=self.folder,
                start_new_session=True,
            )

    @property
    def was_started(self) -> bool:
        """Whether `start` has made a process."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process id, which is its process group and session as well."""
        if self._process is None:
            raise LocalAirflowError(f"{self.name} was not started.")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process else None

    def processes(self) -> list[psutil.Process]:
        """Return it and everything it started that still lives."""
        return session_processes({self.pid}) if self._process else []

    def reap(self, seconds: float = 10) -> None:
        """Take the exit code of an ended process, so that no zombie stays."""
        if self._process is not None:
            self._process.wait(timeout=seconds)

    def log_tail(self, lines: int = 25) -> str:
        """Return the last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def kill_processes(processes: Sequence[psutil.Process], *, seconds: float = 10) -> None:
    """End these with SIGKILL and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=seconds)


def stop_processes(started: Sequence[ManagedProcess], *, grace: float = 10) -> None:
    """Stop these and all they started: SIGTERM, up to `grace` seconds, then SIGKILL to what is left."""
    running = [each for each in started if each.was_started]
    with signals_deferred():
        for each in running:
            # To the leader alone: a LocalExecutor whose workers got SIGTERM as well waits for them for ever.
            if each.exit_code is None:
                os.kill(each.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            poll(
                lambda: all(each.exit_code is not None for each in running),
                seconds=grace,
                what="the processes to stop",
                interval=0.05,
            )
        kill_processes(session_processes({each.pid for each in running}))
        for each in running:
            each.reap()


class AirflowClient:
    """The parts of Airflow's REST API that a demo and tests need. `map_index` -1 means: not mapped."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http: httpx.Client | None = None

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request to `/api/v2` + path; anything but 2xx raises with Airflow's own words."""
        if self._http is None:
            self._http = self._log_in()
        response = self._http.request(method, f"/api/v2{path}", **options)
        if not response.is_success:
            raise LocalAirflowError(
                f"Airflow answered {response.status_code} to {method} {path}: {response.text[:500]}"
            )
        return response

    def _log_in(self) -> httpx.Client:
        import httpx  # noqa: PLC0415 - only who asks Airflow needs it

        # trust_env: no proxy stands between us and the loopback.
        http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        token = http.get("/auth/token").json().get("access_token")
        http.headers["Authorization"] = f"Bearer {token}"
        return http

    def health(self) -> Json:
        """Return what Airflow says about its components; empty while it does not answer."""
        import httpx  # noqa: PLC0415 - only who asks Airflow needs it

        try:
            answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10, trust_env=False)
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.is_success else {}

    def import_errors(self) -> dict[str, str]:
        """Return the stack trace of each DAG file that does not import."""
        found = self.request("GET", "/importErrors").json()["import_errors"]
        return {each["filename"]: each["stack_trace"] for each in found}

    def has_dag(self, dag_id: str) -> bool:
        """Tell whether the DAG processor has found this DAG."""
        listed = self.request("GET", "/dags", params={"dag_id_pattern": dag_id, "limit": 1000}).json()
        return any(each["dag_id"] == dag_id for each in listed["dags"])

    def unpause(self, dag_id: str, *, seconds: float = 60) -> None:
        """Wait until the DAG is there, and let it run."""
        try:
            poll(lambda: self.has_dag(dag_id), seconds=seconds, what=f"the DAG {dag_id} to be found")
        except TimeoutError as not_found:
            errors = "".join(f"\n{file}:\n{trace}" for file, trace in self.import_errors().items())
            raise LocalAirflowError(
                f"{not_found} Files that do not import: {errors or 'none'}"
            ) from not_found
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str | None = None
    ) -> str:
        """Start a run without a logical date, as the UI does; returns its run id."""
        body: Json = {"logical_date": None, "conf": dict(conf or {})}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body).json()["dag_run_id"])

    def run(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Unpause the DAG and start a run of it; returns its run id."""
        self.unpause(dag_id)
        return self.trigger(dag_id, conf)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return queued, running, success or failed."""
        return str(self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}").json()["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Return the run's task instances with their `task_id`, `map_index`, `state`, `id` and more."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self.request("GET", path, params={"limit": 1000}).json()["task_instances"])

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        """Return one task instance; LocalAirflowError if there is none yet."""
        for each in self.task_instances(dag_id, run_id):
            if (each["task_id"], each["map_index"]) == (task_id, map_index):
                return each
        raise LocalAirflowError(f"{dag_id} {run_id} has no task instance {task_id} [{map_index}].")

    def wait_for_state(
        self, dag_id: str, run_id: str, task_id: str, state: str, *, seconds: float = 60, map_index: int = -1
    ) -> Json:
        """Wait until a task instance is in `state`, and return it."""

        def look() -> Json | None:
            found = self.task_instance(dag_id, run_id, task_id, map_index)
            return found if found["state"] == state else None

        return poll(look, seconds=seconds, what=f"{dag_id}.{task_id} [{map_index}] to be {state}")

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        deadline: float = 300,
        on_change: Callable[[Json], None] | None = None,
    ) -> str:
        """Wait until the run has ended; returns success or failed.

        :param deadline: seconds from now until TimeoutError.
        :param on_change: is given each task instance when its state or try is a new one.
        """
        seen: dict[tuple[str, int], tuple[Any, Any]] = {}

        def look() -> str | None:
            state = self.run_state(dag_id, run_id)
            for each in self.task_instances(dag_id, run_id) if on_change else []:
                key, now = (each["task_id"], each["map_index"]), (each["state"], each["try_number"])
                if seen.get(key) != now and on_change is not None:
                    seen[key] = now
                    on_change(each)
            return state if state in TERMINAL_RUN_STATES else None

        return poll(look, seconds=deadline, what=f"{dag_id} {run_id} to end")

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[str]:
        """Return the text of a task's log line by line: the triggerer's lines and each error among them."""
        records = self.task_log_records(dag_id, run_id, task_id, try_number=try_number, map_index=map_index)
        return [line for record in records for line in _log_lines(record)]

    def task_log_records(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[Json]:
        """Return a task's log as Airflow keeps it, one dict a line with all its fields."""
        answer = self.request(
            "GET",
            f"{_instance_path(dag_id, run_id, task_id)}/logs/{try_number}",
            params={"map_index": map_index, "full_content": True},
            headers={"Accept": "application/x-ndjson"},
        )
        return [json.loads(line) for line in answer.text.splitlines() if line.strip()]

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom's value."""
        path = f"{_instance_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        value = self.request("GET", path, params={"map_index": map_index}).json()["value"]
        return _from_json(value)

    def state_store(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> Json:
        """Return what the task keeps in its state store, by key. Airflow 3.3 and later."""
        path = f"{_instance_path(dag_id, run_id, task_id)}/state-store"
        answer = self.request("GET", path, params={"map_index": map_index}).json()
        return {each["key"]: _from_json(each["value"]) for each in answer["task_state_store"]}

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], *, downstream: bool = True
    ) -> None:
        """Clear these tasks (or `(task, map_index)` pairs) as the UI's button does."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [each if isinstance(each, str) else list(each) for each in task_ids],
            "only_failed": False,
            "reset_dag_runs": True,
            "include_downstream": downstream,
        }
        self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int = -1) -> None:
        """Mark a task instance as success, failed or skipped, as a user can."""
        path = _instance_path(dag_id, run_id, task_id)
        suffix = "" if map_index < 0 else f"/{map_index}"
        self.request("PATCH", f"{path}{suffix}", json={"new_state": state})


def _instance_path(dag_id: str, run_id: str, task_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"


def _log_lines(record: Json) -> list[str]:
    errors = record.get("error_detail") or []
    return [str(record.get("event", "")), *(f"{each['exc_type']}: {each['exc_value']}" for each in errors)]


def _from_json(value: Any) -> Any:
    # Airflow 3.1 hands a dict out as a JSON string.
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


class LocalAirflow(AirflowClient):
    """A whole Airflow in a folder: SQLite, LocalExecutor, and no log-in, reachable from this machine only.

    Use it as a context manager: it is healthy inside the block, and no process of it is left afterwards,
    whether the block ends, fails, or is ended by Ctrl-C or SIGTERM.

    :param home: becomes AIRFLOW_HOME; made if missing. An earlier one is used again with its history.
    :param dags: one folder of DAG files, or several.
    :param connections: connection id → its fields (`conn_type`, `host`, `password`, …) or a URI.
    :param env: further environment variables; they win over ours.
    :param start_timeout: seconds until a start that is not healthy fails.
    :param port: the api-server's port; 0 chooses a free one.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        dags: Path | str | Sequence[Path | str],
        connections: Mapping[str, Mapping[str, Any] | str] | None = None,
        env: Mapping[str, str] | None = None,
        start_timeout: float = 180,
        port: int = 0,
    ) -> None:
        self.home = Path(home).resolve()
        folders = [dags] if isinstance(dags, str | Path) else list(dags)
        self.dag_folders = [Path(each).resolve() for each in folders]
        self.start_timeout = start_timeout
        free, worker_logs, trigger_logs = free_ports(3)
        super().__init__(f"http://127.0.0.1:{port or free}")
        self.environment = {
            **_airflow_environment(self.home, self.url, self.dag_folders),
            "AIRFLOW__API__PORT": str(port or free),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            **{f"AIRFLOW_CONN_{each.upper()}": _as_text(conn) for each, conn in (connections or {}).items()},
            **(env or {}),
        }
        self.components: dict[str, ManagedProcess] = {}
        self._finished: list[ManagedProcess] = []
        self._signals = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start, and return when all components are healthy."""
        self._signals.enter_context(stop_signals_unwind())
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def start(self) -> None:
        """Migrate the database, start the components, and wait until they are healthy."""
        atexit.register(self.stop)
        self.home.mkdir(parents=True, exist_ok=True)
        self.migrate()
        for name in COMPONENTS:
            self._launch(name)
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop everything this object started; safe to call twice."""
        try:
            self.close()
            # The api-server last: a worker that has just ended its task goes on asking for it.
            api_server = [each for name, each in self.components.items() if name == "api-server"]
            others = [each for name, each in self.components.items() if name != "api-server"]
            with signals_deferred():
                stop_processes([*others, *self._finished], grace=STOP_SECONDS)
                stop_processes(api_server, grace=STOP_SECONDS)
            self.components.clear()
            self._finished.clear()
        finally:
            atexit.unregister(self.stop)
            self._signals.close()

    def migrate(self) -> None:
        """Bring the database to this Airflow's schema."""
        self._launch("db-migrate", ["db", "migrate"])
        migration = self.components["db-migrate"]
        poll(
            lambda: migration.exit_code is not None,
            seconds=self.start_timeout,
            what="`airflow db migrate`",
        )
        if migration.exit_code != 0:
            raise LocalAirflowError(
                f"`airflow db migrate` ended with {migration.exit_code}:\n{migration.log_tail()}"
            )
        self._finished.append(self.components.pop("db-migrate"))

    def start_component(self, name: str, *, wait: bool = True) -> None:
        """Start a component again after `stop_component` or `kill_component`, or a further one.

        :param name: one of `COMPONENTS`; `triggerer-2` and so on start further triggerers.
        :param wait: return when it is healthy.
        """
        self._launch(name)
        if wait:
            self.wait_until_healthy()

    def stop_component(self, name: str) -> None:
        """Stop one component as its service manager would: SIGTERM, and time to finish."""
        stop_processes([self.components[name]], grace=30)
        del self.components[name]

    def kill_component(self, name: str) -> None:
        """End a component and all its processes with SIGKILL, as a lost machine would."""
        component = self.components.pop(name)
        self._finished.append(component)
        kill_processes(component.processes())
        component.reap()

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this Airflow, workers and log servers among them."""
        started = [*self.components.values(), *self._finished]
        return session_processes({each.pid for each in started})

    def task_processes(self, task_instance: Mapping[str, Any]) -> list[psutil.Process]:
        """Return the processes that work for a task instance now: the executor's worker and the task itself.

        :param task_instance: as `task_instances` returns it. A retry has another `id`.
        """
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                # Titles: `airflow worker -- LocalExecutor: ID` and, its child, `airflow worker -- ID`.
                if str(task_instance["id"]) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_until_healthy(self) -> None:
        """Wait until each started component runs and has sent a heartbeat since its start."""
        try:
            poll(self._is_healthy, seconds=self.start_timeout, what="Airflow to be healthy", interval=0.5)
        except TimeoutError as late:
            logs = "\n".join(f"--- {each.name}\n{each.log_tail()}" for each in self.components.values())
            raise LocalAirflowError(f"{late} Last answer: {self.health()}\n{logs}") from late

    def _is_healthy(self) -> bool:
        for each in self.components.values():
            if each.exit_code is not None:
                raise LocalAirflowError(
                    f"{each.name} ended with {each.exit_code} while Airflow started:\n{each.log_tail()}"
                )
        health = self.health()
        return bool(health) and all(
            _beats_since(health.get(key) or {}, key, each.started_at)
            for each in self.components.values()
            if (key := _kind(each.name).replace("-", "_")) != "api_server"
        )

    def _launch(self, name: str, arguments: Sequence[str] | None = None) -> None:
        if name in self.components:
            raise LocalAirflowError(f"{name} is running already.")
        environment = dict(self.environment)
        if name != _kind(name):
            # A further triggerer needs a log server of its own.
            environment["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"] = str(free_ports(1)[0])
        component = ManagedProcess(
            name=name,
            # -P: the working directory is no place to import from.
            command=[sys.executable, "-P", "-m", "airflow", *(arguments or [_kind(name)])],
            environment=environment,
            log=self.home / f"{name}.log",
            folder=self.home,
        )
        self.components[name] = component
        component.start()


def _airflow_environment(home: Path, url: str, dag_folders: Sequence[Path]) -> dict[str, str]:
    """Return an environment for Airflow that owes nothing to the caller's own Airflow settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "_AIRFLOW_", "PYTEST_"))
    }
    bundles = [
        {
            "name": f"{number}-{folder.name}",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder)},
        }
        for number, folder in enumerate(dag_folders)
    ]
    no_proxy = ",".join(
        filter(None, [os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), _LOOPBACK_NAMES])
    )
    return {
        **inherited,
        "HOME": inherited["HOME"] if Path(inherited.get("HOME") or home / "none").is_dir() else str(home),
        # Beside this Python, for DAGs that call the `airflow` script.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # Each idle LocalExecutor worker costs some 60 MB.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dag_folders[0]),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        # New and changed files are seen this often; unchanged ones are parsed every 30 s as ever.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    }


def _as_text(connection: Mapping[str, Any] | str) -> str:
    return connection if isinstance(connection, str) else json.dumps(dict(connection))


def _beats_since(component: Mapping[str, Any], name: str, start: datetime) -> bool:
    beat = component.get(f"latest_{name}_heartbeat")
    return component.get("status") == "healthy" and bool(beat) and datetime.fromisoformat(str(beat)) >= start


def _kind(name: str) -> str:
    return re.sub(r"-\d+$", "", name)
