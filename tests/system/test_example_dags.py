"""The example DAGs on a real scheduler, worker and triggerer, started as the UI's Trigger button starts them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.system.shared import generations, made_elsewhere
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

#: DAG → images it saves, their pixel sizes, and words that only its prompts have.
EXAMPLES = {
    "evoimage_quick_start": (4, {(1024, 1024)}, "^A red bicycle leaning|same red bicycle"),
    "evoimage_daily_campaign": (3, {(1536, 1024)}, "photo of a (Trail|Rain|Enamel)(?!.*plain background)"),
    "evoimage_batch_campaign": (
        6,
        {(1536, 1024), (1024, 1536), (1024, 1024)},
        "photo of (a trail shoe|a rain jacket|an enamel mug .* at dawn|a head torch|folded wool|a folded trail)",
    ),
    "evoimage_submit_then_collect": (2, {(1024, 1536)}, "A paper boat"),
    "evoimage_taskflow": (2, {(1536, 1024)}, "Postcard of"),
    "evoimage_edit_chain": (3, {(1024, 1024)}, "An empty wooden table|keep everything else"),
    "evoimage_new_images": (2, {(1024, 1024)}, "photo of an enamel mug on a camp table, no"),
    "evoimage_guarded_campaign": (
        2,
        {(1024, 1024)},
        "^A trail shoe on wet rocks|^An enamel mug on a camp table, no",
    ),
    "evoimage_fallback_campaign": (
        2,
        {(1024, 1024)},
        "^An enamel mug on a camp table at dawn$|^A head torch on wet stones$",
    ),
}

#: DAGs whose images are all of one generation.
ONE_GENERATION = {"evoimage_submit_then_collect", "evoimage_new_images"}


def ended_runs(airflow: LocalAirflow, dag_id: str) -> list[str]:
    """Return all runs of a DAG, once all have ended: a scheduled DAG also starts one by itself."""

    def look() -> list[str]:
        runs = airflow.request("GET", f"/dags/{dag_id}/dagRuns").json()["dag_runs"]
        return [run["dag_run_id"] for run in runs] if {run["state"] for run in runs} <= {"success"} else []

    return poll(look, seconds=120, what=f"all runs of {dag_id} to succeed")


def wait_until_paid(airflow: LocalAirflow, simulator: str, dag_id: str, words: str, each_run: int) -> None:
    """Wait until so many generations were paid for each run of a DAG, and none besides; other tests start runs too."""

    def look() -> bool:
        expected = each_run * len(ended_runs(airflow, dag_id))
        return expected == sum(bool(re.search(words, made["prompt"])) for made in generations(simulator))

    poll(look, seconds=60, what=f"{each_run} paid generations for each run of {dag_id}")


def test_every_example_dag_is_found_and_none_breaks(airflow: LocalAirflow):
    for dag_id in EXAMPLES:
        poll(lambda dag_id=dag_id: airflow.has_dag(dag_id), seconds=180, what=f"{dag_id} to be found")
    assert airflow.import_errors() == {}


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_example_dag_saves_what_it_paid_for(
    dag_id: str, airflow: LocalAirflow, simulator: str, tmp_path: Path
):
    expected, pixels, words = EXAMPLES[dag_id]
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    images = sorted(tmp_path.rglob("*.png"))
    assert len(images) == expected
    assert {Image.open(path).size for path in images} == pixels
    each_run = 1 if dag_id in ONE_GENERATION else expected
    assert len(list(tmp_path.rglob("*.json"))) == each_run
    wait_until_paid(airflow, simulator, dag_id, words, each_run)
    assert not list(tmp_path.rglob("*.part"))


def test_account_images_are_kept_and_a_second_run_adds_nothing(
    airflow: LocalAirflow, simulator: str, tmp_path: Path
):
    dag_id = "evoimage_keep_account_images"
    poll(lambda: airflow.has_dag(dag_id), seconds=60, what=f"{dag_id} to be found")
    tasks = [made_elsewhere(simulator, f"A poster {hours}", hours) for hours in (20, 8)]
    saved = []
    for _ in range(2):
        run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
        airflow.wait_for_success(dag_id, run_id, deadline=240)
        saved.append(airflow.xcom(dag_id, run_id, "keep"))

    assert set(tasks) <= set(saved[0]["evolink_task_ids"])
    # Other tests have images made meanwhile, which the second run saves.
    assert not set(tasks) & set(saved[1]["evolink_task_ids"])
    assert saved[1]["known"] >= saved[0]["saved"]
    for task in tasks:
        names = sorted(each.name for each in tmp_path.rglob(f"{task}*"))
        assert names == [f"{task}-0.json", f"{task}-0.png"]
    # It only reads.
    assert len(generations(simulator, "A poster 20")) == 1


def test_channel_sizes_are_cut_from_one_paid_image(airflow: LocalAirflow, simulator: str, tmp_path: Path):
    dag_id = "evoimage_channel_sizes"
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    manifest = airflow.xcom(dag_id, run_id, "cut")
    made = manifest["images"][0]["renditions"]
    sizes = {each["channel"]: Image.open(each["path"].removeprefix("file://")).size for each in made}
    assert sizes == {"meta.story": (1080, 1920), "meta.square": (1080, 1080), "hero": (1200, 900)}
    wait_until_paid(airflow, simulator, dag_id, "An enamel mug on a camp table at dawn, no text", 1)
    (sheet,) = manifest["contact_sheets"]
    assert Image.open(sheet["path"].removeprefix("file://")).size == (sheet["width"], sheet["height"])

    (event,) = airflow.asset_events(source_run_id=run_id)
    assert event["source_task_id"] == "cut"
    assert event["extra"] == {
        "generations": 1,
        "images": 3,
        "credits": 0,
        "reused": 0,
        "evolink_task_ids": [manifest["evolink_task_id"]],
        "paths": [each["path"] for each in made],
    }


def test_approved_campaign_publishes_what_a_person_chose(
    airflow: LocalAirflow, simulator: str, tmp_path: Path
):
    dag_id = "evoimage_approved_campaign"
    airflow.unpause(dag_id)
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    waiting = ("awaiting_input", "deferred")
    poll(
        lambda: any(
            each["task_id"] == "approve" and each["state"] in waiting
            for each in airflow.task_instances(dag_id, run_id)
        ),
        seconds=180,
        what="the approval to wait",
    )
    instance = airflow.task_instance(dag_id, run_id, "approve")
    poll(lambda: not airflow.task_processes(instance), seconds=60, what="the worker to be free")
    # A task that is resumed before the scheduler knows of the end of its first worker process may be failed by it.
    ended = (
        f"Received executor event with state success for task instance TaskInstanceKey(dag_id='{dag_id}', "
        f"task_id='approve', run_id='{run_id}', try_number={instance['try_number']}, map_index=-1)"
    )
    log = airflow.home / "scheduler.log"
    poll(lambda: ended in log.read_text(errors="replace"), seconds=120, what=ended)
    assert not list(tmp_path.rglob("published/*/*"))
    airflow.request(
        "PATCH",
        f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails",
        repeatable=True,
        json={"chosen_options": ["1", "3"], "params_input": {"comment": None}},
    )
    airflow.wait_for_success(dag_id, run_id, deadline=180)

    approved = airflow.xcom(dag_id, run_id, "approve")
    assert [manifest["approval"]["chosen"] for manifest in approved] == [[1], [3]]
    expected = {
        rendition["sha256"]
        for manifest in approved
        for image in manifest["images"]
        for rendition in image["renditions"]
    }
    published = list(tmp_path.glob(f"published/{run_id}/*"))
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in published} == expected
    assert len(published) == len(expected) == 4
    wait_until_paid(airflow, simulator, dag_id, "An enamel mug (at dawn|in the rain|on a desk), no text", 3)


def test_nightly_catalogue_draws_only_what_is_new(airflow: LocalAirflow, tmp_path: Path):
    dag_id = "evoimage_nightly_catalogue"
    poll(lambda: airflow.has_dag(dag_id), seconds=60, what=f"{dag_id} to be found")
    told = []
    for product in ("Enamel mug", "Enamel mug", "Head torch"):
        conf = {"save_to": tmp_path.as_uri(), "product": product}
        run_id = airflow.run(dag_id, conf)
        airflow.wait_for_success(dag_id, run_id, deadline=180)
        report = airflow.xcom(dag_id, run_id, "report")
        told.append((report["drawn"], report["reused"], report["credits"] > 0))

    assert told == [(3, 0, True), (0, 3, False), (1, 2, True)]
    assert len(list(tmp_path.rglob("*.png"))) == 4
    shown = airflow.xcom(dag_id, run_id, "draw", key="evoimage_images")
    assert (shown["items_saved"], shown["items_reused"], shown["reused"]) == (3, 2, 2)


def test_other_model_draws_where_the_first_is_not_available(
    airflow: LocalAirflow, simulator: str, tmp_path: Path
):
    dag_id = "evoimage_fallback_campaign"
    settings = f"{simulator}/_simulator/settings"
    # A model that no other test asks for.
    gone = "gpt-image-2.5-flare"
    httpx.post(settings, json={"unavailable_models": {gone: "model_not_found"}}, trust_env=False)
    try:
        run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri(), "model": gone})
        airflow.wait_for_success(dag_id, run_id, deadline=180)
    finally:
        httpx.post(settings, json={"unavailable_models": {}}, trust_env=False)
    words = EXAMPLES[dag_id][2]
    wait_until_paid(airflow, simulator, dag_id, words, 2)
    sidecars = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("*.json"))]
    assert [each["name"] for each in sidecars] == ["mug", "torch"]
    for each in sidecars:
        assert each["model"] == "gpt-image-1.5"
        assert each["fell_back"] == [{"model": gone, "why": "model_not_found", "billed": False}]
        assert each["labels"] == {"campaign": "spring", "run": run_id}
    total = airflow.xcom(dag_id, run_id, "total")
    assert total["credits"] == pytest.approx(sum(each["usage"]["charged"] for each in sidecars))
    assert (total["generations"], total["images"], total["unknown"]) == (2, 2, 0)
    instances = airflow.request(
        "GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/draw/listMapped"
    ).json()["task_instances"]
    assert sorted(each["rendered_map_index"] for each in instances) == ["mug", "torch"]


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
    dag_id, name = "one_image", "evoimage.credits_used"
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
    dag_id = "one_image"
    # 400 simulated seconds at 20 times the speed.
    conf = {"prompt": "A slow poster [[duration:400]]", "save_to": tmp_path.as_uri()}
    run_id = airflow.run(dag_id, conf)

    waiting = airflow.wait_for_state(dag_id, run_id, "generate", "deferred")
    evolink_task_id = airflow.xcom(dag_id, run_id, "generate", key="evolink_task_id")
    # The process that deferred takes a moment to end.
    poll(lambda: not airflow.task_processes(waiting), seconds=30, what="the worker to be free")
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
