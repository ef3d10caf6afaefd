"""FAB's auth manager and a role that may read one DAG: which rights the pages need, and what stays closed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow as installed
import pytest
from packaging.version import Version
from playwright.sync_api import Browser

from tests.ui.screen import DAG, OTHER_DAG, RUN, Screen, cards, second_api_server, task_path
from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.skipif(
    Version(installed.__version__) < Version("3.3"), reason="The role is tried on the newest Airflow alone."
)

DOCS = Path(__file__).parents[2] / "docs" / "ui.md"
FAB = {
    "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
    "AIRFLOW__FAB__ENABLE_PROXY_FIX": "False",
}
PASSWORD = "of-the-test"
#: As docs/ui.md lists them.
RIGHTS = [
    "can read on Website",
    f"can read on DAG:{DAG}",
    "can read on DAG Runs",
    "can read on Task Instances",
    "can read on XComs",
    "can read on Plugins",
]
MAKE_USERS = """
import json, sys
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

with get_application_builder() as builder:
    security = builder.sm
    for name, rights in json.loads(sys.argv[1]).items():
        role = security.add_role(name)
        for right in rights:
            action, _, resource = right.partition(" on ")
            permission = security.create_permission(action.replace(" ", "_"), resource)
            security.add_permission_to_role(role, permission)
        assert security.add_user(name, name, name, name + "@example.org", role, password=sys.argv[2])
"""


@pytest.fixture(scope="module")
def with_roles(airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An api-server with FAB: the user `shop` has the documented rights, `bare` all of them but the plugins."""
    folder = tmp_path_factory.mktemp("fab")
    users = {"shop": RIGHTS, "bare": [each for each in RIGHTS if "Plugins" not in each]}

    def prepare(other: LocalAirflow) -> None:
        other.migrate()
        command = [sys.executable, "-P", "-c", MAKE_USERS, json.dumps(users), PASSWORD]
        made = subprocess.run(
            command, env=other.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]

    # A copy: FAB writes hundreds of its own rows at its start, beside a scheduler that writes too.
    copied = folder / "copy.db"
    with (
        contextlib.closing(sqlite3.connect(airflow.home / "airflow.db")) as here,
        contextlib.closing(sqlite3.connect(copied)) as there,
    ):
        here.backup(there)
    database = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{copied}"}
    with second_api_server(airflow, folder, prepare=prepare, **FAB, **database) as url:
        yield url


def log_in(screen: Screen, url: str, name: str) -> None:
    page = screen.page
    page.goto(f"{url}/auth/login/")
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda address: "/auth/login" not in address)
    # A script of FAB's own form fails; what counts is what follows it.
    screen.problems.clear()


def asked(screen: Screen, path: str, **query: Any) -> int:
    answer = screen.page.context.request.get(f"{screen.base}/evoimage/{path}", params=query)
    return answer.status


def test_role_of_one_dag_sees_its_own_and_nothing_of_another(browser: Browser, with_roles: str):
    with Screen.opened(browser, with_roles) as screen:
        # Airflow's own pages ask for what this role may not read; ours ask for nothing of that.
        screen.expected |= {"/ui/": 403, "/api/v2/": 403}
        log_in(screen, with_roles, "shop")
        frame = screen.open_frame("/plugin/evoimage-images")
        shown = frame.locator("#cards .where").all_inner_texts()
        assert len(shown) >= 10
        assert {each.split(" · ")[0] for each in shown} == {DAG}

        frame = screen.open_frame(task_path("hero"))
        assert frame.locator("#cards img").count() == 2

        for dag_id, status in {DAG: 200, OTHER_DAG: 403}.items():
            task = {"dag_id": dag_id, "run_id": RUN, "task_id": "hero", "map_index": -1}
            assert asked(screen, "image", **task) == status
            assert asked(screen, "image", **task, size="full") == status
            assert asked(screen, "api/task", **task) == status
            assert asked(screen, "api/details", **task) == status
            assert asked(screen, "api/run", dag_id=dag_id, run_id=RUN) == status
        frame = screen.open_frame("/plugin/evoimage-images")
        frame.locator("[name=dag_id]").fill(OTHER_DAG)
        frame.get_by_text("No images match").wait_for()
        assert cards(frame) == []


def test_without_the_right_on_plugins_only_the_plain_address_works(browser: Browser, with_roles: str):
    with Screen.opened(browser, with_roles) as screen:
        screen.expected |= {"/ui/": 403, "/api/v2/": 403}
        log_in(screen, with_roles, "bare")
        assert screen.page.context.request.get(f"{with_roles}/api/v2/plugins").status == 403
        assert asked(screen, "page") == 200
        assert asked(screen, "api/list") == 200


def test_docs_list_these_rights():
    text = DOCS.read_text(encoding="utf-8").replace(f"DAG:{DAG}", "")
    missing = [each for each in RIGHTS if each.replace(f":{DAG}", "") not in text]
    assert missing == []
