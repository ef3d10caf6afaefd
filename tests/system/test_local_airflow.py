"""The harness itself: a real Airflow that starts, waits without a worker, and leaves nothing behind."""

from pathlib import Path

import httpx
import pytest

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import LocalAirflowError, poll

pytestmark = pytest.mark.system

DAGS = Path(__file__).parent / "dags"


def test_comes_up_healthy(airflow: LocalAirflow):
    healthy = dict.fromkeys(("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy")
    # A busy machine may keep a component from one heartbeat.
    poll(
        lambda: {name: part["status"] for name, part in airflow.health().items()} == healthy,
        seconds=30,
        what="all components to be healthy",
    )


def test_deferred_task_holds_no_process(airflow: LocalAirflow):
    run = airflow.run("harness_waiting")
    task = airflow.task_instance("harness_waiting", run, "wait")
    # The helper sees the worker while there is one, so that seeing none later means something.
    poll(lambda: airflow.task_processes(task), seconds=90, what="a worker to take the task", interval=0.02)

    deferred = airflow.wait_for_state("harness_waiting", run, "wait", "deferred", seconds=90)
    poll(
        lambda: not airflow.task_processes(deferred), seconds=30, what="the worker to be free", interval=0.05
    )
    assert airflow.task_instance("harness_waiting", run, "wait")["state"] == "deferred"

    seen: list[tuple[str, str]] = []
    end = airflow.wait_for_run(
        "harness_waiting",
        run,
        deadline=180,
        on_change=lambda each: seen.append((each["task_id"], each["state"])),
    )
    assert end == "success"
    assert ("wait", "deferred") in seen
    assert ("after", "success") in seen
    assert any("DEFERRED" in line for line in airflow.task_log("harness_waiting", run, "wait"))
    assert airflow.xcom("harness_waiting", run, "after") == {"run_id": run}


def test_clear_runs_the_task_again_and_set_state_ends_it(airflow: LocalAirflow):
    run = airflow.run("harness_waiting")
    airflow.wait_for_state("harness_waiting", run, "wait", "deferred", seconds=90)
    airflow.set_state("harness_waiting", run, "wait", "failed")
    assert airflow.wait_for_run("harness_waiting", run, deadline=180) == "failed"

    airflow.clear("harness_waiting", run, ["wait"])
    airflow.wait_for_success("harness_waiting", run, deadline=180)
    assert airflow.task_instance("harness_waiting", run, "wait")["try_number"] == 2


def test_failed_start_shows_the_last_lines_of_the_log(tmp_path: Path):
    broken = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/no/such/folder/airflow.db"}
    with (
        pytest.raises(LocalAirflowError, match="unable to open database file"),
        LocalAirflow(tmp_path / "home", dags=DAGS, env=broken),
    ):
        pytest.fail("It started without a database.")


def test_page_of_another_name_is_answered_nothing(airflow: LocalAirflow):
    for host in ("attacker.example.com", "127.0.0.1.nip.io"):
        assert (
            httpx.get(f"{airflow.url}/api/v2/version", headers={"Host": host}, trust_env=False).status_code
            == 400
        )
    assert httpx.get(f"{airflow.url}/api/v2/version", trust_env=False).status_code == 200
