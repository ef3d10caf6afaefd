"""Partitions of an asset on a real Airflow: one event and one downstream run for each product of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.version_compat import HAS_ASSET_PARTITIONS
from tests.system.shared import generations
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        not HAS_ASSET_PARTITIONS,
        reason="Airflow < 3.3 has no partitions that a task names: refused when parsed",
    ),
]

WORDS = "of a partitioned product"
PRODUCTS = [
    {"name": "mug", "prompt": f"A front view {WORDS}"},
    # A second picture of the same product is in the same partition.
    {"name": "mug", "prompt": f"A back view {WORDS}"},
    {"name": "Café torch / 50%", "prompt": f"A view at night {WORDS}"},
    {"name": "refused", "prompt": f"A view {WORDS} [[fail:content_policy_violation]]"},
]
DRAWN = {"mug", "Café torch / 50%"}


def test_each_name_with_images_is_a_partition_and_starts_one_run(
    airflow: LocalAirflow, simulator: str, tmp_path: Path
) -> None:
    dag_id, follower = "evoimage_products", "evoimage_each_product"
    for listener in (follower, "on_any_product"):
        poll(lambda listener=listener: airflow.has_dag(listener), seconds=180, what=f"{listener} to be found")
        airflow.unpause(listener)
    run_id = airflow.run(dag_id, {"products": PRODUCTS, "save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    summary = airflow.xcom(dag_id, run_id, "draw")
    assert (summary["saved"], summary["failed"]) == (3, 1)
    assert len(generations(simulator, WORDS)) == 4
    events = airflow.asset_events(source_run_id=run_id)
    assert sorted(event["partition_key"] for event in events) == sorted(DRAWN)
    for event in events:
        assert event["source_task_id"] == "draw"
        assert event["extra"] == {
            "generations": 3,
            "images": 3,
            "credits": summary["credits"]["charged"],
            "reused": 0,
            "manifest": summary["manifest"],
        }

    def started() -> list[dict[str, Any]]:
        """Return the runs that Airflow says these events started, once all have ended."""
        runs = [
            run for event in airflow.asset_events(source_run_id=run_id) for run in event["created_dagruns"]
        ]
        ended = all(run["state"] in {"success", "failed"} for run in runs)
        return runs if ended and len(runs) >= len(DRAWN) else []

    runs = poll(started, seconds=120, what="a run for each product")
    assert [(run["dag_id"], run["state"], run["partition_key"]) for run in sorted(runs, key=_partition)] == [
        (follower, "success", name) for name in sorted(DRAWN)
    ]
    published = {run["partition_key"]: airflow.xcom(follower, run["run_id"], "publish") for run in runs}
    assert {name: len(paths) for name, paths in published.items()} == {"mug": 2, "Café torch / 50%": 1}
    paths = [path for each in published.values() for path in each]
    assert sorted(paths) == sorted(f"file://{path}" for path in tmp_path.rglob("*.png"))

    # Events with partitions are for DAGs that ask for partitions.
    assert airflow.request("GET", "/dags/on_any_product/dagRuns").json()["dag_runs"] == []


def _partition(run: dict[str, Any]) -> str:
    return str(run["partition_key"])
