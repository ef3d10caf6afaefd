"""The example DAG that a watcher starts: as it would save what all other tests have made, no other test is near."""

from __future__ import annotations

import httpx
import pytest

from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED
from tests.system.shared import made_elsewhere
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system


@pytest.mark.skipif(not IS_SUPPORTED, reason="Airflow < 3.3 does not say when it has stored an event")
def test_finished_generations_start_a_dag_that_saves_them(
    private_airflow: LocalAirflow, private_simulator: str
):
    airflow, simulator = private_airflow, private_simulator
    dag_id = "evoimage_on_finished_generations"
    airflow.unpause(dag_id)
    listed = httpx.get(f"{simulator}/_simulator/counters", trust_env=False).json()["reads"]["list"]

    def lists() -> int:
        return httpx.get(f"{simulator}/_simulator/counters", trust_env=False).json()["reads"]["list"]

    # The second look comes after the position was kept.
    poll(lambda: lists() >= listed + 3, seconds=120, what="the account to be watched")
    task = made_elsewhere(simulator, "A poster [[duration:60]]", 0)

    def saved() -> bool:
        runs = airflow.request("GET", f"/dags/{dag_id}/dagRuns").json()["dag_runs"]
        done = [airflow.xcom(dag_id, run["dag_run_id"], "keep") for run in runs if run["state"] == "success"]
        return any(task in each["evolink_task_ids"] for each in done)

    try:
        poll(saved, seconds=240, what="the DAG to save what has finished")
    finally:
        airflow.request("PATCH", f"/dags/{dag_id}", json={"is_paused": True})
