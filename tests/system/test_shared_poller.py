"""One poller in a real triggerer: few requests, each task's lines in its own log; and a triggerer that ends."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import psutil
import pytest

from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from tests.system.shared import alive
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

DAG_ID = "shared_poller"
SINGLE, MANY = 6, 60
# Of each wait, before and after the restart.
POLLS = 3


def with_descendants(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def submitted(simulator: str) -> str:
    """Have a generation made that does not end by itself."""
    request = ImageRequest.build(model="gpt-image-1.5", prompt="A poster [[never]]", quality="low")
    with EvoLinkClient(Account(base_url=simulator, api_key="demo-key")) as client:
        return client.submit(request, f"somebody-elses-{uuid.uuid4()}").generation.evolink_task_id


def end(simulator: str, ids: Sequence[str]) -> None:
    for each in ids:
        url = f"{simulator}/_simulator/generations/{each}"
        httpx.post(url, json={"end": "completed"}, trust_env=False).raise_for_status()


def counters(simulator: str) -> dict[str, Any]:
    return httpx.get(f"{simulator}/_simulator/counters", trust_env=False).json()


def asked(simulator: str) -> dict[str, int]:
    """What was paid, how many requests asked how generations are, and how many ids they named in all."""
    found = counters(simulator)
    return {
        "paid": found["paid"],
        "requests": found["reads"]["task"] + found["reads"]["batch"],
        "ids": found["ids_read"],
    }


@pytest.fixture(scope="module")
def waited(private_airflow: LocalAirflow, private_simulator: str) -> tuple[str, list[str], dict[str, int]]:
    """A run that ended well: its id, whom the mapped tasks waited for, and what was asked meanwhile."""
    airflow, simulator = private_airflow, private_simulator
    single = [submitted(simulator) for _ in range(SINGLE)]
    many = [submitted(simulator) for _ in range(MANY)]
    before = asked(simulator)
    run = airflow.run(DAG_ID, {"single": single, "many": many})

    def waiting() -> bool:
        states = [each["state"] for each in airflow.task_instances(DAG_ID, run) if "waits" in each["task_id"]]
        return states == ["deferred"] * (SINGLE + 1)

    def polled_again() -> None:
        """Wait until each wait has been polled some times more."""
        ids = asked(simulator)["ids"] + POLLS * (SINGLE + MANY)
        poll(lambda: asked(simulator)["ids"] >= ids, seconds=90, what=f"{POLLS} polls of each wait")

    def deferrals() -> int:
        return sum("DEFERRED" in line for line in airflow.task_log(DAG_ID, run, "waits_for_many"))

    poll(waiting, seconds=90, what="all tasks to wait in the triggerer", interval=0.5)
    polled_again()
    airflow.stop_component("triggerer")
    airflow.start_component("triggerer")
    polled_again()
    end(simulator, many[: MANY // 2])
    poll(
        lambda: deferrals() == 2, seconds=90, what="the batch to wake, and to wait for the rest", interval=0.5
    )
    end(simulator, [*many[MANY // 2 :], *single])
    airflow.wait_for_success(DAG_ID, run, deadline=180)
    after = asked(simulator)
    return run, single, {name: after[name] - before[name] for name in after}


def test_waiting_tasks_share_their_requests_and_submit_nothing(
    waited: tuple[str, list[str], dict[str, int]],
) -> None:
    _, single, requested = waited
    assert requested["paid"] == 0
    # The sensors read on a worker before and after their wait: one id a request.
    assert requested["ids"] > 2 * POLLS * (SINGLE + MANY)
    assert requested["requests"] < 2 * len(single) + requested["ids"] / 10


def test_task_log_has_its_own_lines_and_nobody_elses(
    private_airflow: LocalAirflow, waited: tuple[str, list[str], dict[str, int]]
) -> None:
    run, single, _ = waited
    for index, mine in enumerate(single):
        log = "\n".join(private_airflow.task_log(DAG_ID, run, "waits", map_index=index))
        assert f"EvoLink task {mine}: completed." in log
        assert not [other for other in single if other != mine and other in log]
        assert "/v1/tasks" not in log


def test_batch_wakes_the_worker_more_than_once_and_names_each_generation_once(
    private_airflow: LocalAirflow, waited: tuple[str, list[str], dict[str, int]]
) -> None:
    run, _, _ = waited
    events = private_airflow.xcom(DAG_ID, run, "waits_for_many")
    assert len(events) >= 2
    named = [evolink_task_id for event in events for evolink_task_id in event["generations"]]
    assert len(named) == len(set(named)) == MANY
    assert "waiting" not in events[-1]


def test_killed_triggerer_is_replaced_and_the_wait_goes_on(private_airflow: LocalAirflow):
    run = private_airflow.run("harness_waiting")
    private_airflow.wait_for_state("harness_waiting", run, "wait", "deferred", seconds=90)
    before = with_descendants(psutil.Process(private_airflow.components["triggerer"].pid))

    private_airflow.kill_component("triggerer")
    assert alive(before) == []

    private_airflow.start_component("triggerer")
    private_airflow.wait_for_success("harness_waiting", run, deadline=180)
