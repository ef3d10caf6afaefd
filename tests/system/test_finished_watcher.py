"""An asset watcher on a real Airflow: told of every end, once, also when the triggerer is killed meanwhile."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED
from airflow_provider_evoimage.triggers.finished_stream import POSITION_KEY
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not IS_SUPPORTED, reason="Airflow < 3.3 does not say when it has stored an event"),
]

ASSETS = ("watched_one", "watched_two")


def submitted(simulator: str, seconds: float) -> str:
    """Have a generation made by somebody else that takes so many seconds, at 20 times the speed of the real ones."""
    prompt = f"A poster [[duration:{seconds * 20}]]"
    request = ImageRequest.build(model="gpt-image-1.5", prompt=prompt, quality="low")
    with EvoLinkClient(Account(base_url=simulator, api_key="somebody-elses-key")) as client:
        return client.submit(request, f"somebody-elses-{uuid.uuid4()}").generation.evolink_task_id


def get(airflow: LocalAirflow, path: str, **query: Any) -> Any:
    """Read from Airflow; on a busy machine its server may drop a connection."""

    def look() -> httpx.Response | None:
        try:
            return airflow.request("GET", path, params=query)
        except httpx.TransportError:
            airflow.close()
            return None

    return poll(look, seconds=60, what=f"an answer to {path}").json()


def asset_id(airflow: LocalAirflow, name: str) -> int:
    listed = get(airflow, "/assets", name_pattern=name, limit=1000)["assets"]
    return next(each["id"] for each in listed if each["name"] == name)


def position(airflow: LocalAirflow, name: str) -> dict[str, Any]:
    """Read the position in the asset's state store; empty while there is none."""
    path = f"/assets/{asset_id(airflow, name)}/state-store"
    stored = {each["key"]: each["value"] for each in get(airflow, path)["asset_state_store"]}
    return stored.get(POSITION_KEY, {})


def told(airflow: LocalAirflow, name: str) -> Counter[str]:
    """How often each generation stands in the events of an asset."""
    found: Counter[str] = Counter()
    for event in airflow.asset_events(asset_id=asset_id(airflow, name)):
        found.update(each["evolink_task_id"] for each in event["extra"]["payload"]["generations"])
    return found


def wait_until_told(airflow: LocalAirflow, name: str, tasks: list[str], *, seconds: float = 90) -> None:
    poll(lambda: set(tasks) <= set(told(airflow, name)), seconds=seconds, what=f"{name} to be told of all")


def is_kept(airflow: LocalAirflow, name: str, tasks: list[str]) -> bool:
    """Whether the position says that these have been reported."""
    kept = position(airflow, name)
    return bool(kept) and not set(tasks) & set(kept["running"])


@pytest.fixture(scope="module")
def simulator(private_simulator: str) -> str:
    """The EvoLink of the Airflow whose triggerer is killed here."""
    return private_simulator


@pytest.fixture(scope="module")
def watching(private_airflow: LocalAirflow) -> Iterator[LocalAirflow]:
    """Airflow with both watchers at work."""
    airflow = private_airflow
    for name in ASSETS:
        airflow.unpause(f"{name}_consumer")
    for name in ASSETS:
        poll(
            lambda name=name: position(airflow, name), seconds=90, what=f"{name} to be watched", interval=0.5
        )
    yield airflow
    for name in ASSETS:
        airflow.request("PATCH", f"/dags/{name}_consumer", json={"is_paused": True})


def test_each_asset_is_told_of_every_end_once_and_starts_its_dag(
    watching: LocalAirflow, simulator: str
) -> None:
    tasks = [submitted(simulator, seconds) for seconds in (4, 1, 2, 2)]
    for name in ASSETS:
        wait_until_told(watching, name, tasks)
        poll(lambda name=name: is_kept(watching, name, tasks), seconds=30, what="the position to be kept")
        assert {each: told(watching, name)[each] for each in tasks} == dict.fromkeys(tasks, 1)

        def consumed(name: str = name) -> set[str]:
            runs = get(watching, f"/dags/{name}_consumer/dagRuns", limit=1000)["dag_runs"]
            assert {run["state"] for run in runs} <= {"success", "running", "queued"}
            return {
                each["evolink_task_id"]
                for run in runs
                if run["state"] == "success"
                for payload in watching.xcom(f"{name}_consumer", run["dag_run_id"], "told")
                for each in payload["generations"]
            }

        poll(lambda: set(tasks) <= consumed(), seconds=240, what=f"{name}_consumer to run for all")


def test_killed_triggerer_loses_nothing_and_tells_nothing_twice(
    watching: LocalAirflow, simulator: str
) -> None:
    early = [submitted(simulator, seconds) for seconds in (1, 2)]
    late = [submitted(simulator, seconds) for seconds in (12, 15, 60)]
    name = ASSETS[0]
    wait_until_told(watching, name, early)
    poll(lambda: is_kept(watching, name, early), seconds=30, what="the position to be kept")
    assert set(late) <= set(position(watching, name)["running"])

    watching.kill_component("triggerer")
    # They begin and end while nobody watches, or go on after it.
    meanwhile = [submitted(simulator, seconds) for seconds in (0.5, 1, 40)]
    ended = [*late[:2], *meanwhile[:2]]

    def status(task: str) -> str:
        headers = {"authorization": "Bearer somebody-elses-key"}
        return httpx.get(f"{simulator}/v1/tasks/{task}", headers=headers, trust_env=False).json()["status"]

    poll(lambda: {status(each) for each in ended} == {"completed"}, seconds=60, what="some to end unseen")
    assert not set(ended) & set(told(watching, name))
    watching.start_component("triggerer")

    everything = [*early, *late, *meanwhile]
    for each in ASSETS:
        wait_until_told(watching, each, everything, seconds=180)
    poll(lambda: is_kept(watching, name, everything), seconds=30, what="the position to be kept")
    assert {each: told(watching, name)[each] for each in everything} == dict.fromkeys(everything, 1)


def test_event_that_airflow_stored_just_before_a_kill_is_the_only_one_that_may_come_twice(
    watching: LocalAirflow, simulator: str
) -> None:
    name = ASSETS[0]
    tasks = [submitted(simulator, seconds / 2) for seconds in range(1, 41)]
    # In the middle of reporting, at whatever moment that is.
    poll(
        lambda: len(set(tasks) & set(told(watching, name))) >= 10,
        seconds=90,
        what="ten to be told",
        interval=0.05,
    )
    watching.kill_component("triggerer")
    stored, kept = told(watching, name), position(watching, name)
    unkept = {each for each in tasks if stored[each] and each in kept["running"]} | {
        each for each in tasks if stored[each] and each not in kept["reported"]
    }
    watching.start_component("triggerer")

    wait_until_told(watching, name, tasks, seconds=180)
    poll(lambda: is_kept(watching, name, tasks), seconds=30, what="the position to be kept")
    counted = {each: told(watching, name)[each] for each in tasks}
    assert min(counted.values()) == 1
    assert {each for each, times in counted.items() if times > 1} <= unkept
    assert max(counted.values()) <= 2


def test_watchers_stay_those_that_they_are_although_the_dags_are_parsed_again(watching: LocalAirflow) -> None:
    started = [
        line
        for line in _log_of(watching, "triggerer")
        if "EvoImageFinishedTrigger" in line and "starting" in line
    ]
    # Two watchers in each of the three triggerers; those of the example are paused.
    assert len(started) <= 2 * len(ASSETS) * 3


def _log_of(airflow: LocalAirflow, component: str) -> list[str]:
    return (airflow.home / f"{component}.log").read_text(errors="replace").splitlines()
