"""What only a real Airflow shows: the month's count in its Variables, and a sensor that waits in its triggerer."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.system.shared import generations
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

VARIABLE = "evoimage_month_small_budget"
WORDS = "within the budget of a month"


def test_month_is_counted_in_a_variable_and_what_exceeds_it_is_not_sent(
    airflow: LocalAirflow, simulator: str, tmp_path: Path
) -> None:
    conf = {"save_to": tmp_path.as_uri()}
    airflow.wait_for_success("month_budget", airflow.run("month_budget", conf), deadline=240)
    counted = json.loads(airflow.request("GET", f"/variables/{VARIABLE}").json()["value"])
    assert counted["carried"] == 0
    assert "small-budget-key" not in json.dumps(counted)
    # As if the key had begun the month long before.
    spent = {**counted, "start": counted["start"] - 0.6}
    body = {"key": VARIABLE, "value": json.dumps(spent)}
    airflow.request("PATCH", f"/variables/{VARIABLE}", json=body)

    assert len(generations(simulator, WORDS)) == 1
    run_id = airflow.run("month_budget", conf)
    assert airflow.wait_for_run("month_budget", run_id, deadline=240) == "failed"
    assert len(generations(simulator, WORDS)) == 1
    log = "\n".join(airflow.task_log("month_budget", run_id, "draw"))
    assert "budget_credits_per_month=1 " in log
    assert "Billed: no." in log
    assert "https://evolink.ai/dashboard/keys" in log
    assert "small-budget-key" not in log


def test_sensor_waits_without_a_worker_until_there_are_credits(
    airflow: LocalAirflow, empty_account: str
) -> None:
    def configure(credits_: float) -> None:
        answer = httpx.post(
            f"{empty_account}/_simulator/settings", json={"credits": credits_}, trust_env=False
        )
        assert answer.status_code == 200

    try:
        run_id = airflow.run("waits_for_credits")
        waiting = airflow.wait_for_state("waits_for_credits", run_id, "enough", "deferred")
        poll(lambda: not airflow.task_processes(waiting), seconds=30, what="the worker to be free")
        configure(600)
        airflow.wait_for_success("waits_for_credits", run_id, deadline=240)
    finally:
        configure(0)
    found = airflow.xcom("waits_for_credits", run_id, "enough")
    assert (found["credits"], found["credits_per_day"], found["days"]) == (600.0, 0.0, None)
