"""Links in the Airflow UI: to the tab of this very task instance, and to EvoLink's own account alone."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.links import ACCOUNT_URL, AccountLink, ImagesLink
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator


def key(map_index: int | None) -> Any:
    return SimpleNamespace(
        dag_id="my shop", run_id="manual__2026-01-02T03:04:05+00:00", task_id="a/b", map_index=map_index
    )


@pytest.mark.parametrize(("map_index", "mapped"), [(None, ""), (-1, ""), (0, "/mapped/0"), (7, "/mapped/7")])
@pytest.mark.parametrize("base", ["https://airflow.example/team", "https://airflow.example/team/"])
def test_images_link_leads_below_the_url_prefix(
    monkeypatch: pytest.MonkeyPatch, base: str, map_index: int | None, mapped: str
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    operator = EvoImageGenerateOperator(task_id="draw", prompt="a fox")
    assert ImagesLink().get_link(operator, ti_key=key(map_index)) == (
        "https://airflow.example/team/dags/my%20shop/runs/manual__2026-01-02T03%3A04%3A05%2B00%3A00/tasks/a%2Fb"
        f"{mapped}/plugin/evoimage-task"
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [(None, ACCOUNT_URL), ("https://api.evolink.ai", ACCOUNT_URL), ("http://127.0.0.1:9", "")],
)
def test_account_link_is_for_evolink_itself(
    monkeypatch: pytest.MonkeyPatch, host: str | None, url: str
) -> None:
    connection = {"conn_type": "evoimage", "password": "sk-evo-0123456789abcdef", "host": host}
    monkeypatch.setenv("AIRFLOW_CONN_EVOIMAGE_DEFAULT", json.dumps(connection))
    operator = EvoImageGenerateOperator(task_id="draw", prompt="a fox")
    # Nothing has read the connection yet, and a link is no reason to.
    assert AccountLink().get_link(operator, ti_key=key(-1)) == ""
    assert operator.hook.settings
    assert AccountLink().get_link(operator, ti_key=key(-1)) == url
