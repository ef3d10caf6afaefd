"""Thousands of waiting triggers in a real triggerer: every event arrives, the heartbeat is never late, and the cost.

    python -m benchmarks.triggerer SUBJECT URL TASKS FOLDER

Prints a line of JSON. Airflow runs on SQLite; the tasks start in the triggerer, and once all of them wait, scheduler
and DAG processor are stopped, so that nothing but the triggerer works.
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

from airflow_provider_evoimage.simulator.local_airflow import LocalAirflow
from airflow_provider_evoimage.simulator.processes import poll, session_processes

LONGEST_RAMP_SECONDS = 90.0
STEADY_SECONDS = 30.0


class Triggerer:
    """The triggerer's processes and what the database says about it."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._processes = session_processes({airflow.components["triggerer"].pid})
        self._database = airflow.home / "airflow.db"

    def read(self, query: str) -> list[Any]:
        """Read from Airflow's database."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=30)
        ) as db:
            return db.execute(query).fetchall()

    def states(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        return {
            str(state): count
            for state, count in self.read("SELECT state, count(*) FROM task_instance GROUP BY 1")
        }

    def heartbeat_age(self) -> float:
        """Return the seconds since the last heartbeat."""
        ((beat,),) = self.read("SELECT max(latest_heartbeat) FROM job WHERE job_type = 'TriggererJob'")
        return (datetime.now(UTC) - datetime.fromisoformat(beat).replace(tzinfo=UTC)).total_seconds()

    def cpu(self) -> float:
        """Return the CPU seconds used so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._processes)

    def megabytes(self) -> float:
        """Return the memory of its processes."""
        return sum(each.memory_info().rss for each in self._processes) / 1e6


def measure(subject: str, url: str, tasks: int, home: Path) -> dict[str, float]:
    """Start Airflow, let all tasks wait, measure, and wait for their events."""
    project = Path(__file__).parents[1]
    first_end = time.time() + LONGEST_RAMP_SECONDS + STEADY_SECONDS + 30
    environment = {
        "PYTHONPATH": str(project),
        "BENCH_SUBJECT": subject,
        "BENCH_TASKS": str(tasks),
        "BENCH_FIRST_END": str(first_end),
        "AIRFLOW__TRIGGERER__CAPACITY": str(tasks + 500),
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "120",
    }
    connections = {
        "evoimage_default": {"conn_type": "evoimage", "host": url, "password": f"triggerer-{subject}"}
    }
    with LocalAirflow(
        home, dags=project / "benchmarks" / "dags", connections=connections, env=environment
    ) as airflow:
        dag_ids = [f"waiting_{number}" for number in range(tasks // 20)]
        poll(lambda: airflow.has_dag(dag_ids[-1]), seconds=120, what="the DAGs to be found", interval=0.5)
        began = time.time()
        for dag_id in dag_ids:
            airflow.run(dag_id)
        triggerer = Triggerer(airflow)
        ramp_ends = first_end - STEADY_SECONDS - 5
        poll(
            lambda: triggerer.states().get("deferred", 0) == tasks,
            seconds=ramp_ends - time.time(),
            what="all tasks to wait",
            interval=1,
        )
        ramp = time.time() - began
        airflow.stop_component("scheduler")
        airflow.stop_component("dag-processor")
        ages = []
        cpu, begin = triggerer.cpu(), time.time()
        while time.time() < begin + STEADY_SECONDS:
            ages.append(triggerer.heartbeat_age())
            time.sleep(0.5)
        cpu_percent = (triggerer.cpu() - cpu) / (time.time() - begin) * 100
        memory = triggerer.megabytes()
        last_end = first_end + 30
        while triggerer.states().get("deferred", 0) and time.time() < last_end + 90:
            ages.append(triggerer.heartbeat_age())
            time.sleep(0.5)
        after_last_end = time.time() - last_end
        arrived = tasks - triggerer.states().get("deferred", 0)
        airflow.kill_component("triggerer")
    return {
        "tasks": tasks,
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
    print(json.dumps(measure(subject, url, tasks, home)), flush=True)


if __name__ == "__main__":
    main()
