"""What a mapped task asks Airflow for before EvoLink gets its request: it must not grow with the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.system


def test_mapped_task_asks_airflow_at_most_four_times_before_it_posts(
    airflow: LocalAirflow, tmp_path: Path
) -> None:
    run_id = airflow.run("mapped_requests", {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success("mapped_requests", run_id, deadline=240)
    for task_id in ("draw", "draw_rows"):
        log = "\n".join(airflow.task_log("mapped_requests", run_id, task_id, map_index=1))
        (times,) = re.findall(r"Before the POST Airflow was asked (\d+) times", log)
        assert int(times) <= 4, log
