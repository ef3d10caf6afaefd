"""`make ui`: everything is ready to click, and one key stops all of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest

from tests.system.shared import alive
from tools.local_airflow.client import AirflowClient
from tools.local_airflow.processes import poll, session_processes

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]


@contextlib.contextmanager
def ended_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process that a failed test has left running: nobody else would, and it is waited for."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()


def test_enter_stops_everything_that_was_started(tmp_path: Path):
    nobodys_home = tmp_path / "empty home"
    nobodys_home.mkdir()
    # What the caller has set for an Airflow of its own must not reach ours.
    environment = {
        **os.environ,
        "HOME": str(nobodys_home),
        "AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor",
    }
    dags = tmp_path / "dags"
    dags.mkdir()
    for name in ("approved_campaign.py", "on_new_images.py"):
        shutil.copy(PROJECT / "example_dags" / name, dags)
    command = [sys.executable, "-u", "-m", "tools.local_airflow.ui"]
    output = tmp_path / "output.txt"
    with (
        output.open("w") as written,
        subprocess.Popen(
            [*command, "--dags", str(dags), "--home", str(tmp_path / "a folder with spaces")],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env=environment,
            text=True,
        ) as running,
        ended_at_last(running),
    ):
        poll(lambda: "Press Enter" in output.read_text(), seconds=240, what="Airflow and EvoLink to be up")
        said = dict(
            re.findall(r"^(Pictures|Airflow|Simulated EvoLink) +(http://\S+?)/?  ", output.read_text(), re.M)
        )
        airflow, evolink = said["Airflow"], said["Simulated EvoLink"]
        # The first that is named, and what a desktop's browser opens on.
        assert said["Pictures"] == f"{airflow}/plugin/evoimage-images"
        assert httpx.get(said["Pictures"], trust_env=False, timeout=60).status_code == 200
        client = AirflowClient(airflow)
        listed = poll(
            lambda: client.request("GET", "/dags").json()["dags"], seconds=60, what="the example DAGs"
        )
        assert any(dag["dag_id"].startswith("evoimage_") for dag in listed)
        assert httpx.get(f"{evolink}/_simulator/counters", trust_env=False, timeout=60).status_code == 200
        kept = client.request("GET", "/connections/evoimage_default").json()
        assert (kept["conn_type"], kept["host"]) == ("evoimage", evolink)
        runs = client.request("GET", "/dags/evoimage_approved_campaign/dagRuns").json()
        assert runs["total_entries"] == 1
        assert "tab Required Actions" in output.read_text()
        run_id = client.run("evoimage_new_images", {"save_to": (tmp_path / "images").as_uri()})
        said_of_run = f"/dags/evoimage_new_images/runs/{quote(run_id, safe='')}/plugin/evoimage-run"
        poll(lambda: said_of_run in output.read_text(), seconds=400, what="where the run's pictures are")
        client.close()
        started = psutil.Process(running.pid).children(recursive=True)
        assert len(started) >= 5
        sessions = {os.getsid(each.pid) for each in psutil.Process(running.pid).children()}

        running.communicate("\n", timeout=120)

    assert running.returncode == 0
    assert alive(started) == []
    assert session_processes(sessions) == []
    assert list(nobodys_home.iterdir()) == []
