"""One poller in a real triggerer: few requests, each task's lines in its own log, and a restart in the middle."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

DAG_ID = "shared_poller"
SINGLE, MANY = 6, 60


def submitted(simulator: str, seconds: float) -> str:
    """Have a generation made that takes so many seconds, at 20 times the speed of the real ones."""
    request = ImageRequest.build(
        model="gpt-image-1.5", prompt=f"A poster [[duration:{seconds * 20}]]", quality="low"
    )
    with EvoLinkClient(Account(base_url=simulator, api_key="demo-key")) as client:
        return client.submit(request, f"somebody-elses-{uuid.uuid4()}").generation.evolink_task_id


def counters(simulator: str) -> dict[str, Any]:
    return httpx.get(f"{simulator}/_simulator/counters", trust_env=False).json()


@pytest.fixture(scope="module")
def waited(airflow: LocalAirflow, simulator: str) -> tuple[str, list[str], dict[str, int]]:
    """A run that ended well: its id, whom the mapped tasks waited for, and what was asked meanwhile."""
    # Time enough for all to be deferred before any of them ends, also on a slow machine.
    single = [submitted(simulator, 70) for _ in range(SINGLE)]
    many = [submitted(simulator, 40 if number < MANY // 2 else 70) for number in range(MANY)]
    before = counters(simulator)
    run = airflow.run(DAG_ID, {"single": single, "many": many})

    def waiting() -> bool:
        states = [each["state"] for each in airflow.task_instances(DAG_ID, run) if "waits" in each["task_id"]]
        return states == ["deferred"] * (SINGLE + 1)

    poll(waiting, seconds=90, what="all tasks to wait in the triggerer", interval=0.5)
    airflow.stop_component("triggerer")
    airflow.start_component("triggerer")
    airflow.wait_for_success(DAG_ID, run, deadline=180)
    after = counters(simulator)
    requested = {route: after["reads"][route] - before["reads"][route] for route in ("task", "batch")}
    return run, single, requested | {"paid": after["paid"] - before["paid"]}


def test_waiting_tasks_share_their_requests_and_submit_nothing(
    waited: tuple[str, list[str], dict[str, int]],
) -> None:
    _, single, requested = waited
    assert requested["paid"] == 0
    # The sensors read on a worker before and after their wait; a wait of 70 s takes some fifteen looks.
    assert requested["task"] + requested["batch"] < 2 * len(single) + (SINGLE + MANY) * 2


def test_task_log_has_its_own_lines_and_nobody_elses(
    airflow: LocalAirflow, waited: tuple[str, list[str], dict[str, int]]
) -> None:
    run, single, _ = waited
    for index, mine in enumerate(single):
        log = "\n".join(airflow.task_log(DAG_ID, run, "waits", map_index=index))
        assert f"EvoLink task {mine}: completed." in log
        assert not [other for other in single if other != mine and other in log]
        assert "/v1/tasks" not in log


def test_batch_wakes_the_worker_more_than_once_and_names_each_generation_once(
    airflow: LocalAirflow, waited: tuple[str, list[str], dict[str, int]]
) -> None:
    run, _, _ = waited
    events = airflow.xcom(DAG_ID, run, "waits_for_many")
    assert len(events) >= 2
    named = [evolink_task_id for event in events for evolink_task_id in event["generations"]]
    assert len(named) == len(set(named)) == MANY
    assert "waiting" not in events[-1]
