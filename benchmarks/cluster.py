"""A real Airflow on PostgreSQL, with LocalExecutor or with Celery and Redis, and what its workers use.

The servers are the system's (Debian: `apt-get install postgresql redis-server`); they listen on the loopback
only and keep everything in a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import psycopg2

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.evolink import running_simulator
from tools.local_airflow.processes import (
    LocalAirflowError,
    ManagedProcess,
    free_ports,
    poll,
    stop_processes,
)

DAGS = Path(__file__).parent / "scaling_dags"
WORKER_SLOTS = 4
SAMPLES_PER_SECOND = 10
# Tables that grow with the work; the others hold DAGs and users.
WORK_TABLES = ("task_instance", "xcom", "log", "task_state_store", "rendered_task_instance_fields")


def server_version(*command: str) -> str:
    """Return a server's version."""
    return subprocess.run([*command, "--version"], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Run a Redis server that keeps nothing; gives its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("There is no Redis server here: apt-get install redis-server")
    (port,) = free_ports(1)
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = ManagedProcess("redis", command, os.environ, folder / "redis.log", folder)
    try:
        server.start()
        poll(
            lambda: "Ready to accept" in server.log.read_text(),
            seconds=20,
            what="Redis to start",
            interval=0.05,
        )
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop_processes([server], grace=5)


class Evolink:
    """The simulated EvoLink in a process of its own, at the speed of the real one.

    :param log: a line of JSON for every request.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._settings: dict[str, Any] = {}

    def configure(self, **settings: Any) -> None:
        """Change settings of the simulator; they outlast a reset."""
        self._settings |= settings
        self._http.post("/_simulator/settings", json=self._settings).raise_for_status()

    def counters(self) -> dict[str, Any]:
        """Return what it counted."""
        return dict(self._http.get("/_simulator/counters").raise_for_status().json())

    def reset(self) -> None:
        """Forget everything but the settings."""
        self._http.post("/_simulator/reset", json={}).raise_for_status()
        self.configure()


@contextlib.contextmanager
def running_evolink(folder: Path) -> Iterator[Evolink]:
    """Run the simulated EvoLink."""
    log = folder / "requests.jsonl"
    arguments = ("--quiet", "--speed", "1", "--credits", "10000000", "--request-log", str(log))
    with running_simulator(folder, *arguments) as url:
        yield Evolink(url, log)


class Cluster(LocalAirflow):
    """A real Airflow on PostgreSQL.

    :param database: as `benchmarks.postgres.running` gives it.
    :param broker: URL of a Redis: CeleryExecutor with one worker of four processes; None: LocalExecutor with
        four.
    :param triggerers: how many.
    """

    def __init__(
        self,
        home: Path,
        evolink: Evolink,
        *,
        database: str,
        broker: str | None = None,
        triggerers: int = 1,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        celery = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": broker or "",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{database}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(WORKER_SLOTS),
            "AIRFLOW__CORE__PARALLELISM": "32",
        }
        account = {"conn_type": "evoimage", "host": evolink.url, "password": "benchmark-key"}
        super().__init__(
            home,
            dags=DAGS,
            connections={"evoimage_default": account, **(connections or {})},
            env={
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
                "AIRFLOW__CORE__PARALLELISM": str(WORKER_SLOTS),
                "BENCH_SAVING_LOG": str(home / "saving.log"),
                "BENCH_EVOLINK": evolink.url,
                **(celery if broker else {}),
                **(env or {}),
            },
        )
        self.evolink = evolink
        self._database = f"postgresql://{database}"
        self._uses_celery = broker is not None
        self._triggerers = triggerers
        self._worker: ManagedProcess | None = None
        self._jobs: dict[str, int] = {}

    def start(self) -> None:
        """Start everything, the worker and further triggerers among it."""
        super().start()
        self._jobs["triggerer"] = self._newest_triggerer()
        for number in range(2, self._triggerers + 1):
            self.start_triggerer(f"triggerer-{number}")
        if self._uses_celery:
            self._start_worker()

    def stop(self) -> None:
        """Stop everything; the worker first."""
        if self._worker is not None:
            stop_processes([self._worker], grace=10)
            self._worker = None
        super().stop()

    def start_triggerer(self, name: str) -> None:
        """Start a further triggerer, or one that was killed."""
        before = self._newest_triggerer()
        self.start_component(name)
        poll(
            lambda: self._newest_triggerer() > before,
            seconds=60,
            what=f"{name} to be known to Airflow",
            interval=0.2,
        )
        self._jobs[name] = self._newest_triggerer()

    def triggerer_of(self, job: int) -> str:
        """Return the name of the triggerer that runs as this job."""
        return next(name for name, each in self._jobs.items() if each == job)

    def _newest_triggerer(self) -> int:
        ((job,),) = self.query("SELECT coalesce(max(id), 0) FROM job WHERE job_type = 'TriggererJob'")
        return int(job)

    def query(self, statement: str) -> list[Any]:
        """Read from Airflow's database."""
        with contextlib.closing(psycopg2.connect(self._database)) as database, database.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def states(self, dag_id: str, run_id: str) -> dict[str, int]:
        """Return how many task instances of a run are in each state."""
        return {
            str(state): count
            for state, count in self.query(
                "SELECT state, count(*) FROM task_instance "  # noqa: S608 - our own ids
                f"WHERE dag_id = '{dag_id}' AND run_id = '{run_id}' GROUP BY 1"
            )
        }

    def rows(self) -> dict[str, int]:
        """Return how many rows the tables hold that grow with the work; of `trigger`, how many there ever were."""
        counted = " UNION ALL ".join(f"SELECT '{each}', count(*) FROM \"{each}\"" for each in WORK_TABLES)  # noqa: S608
        made = "SELECT 'trigger', CASE WHEN is_called THEN last_value ELSE 0 END FROM trigger_id_seq"
        return dict(self.query(f"{counted} UNION ALL {made}"))

    def worker_cpu(self) -> float:
        """CPU seconds of the executor's processes and their tasks so far, those that have ended included."""
        leader = psutil.Process(self._worker_leader)
        own = leader.cpu_times()
        # What a process used counts for its parent once it has ended and was waited for.
        used = (
            own.children_user + own.children_system + ((own.user + own.system) if self._uses_celery else 0.0)
        )
        for each in leader.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(each.cpu_times()[:4])
        return float(used)

    def task_process_ids(self) -> list[int]:
        """Return the ids of the processes that run a task now: children of the executor's worker processes."""
        return [task for worker in _children(self._worker_leader) for task in _children(worker)]

    def saving(self) -> tuple[float, float]:
        """Seconds, and CPU seconds, that tasks spent on downloading and saving so far."""
        log = Path(self.environment["BENCH_SAVING_LOG"])
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return sum(float(wall) for wall, _ in lines), sum(float(cpu) for _, cpu in lines)

    @property
    def _worker_leader(self) -> int:
        return self._worker.pid if self._worker is not None else self.components["scheduler"].pid

    def _start_worker(self) -> None:
        worker = ManagedProcess(
            name="worker",
            command=[sys.executable, "-P", "-m", "airflow", "celery", "worker", "--skip-serve-logs"],
            environment=self.environment,
            log=self.home / "worker.log",
            folder=self.home,
        )
        self._worker = worker
        worker.start()

        def is_ready() -> bool:
            if worker.exit_code is not None:
                raise LocalAirflowError(f"The worker ended with {worker.exit_code}:\n{worker.log_tail()}")
            return " ready" in worker.log.read_text(errors="replace")

        poll(is_ready, seconds=90, what="the Celery worker to be ready", interval=0.5)


def _children(process_id: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(each) for each in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
        ]
    return []


@dataclass
class Meter:
    """Measures what happens inside a `with` block.

    After it: `wall` seconds, `slot` seconds (during which processes of tasks lived, looked at ten times a
    second), `cpu` seconds of the workers and tasks, `saving` seconds and `saving_cpu` of these, the `largest`
    memory of a task in bytes, `rows` by table, `requests` and `downloads` at EvoLink, and what else it
    counted.
    """

    airflow: Cluster
    wall: float = 0.0
    slot: float = 0.0
    cpu: float = 0.0
    saving: float = 0.0
    saving_cpu: float = 0.0
    largest: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.airflow.evolink.reset()
        self._rows, self._saving = self.airflow.rows(), self.airflow.saving()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._cpu = self.airflow.worker_cpu()
        self._began = time.monotonic()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall = time.monotonic() - self._began
        self._done.set()
        self._sampler.join()
        # A process of a task ends a moment after Airflow knows that the task has.
        with contextlib.suppress(TimeoutError):
            poll(lambda: not self.airflow.task_process_ids(), seconds=10, what="the tasks to end")
        self.cpu = self.airflow.worker_cpu() - self._cpu
        saving, saving_cpu = self.airflow.saving()
        self.saving, self.saving_cpu = saving - self._saving[0], saving_cpu - self._saving[1]
        self.rows = {table: count - self._rows[table] for table, count in self.airflow.rows().items()}
        self.counters = self.airflow.evolink.counters()

    @property
    def requests(self) -> int:
        """Requests to the API; downloads of images are none."""
        reads = {route: count for route, count in self.counters["reads"].items() if route != "download"}
        return int(self.counters["submissions"] + sum(reads.values()))

    @property
    def work(self) -> float:
        """CPU seconds of workers without saving."""
        return self.cpu - self.saving_cpu

    @property
    def held(self) -> float:
        """Slot-seconds without saving."""
        return self.slot - self.saving

    def _sample(self) -> None:
        before = time.monotonic()
        while not self._done.wait(1 / SAMPLES_PER_SECOND):
            tasks, now = self.airflow.task_process_ids(), time.monotonic()
            self.slot += len(tasks) * (now - before)
            before = now
            for each in tasks:
                with contextlib.suppress(psutil.Error):
                    self.largest = max(self.largest, psutil.Process(each).memory_info().rss)


def run_to_the_end(
    airflow: Cluster,
    dag_id: str,
    conf: Mapping[str, Any],
    *,
    seconds: float,
    meanwhile: Callable[[str], None] | None = None,
) -> str:
    """Run a DAG; return its run id.

    :param meanwhile: is called with the run id once the run is there.
    :raises LocalAirflowError: when it fails.
    """
    run_id = airflow.trigger(dag_id, conf)
    if meanwhile is not None:
        meanwhile(run_id)
    state = poll(
        lambda: found if (found := airflow.run_state(dag_id, run_id)) in {"success", "failed"} else None,
        seconds=seconds,
        what=f"{dag_id} {run_id} to end",
        interval=0.5,
    )
    if state != "success":
        raise LocalAirflowError(f"{dag_id} {run_id} {state}: {airflow.states(dag_id, run_id)}")
    return run_id


def table(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Write a table of Markdown."""
    lines: list[tuple[object, ...]] = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"
