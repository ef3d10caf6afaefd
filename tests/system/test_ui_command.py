"""`make ui`: everything is ready to click, and one key stops all of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

PROJECT = Path(__file__).parents[2]


def test_enter_stops_everything_that_was_started(tmp_path: Path):
    command = [sys.executable, "-u", "-m", "tools.local_airflow.ui"]
    output = tmp_path / "output.txt"
    with (
        output.open("w") as written,
        subprocess.Popen(
            [*command, "--dags", str(PROJECT / "example_dags"), "--home", str(tmp_path / "home")],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            text=True,
        ) as running,
    ):
        poll(lambda: "Press Enter" in output.read_text(), seconds=120, what="Airflow and EvoLink to be up")
        airflow, evolink = re.findall(r"http://127\.0\.0\.1:\d+", output.read_text())
        token = httpx.get(f"{airflow}/auth/token", trust_env=False).json()["access_token"]
        listed = poll(
            lambda: httpx.get(
                f"{airflow}/api/v2/dags", headers={"Authorization": f"Bearer {token}"}, trust_env=False
            ).json()["dags"],
            seconds=60,
            what="the example DAGs",
        )
        assert any(dag["dag_id"].startswith("evoimage_") for dag in listed)
        assert httpx.get(f"{evolink}/_simulator/counters", trust_env=False).status_code == 200
        kept = httpx.get(
            f"{airflow}/api/v2/connections/evoimage_default",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        ).json()
        assert (kept["conn_type"], kept["host"]) == ("evoimage", evolink)
        runs = httpx.get(
            f"{airflow}/api/v2/dags/evoimage_approved_campaign/dagRuns",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        ).json()
        assert runs["total_entries"] == 1
        assert "tab Required Actions" in output.read_text()
        started = psutil.Process(running.pid).children(recursive=True)
        assert len(started) >= 5

        running.communicate("\n", timeout=60)

    assert running.returncode == 0
    assert [process for process in started if process.is_running() and process.status() != "zombie"] == []
