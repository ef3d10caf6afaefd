"""The form of a connection, in a real browser: every extra has a field, what is left empty is unset, Test works."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from airflow.sdk import Connection

from airflow_provider_evoimage.defaults import CONNECTION_EXTRAS
from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.hooks.connection import ConnectionSettings
from tests.ui.screen import Screen
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import LocalAirflowError

FIELDS = get_provider_info()["connection-types"][0]["conn-fields"]  # type: ignore[index]


@pytest.fixture
def new_connection(airflow: LocalAirflow) -> Iterator[str]:
    yield "made_in_the_form"
    with contextlib.suppress(LocalAirflowError):  # The test failed before it was made.
        airflow.request("DELETE", "/connections/made_in_the_form")


def test_every_extra_has_a_field_and_empty_ones_are_unset(
    screen: Screen, airflow: LocalAirflow, new_connection: str
):
    screen.open("/connections")
    page = screen.page
    page.get_by_role("button", name="Add Connection").first.click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill(new_connection)
    form.get_by_role("combobox").first.click()
    page.keyboard.type("EvoLink")
    page.get_by_role("option", name="EvoLink Images").click()
    form.locator("input[name=password]").fill("sk-of-the-form")
    # Airflow keeps them folded.
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    form.get_by_text(FIELDS["idempotency_namespace"]["label"]).wait_for()
    text = form.inner_text()
    for name, default in CONNECTION_EXTRAS.items():
        assert FIELDS[name]["label"] in text
        if default is not None:
            shown = f"{default:g}" if isinstance(default, float) else default
            assert f"Empty: {shown}." in text
    assert "needs it" in str(form.locator("input[name=port]").get_attribute("placeholder"))
    form.get_by_role("button", name="Save").click()
    form.wait_for(state="hidden")

    kept = airflow.request("GET", f"/connections/{new_connection}").json()
    assert (kept["conn_type"], kept["host"] or None) == ("evoimage", None)
    extra = json.loads(kept["extra"] or "{}")
    assert [name for name, value in extra.items() if value not in {None, ""}] == []
    fields = {
        "conn_id": new_connection,
        "conn_type": "evoimage",
        "password": "sk-of-the-form",
        "extra": kept["extra"],
    }
    written = ConnectionSettings.read(Connection(**fields))
    plain = ConnectionSettings.read(Connection(**fields | {"extra": None}))
    assert written == plain
