"""The connection form as this Airflow's own code describes it to its UI."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from airflow_provider_evoimage.defaults import CONNECTION_EXTRAS
from airflow_provider_evoimage.get_provider_info import get_provider_info

FIELDS = get_provider_info()["connection-types"][0]["conn-fields"]
# In a process of its own, as Airflow 3.1 puts stand-ins for modules of its form into this one.
CODE = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

(found,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "evoimage"]
print("FORM " + json.dumps([found.model_dump(mode="json")["standard_fields"], dict(found.extra_fields)], default=vars))
"""


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home"))}
    run = subprocess.run(
        [sys.executable, "-P", "-c", CODE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("FORM ")]
    assert lines, run.stderr[-2000:]
    return json.loads(lines[0].removeprefix("FORM "))


def test_every_extra_has_a_labelled_field_that_is_empty_at_first(form: list[dict]):
    _, extras = form
    assert set(extras) == set(CONNECTION_EXTRAS)
    for name, field in extras.items():
        assert field["value"] is None
        assert field["schema"]["title"] == FIELDS[name]["label"]
        assert field["description"] == FIELDS[name]["description"]
        assert "null" in field["schema"]["type"]


def test_port_says_what_it_is_for(form: list[dict]):
    standard, _ = form
    assert standard["port"]["placeholder"].startswith("443; ")
    assert standard["port"]["title"] == "Port"
    assert standard["login"]["hidden"]
