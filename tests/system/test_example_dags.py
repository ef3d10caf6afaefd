"""The example DAGs on a real scheduler, worker and triggerer, started as the UI's Trigger button starts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

#: DAG → images it saves, and their pixel sizes.
EXAMPLES = {
    "evoimage_quick_start": (4, {(1024, 1024)}),
    "evoimage_daily_campaign": (3, {(1536, 1024)}),
    "evoimage_batch_campaign": (6, {(1536, 1024), (1024, 1536), (1024, 1024)}),
    "evoimage_submit_then_collect": (2, {(1024, 1536)}),
    "evoimage_taskflow": (2, {(1536, 1024)}),
    "evoimage_edit_chain": (3, {(1024, 1024)}),
    "evoimage_new_images": (2, {(1024, 1024)}),
}

#: DAGs whose images are all of one generation.
ONE_GENERATION = {"evoimage_submit_then_collect", "evoimage_new_images"}


def paid(simulator: str) -> int:
    return httpx.get(f"{simulator}/_simulator/counters", trust_env=False).json()["paid"]


def successful_runs(airflow: LocalAirflow, dag_id: str) -> int:
    runs = airflow.request("GET", f"/dags/{dag_id}/dagRuns").json()["dag_runs"]
    return sum(run["state"] == "success" for run in runs)


def ended_runs(airflow: LocalAirflow, dag_id: str) -> list[str]:
    """Return all runs of a DAG, once all have ended: a scheduled DAG also starts one by itself."""

    def look() -> list[str]:
        runs = airflow.request("GET", f"/dags/{dag_id}/dagRuns").json()["dag_runs"]
        return [run["dag_run_id"] for run in runs] if {run["state"] for run in runs} <= {"success"} else []

    return poll(look, seconds=120, what=f"all runs of {dag_id} to succeed")


def test_every_example_dag_is_found_and_none_breaks(airflow: LocalAirflow):
    for dag_id in EXAMPLES:
        poll(lambda dag_id=dag_id: airflow.has_dag(dag_id), seconds=60, what=f"{dag_id} to be found")
    assert airflow.import_errors() == {}


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_example_dag_saves_what_it_paid_for(
    dag_id: str, airflow: LocalAirflow, simulator: str, tmp_path: Path
):
    expected, pixels = EXAMPLES[dag_id]
    # Another test may have run it before.
    before, earlier = paid(simulator), successful_runs(airflow, dag_id)

    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    images = sorted(tmp_path.rglob("*.png"))
    assert len(images) == expected
    assert {Image.open(path).size for path in images} == pixels
    generations = 1 if dag_id in ONE_GENERATION else expected
    assert len(list(tmp_path.rglob("*.json"))) == generations
    # Waits for runs that the scheduler itself began; only then is counted what they paid.
    runs = len(ended_runs(airflow, dag_id)) - earlier
    assert paid(simulator) - before == generations * runs
    assert not list(tmp_path.rglob("*.part"))


def test_channel_sizes_are_cut_from_one_paid_image(airflow: LocalAirflow, simulator: str, tmp_path: Path):
    dag_id = "evoimage_channel_sizes"
    poll(lambda: airflow.has_dag(dag_id), seconds=60, what=f"{dag_id} to be found")
    before = paid(simulator)
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    manifest = airflow.xcom(dag_id, run_id, "cut")
    made = manifest["images"][0]["renditions"]
    sizes = {each["channel"]: Image.open(each["path"].removeprefix("file://")).size for each in made}
    assert sizes == {"meta.story": (1080, 1920), "meta.square": (1080, 1080), "hero": (1200, 900)}
    assert paid(simulator) - before == 1
    (sheet,) = manifest["contact_sheets"]
    assert Image.open(sheet["path"].removeprefix("file://")).size == (sheet["width"], sheet["height"])

    events = airflow.request("GET", "/assets/events", params={"limit": 500}).json()["asset_events"]
    (event,) = [each for each in events if each["source_run_id"] == run_id]
    assert event["source_task_id"] == "cut"
    assert event["extra"] == {
        "generations": 1,
        "images": 3,
        "credits": 0,
        "evolink_task_ids": [manifest["evolink_task_id"]],
        "paths": [each["path"] for each in made],
    }


def test_batch_hands_its_pictures_to_the_task_after_it(airflow: LocalAirflow, tmp_path: Path):
    dag_id = "evoimage_batch_campaign"
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    handed = airflow.xcom(dag_id, run_id, "catalogue")
    pictures = {name: Path(url.removeprefix("file://")) for name, url in handed["pictures"].items()}
    assert list(pictures) == [
        "trail-shoe",
        "rain-jacket",
        "enamel-mug",
        "head-torch",
        "wool-socks",
        "trail-map",
    ]
    assert {name: path.name for name, path in pictures.items()} == {
        name: f"{name}-0.png" for name in pictures
    }
    assert sorted(pictures.values()) == sorted(tmp_path.rglob("*.png"))
    assert 0 < handed["credits"] <= 20


def test_what_was_charged_shows_in_manifest_log_and_metrics(
    airflow: LocalAirflow, statsd: Any, tmp_path: Path
):
    dag_id, name = "evoimage_quick_start", "evoimage.credits_used"
    before = statsd.total(name)
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    usage = airflow.xcom(dag_id, run_id, "generate")["usage"]
    assert usage["estimate"]["credits_low"] <= usage["charged"] <= usage["estimate"]["credits_high"]
    assert usage["reserved"] >= usage["charged"]
    told = f"cost {usage['charged']:,.4f} credits ("
    assert sum(told in line for line in airflow.task_log(dag_id, run_id, "generate")) == 1
    # Other runs of the same Airflow may count meanwhile.
    poll(
        lambda: statsd.total(name) - before >= usage["charged"] - 1e-6,
        seconds=20,
        what="the metric to arrive",
    )
    assert statsd.total("evoimage.bytes_saved") > 0
    # The triggerer counts what it reads while it waits.
    assert statsd.total("evoimage.ids_read") > 0


def test_waiting_task_is_deferred_shows_its_id_and_holds_no_worker_process(
    airflow: LocalAirflow, tmp_path: Path
):
    dag_id = "evoimage_quick_start"
    # 400 simulated seconds at 20 times the speed.
    conf = {"prompt": "A slow poster [[duration:400]]", "save_to": tmp_path.as_uri()}
    run_id = airflow.run(dag_id, conf)

    waiting = airflow.wait_for_state(dag_id, run_id, "generate", "deferred")
    evolink_task_id = airflow.xcom(dag_id, run_id, "generate", key="evolink_task_id")
    # The process that deferred takes a moment to end.
    poll(lambda: not airflow.task_processes(waiting), seconds=10, what="the worker to be free")
    assert airflow.task_instance(dag_id, run_id, "generate")["state"] == "deferred"
    assert evolink_task_id.startswith("task-unified-")
    airflow.wait_for_success(dag_id, run_id, deadline=120)
    manifest = airflow.xcom(dag_id, run_id, "generate")
    assert manifest["evolink_task_id"] == evolink_task_id

    log = airflow.task_log(dag_id, run_id, "generate")
    assert any(line.startswith("Requesting 1 × gpt-image-1.5, 1024x1024, quality low") for line in log)
    assert any(f"EvoLink task {evolink_task_id} is pending" in line for line in log)
    assert any(f"EvoLink task {evolink_task_id}: processing." in line for line in log)
    assert any("1 of 1 images" in line and "credits charged" in line for line in log)
