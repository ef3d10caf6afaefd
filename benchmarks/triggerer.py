"""Thousands of waiting triggers in a real triggerer: every event arrives, the heartbeat is never late, and the cost.

    python -m benchmarks.triggerer SUBJECT URL TASKS FOLDER

Prints a line of JSON. Airflow runs on PostgreSQL where its server is installed, else on SQLite. The tasks
start in the triggerer, and once all of their triggers run, scheduler and DAG processor are stopped, so that
nothing but the triggerer works.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sqlite3
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks import postgres
from benchmarks.server import TOLD_SPREAD_SECONDS
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll, session_processes

LONGEST_RAMP_SECONDS = 200.0
# Until a poller with 5 s between polls has polled twice.
SETTLE_SECONDS = 10.0
STEADY_SECONDS = 20.0


class Triggerer:
    """The triggerer's processes and what database and logs say about it.

    :param database: as `postgres.running` gives it; None for SQLite.
    """

    def __init__(self, airflow: LocalAirflow, database: str | None) -> None:
        self._processes = session_processes({airflow.components["triggerer"].pid})
        self._home = airflow.home
        self._database = database

    def read(self, query: str) -> list[Any]:
        """Read from Airflow's database."""
        with contextlib.closing(self._connect()) as database, contextlib.closing(database.cursor()) as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def _connect(self) -> Any:
        if self._database is None:
            return sqlite3.connect(f"file:{self._home / 'airflow.db'}?mode=ro", uri=True, timeout=30)
        import psycopg2

        return psycopg2.connect(f"postgresql://{self._database}")

    def started(self) -> int:
        """Return how many triggers have begun to run: each logs its start to a file of its own."""
        return sum(1 for _ in (self._home / "logs").glob("dag_id=*/*/*/*.trigger.*.log"))

    def states(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        return {
            str(state): count
            for state, count in self.read("SELECT state, count(*) FROM task_instance GROUP BY 1")
        }

    def heartbeat_age(self) -> float:
        """Return the seconds since the last heartbeat."""
        ((beat,),) = self.read("SELECT max(latest_heartbeat) FROM job WHERE job_type = 'TriggererJob'")
        if isinstance(beat, str):
            beat = datetime.fromisoformat(beat).replace(tzinfo=UTC)
        return float((datetime.now(UTC) - beat).total_seconds())

    def cpu(self) -> float:
        """Return the CPU seconds used so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._processes)

    def megabytes(self) -> float:
        """Return the memory of its processes."""
        return sum(each.memory_info().rss for each in self._processes) / 1e6


def measure(subject: str, url: str, tasks: int, home: Path, database: str | None) -> dict[str, float]:
    """Start Airflow, let all triggers run, measure, end the tasks, and wait for their events."""
    project = Path(__file__).parents[1]
    environment = {
        "PYTHONPATH": str(project),
        "BENCH_SUBJECT": subject,
        "BENCH_TASKS": str(tasks),
        "AIRFLOW__TRIGGERER__CAPACITY": str(tasks + 500),
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "120",
        "AIRFLOW__SCHEDULER__MAX_DAGRUNS_TO_CREATE_PER_LOOP": "100",
        "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": "100",
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "512",
    }
    if database is not None:
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://{database}"
    connections = {
        "evoimage_default": {"conn_type": "evoimage", "host": url, "password": subject.replace(" ", "-")}
    }
    dags = project / "benchmarks" / "dags"
    with LocalAirflow(home, dags=dags, connections=connections, env=environment) as airflow:
        began = time.time()
        triggerer = Triggerer(airflow, database)
        with contextlib.suppress(TimeoutError):
            poll(
                lambda: triggerer.started() == tasks,
                seconds=LONGEST_RAMP_SECONDS,
                what="all triggers to run",
                interval=1,
            )
        ramp = time.time() - began
        airflow.stop_component("scheduler")
        airflow.stop_component("dag-processor")
        waiting = min(triggerer.started(), triggerer.states().get("deferred", 0))
        time.sleep(SETTLE_SECONDS)
        ages = []
        cpu, begin = triggerer.cpu(), time.time()
        while time.time() < begin + STEADY_SECONDS:
            ages.append(triggerer.heartbeat_age())
            time.sleep(0.5)
        cpu_percent = (triggerer.cpu() - cpu) / (time.time() - begin) * 100
        memory = triggerer.megabytes()
        httpx.get(f"{url}/end-all/{tasks}", trust_env=False)
        last_end = time.time() + TOLD_SPREAD_SECONDS
        while triggerer.states().get("deferred", 0) and time.time() < last_end + 90:
            ages.append(triggerer.heartbeat_age())
            time.sleep(0.5)
        after_last_end = time.time() - last_end
        arrived = triggerer.states().get("scheduled", 0)
        airflow.kill_component("triggerer")
    return {
        "tasks": waiting,
        "events": arrived,
        "ramp_seconds": ramp,
        "all_events_after_last_end": after_last_end,
        "heartbeat_longest_age": max(ages),
        "cpu_percent": cpu_percent,
        "megabytes": memory,
    }


def main() -> None:
    """Measure one subject."""
    subject, url, tasks, home = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    # The supervisor holds a log file open for each trigger.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    name = postgres.version()
    with contextlib.nullcontext() if name is None else postgres.running() as database:
        found = measure(subject, url, tasks, home, database)
    print(json.dumps(found | {"database": name or "SQLite"}), flush=True)


if __name__ == "__main__":
    main()
