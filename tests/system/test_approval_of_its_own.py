"""Approvals on an Airflow that no other test uses meanwhile: the answer of the first moment, and no triggerer.

On SQLite, which locks no rows, Airflow may store an answer that comes while the task begins to wait, and let the task
wait on.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import airflow as airflow_package
import pytest

from tests.system.shared import wait_until_worker_has_ended
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import LocalAirflowError, poll

VERSION = tuple(int(each) for each in airflow_package.__version__.split(".")[:2])
WAITING = "awaiting_input" if VERSION >= (3, 3) else "deferred"
# Seconds in which Airflow resumes a task that has its answer, on a busy machine too.
LOST_AFTER = 15
pytestmark = pytest.mark.system


def answer(airflow: LocalAirflow, run: str) -> None:
    question = f"/dags/asks/dagRuns/{run}/taskInstances/ask/-1/hitlDetails"
    airflow.request("PATCH", question, json={"chosen_options": ["2"], "params_input": {}})


def chosen(airflow: LocalAirflow, run: str) -> list[int]:
    return airflow.xcom("asks", run, "ask")["approval"]["chosen"]


def test_answer_as_soon_as_the_page_is_there_counts(private_airflow: LocalAirflow, tmp_path: Path):
    """Before the worker has begun to wait, or while it ends: Airflow may fail that try, and a retry asks again."""
    airflow = private_airflow
    run = airflow.run("asks", {"save_to": tmp_path.as_uri()})
    seen: dict[str, Any] = {}
    waits_since = time.monotonic()

    def has_ended() -> bool:
        nonlocal seen, waits_since
        # There is no page yet, or it has an answer.
        with contextlib.suppress(LocalAirflowError):
            answer(airflow, run)
        earlier, seen = seen, airflow.task_instance("asks", run, "ask")
        if seen["state"] == "failed":
            log = airflow.task_log("asks", run, "ask", try_number=seen["try_number"])
            pytest.fail("\n".join([f"It failed after {seen['try_number']} tries:", *log]))
        is_same = all(seen[key] == earlier.get(key) for key in ("state", "try_number"))
        if seen["state"] != WAITING or not is_same:
            waits_since = time.monotonic()
        elif time.monotonic() - waits_since > LOST_AFTER:
            # What a person would do whose answer SQLite has lost.
            airflow.clear("asks", run, ["ask"])
            waits_since = time.monotonic()
        return seen["state"] == "success"

    poll(has_ended, seconds=400, what="the task to end", interval=0.2)
    assert chosen(airflow, run) == [2]


@pytest.mark.skipif(VERSION < (3, 3), reason="Airflow before 3.3 waits in the triggerer")
def test_no_triggerer_is_needed(private_airflow: LocalAirflow, tmp_path: Path):
    airflow = private_airflow
    airflow.stop_component("triggerer")
    try:
        run = airflow.run("asks", {"save_to": tmp_path.as_uri()})
        waiting = airflow.wait_for_state("asks", run, "ask", "awaiting_input", seconds=180)
        wait_until_worker_has_ended(airflow, waiting)
        answer(airflow, run)
        airflow.wait_for_success("asks", run, deadline=180)
    finally:
        airflow.start_component("triggerer")
    assert chosen(airflow, run) == [2]
