"""One real Airflow, one simulated EvoLink and one browser for all tests of the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="make test-ui installs Playwright")

# ruff: noqa: E402 (without Playwright all is skipped, and these need it)
from tests.ui.screen import DAG, OTHER_DAG, RUN, SAVED_LATER, Screen
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.browser import HOW_TO_INSTALL, find_chromium, running_browser
from tools.local_airflow.evolink import running_simulator, simulator_connection
from tools.local_airflow.processes import poll

DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright.Browser]:
    if find_chromium() is None:
        pytest.skip(HOW_TO_INSTALL)
    with running_browser() as running:
        yield running


@pytest.fixture(scope="session")
def images_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures") / "images"


@pytest.fixture(scope="session")
def airflow(
    browser: playwright.Browser, images_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """An Airflow in which every kind of task has ended or waits; the browser first, as without one all is skipped."""
    folder = images_folder.parent
    environment = {
        "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps([f"file://{images_folder}"]),
        "PICTURES_OUT": f"file://{images_folder}",
        # Small pictures of an earlier run would hide a fault.
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }
    with running_simulator(folder, "--speed", "30") as evolink:
        connections = simulator_connection(evolink)
        with LocalAirflow(folder / "home", dags=DAGS, connections=connections, env=environment) as running:
            for dag_id in (DAG, OTHER_DAG, SAVED_LATER):
                running.unpause(dag_id)
                running.trigger(dag_id, run_id=RUN)
            poll(lambda: has_ended(running), seconds=180, what="the tasks to end")
            yield running


def has_ended(airflow: LocalAirflow) -> bool:
    states = {each["task_id"]: each["state"] for each in airflow.task_instances(DAG, RUN)}
    return (
        states.pop("waits", None) == "deferred"
        and all(each in {"success", "failed"} for each in states.values())
        and all(airflow.run_state(dag_id, RUN) == "success" for dag_id in (OTHER_DAG, SAVED_LATER))
    )


@pytest.fixture
def screen(browser: playwright.Browser, airflow: LocalAirflow) -> Iterator[Screen]:
    """A window of the browser; fails a test that left an error on the console or a failed request."""
    with Screen.opened(browser, airflow.url) as found:
        yield found
