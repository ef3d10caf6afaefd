"""New images are told of: asset events start other DAGs, OpenLineage learns of the folder and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system


def consumed(airflow: LocalAirflow, dag_id: str, task_id: str, about: str) -> Any:
    """Wait for a run of an asset-triggered DAG whose task returned something about a folder."""

    def look() -> Any:
        for run in airflow.request("GET", f"/dags/{dag_id}/dagRuns").json()["dag_runs"]:
            assert run["state"] != "failed"
            if run["state"] == "success":
                value = airflow.xcom(dag_id, run["dag_run_id"], task_id)
                if about in json.dumps(value):
                    assert run["run_type"] == "asset_triggered"
                    return value
        return None

    return poll(look, seconds=90, what=f"a run of {dag_id} about {about}")


def test_other_dag_starts_on_new_images_and_finds_them_in_the_event(airflow: LocalAirflow, tmp_path: Path):
    airflow.unpause("evoimage_on_new_images")
    run_id = airflow.run("evoimage_new_images", {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success("evoimage_new_images", run_id, deadline=120)

    sizes = consumed(airflow, "evoimage_on_new_images", "sizes", about=tmp_path.as_uri())
    expected = {f"file://{path}": path.stat().st_size for path in tmp_path.rglob("*.png")}
    assert len(expected) == 2
    assert expected.items() <= sizes.items()


@pytest.fixture(scope="module")
def run(airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run of the DAG whose saves are told to others, and the folder of its images."""
    folder = tmp_path_factory.mktemp("lineage")
    airflow.unpause("lineage_consumer")
    run_id = airflow.run("lineage", {"save_to": folder.as_uri()})
    airflow.wait_for_success("lineage", run_id, deadline=180)
    return run_id, folder


def test_alias_becomes_an_asset_of_the_folder_with_one_event_a_save(
    airflow: LocalAirflow, run: tuple[str, Path]
):
    run_id, folder = run
    copies = f"{folder.as_uri()}/copies"
    (event,) = consumed(airflow, "lineage_consumer", "read", about=copies)
    assert event["uri"] == copies
    manifests = airflow.xcom("lineage", run_id, "save")
    assert event["extra"] == {
        "generations": 2,
        "images": 2,
        "credits": round(sum(manifest["usage"]["charged"] for manifest in manifests), 6),
        "reused": 0,
        "evolink_task_ids": [manifest["evolink_task_id"] for manifest in manifests],
        "paths": [manifest["images"][0]["path"] for manifest in manifests],
    }


def test_each_mapped_task_gives_its_own_event_and_links_alone_give_none_of_a_folder(
    airflow: LocalAirflow, run: tuple[str, Path]
):
    run_id, folder = run
    events = airflow.asset_events(source_run_id=run_id)
    drawn = [event for event in events if event["source_task_id"] == "draw"]
    assert sorted(event["source_map_index"] for event in drawn) == [0, 1]
    assert sorted(path for event in drawn for path in event["extra"]["paths"]) == sorted(
        f"file://{path}" for path in (folder / "originals").rglob("*.png")
    )
    assert [event for event in events if event["source_task_id"] == "links_only"] == []


def test_renditions_are_told_as_files_of_their_own_that_cost_nothing(
    airflow: LocalAirflow, run: tuple[str, Path]
):
    run_id, folder = run
    (event,) = [
        each for each in airflow.asset_events(source_run_id=run_id) if each["source_task_id"] == "cut"
    ]
    manifests = airflow.xcom("lineage", run_id, "cut")
    paths = [
        each["path"] for manifest in manifests for image in manifest["images"] for each in image["renditions"]
    ]
    assert sorted(paths) == sorted(f"file://{path}" for path in (folder / "cut").rglob("*.jpg"))
    assert event["extra"] == {
        "generations": 2,
        "images": 4,
        "credits": 0,
        "reused": 0,
        "evolink_task_ids": [manifest["evolink_task_id"] for manifest in manifests],
        "paths": paths,
    }


def openlineage_events(airflow: LocalAirflow) -> list[dict[str, Any]]:
    file = airflow.home / "openlineage.jsonl"
    # The last line may be one that is being written.
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def test_openlineage_learns_of_the_folders_and_of_no_temporary_file(
    airflow: LocalAirflow, run: tuple[str, Path]
):
    _, folder = run

    def completed() -> list[dict[str, Any]]:
        ends = [
            event
            for event in openlineage_events(airflow)
            if event["eventType"] == "COMPLETE" and event["job"]["name"].startswith("lineage.")
        ]
        return ends if len(ends) >= 5 else []

    ends = poll(completed, seconds=60, what="OpenLineage's events of five tasks")
    outputs = {
        (event["job"]["name"], dataset["namespace"], dataset["name"])
        for event in ends
        for dataset in event["outputs"]
    }
    assert outputs == {
        ("lineage.draw", "file", f"{folder}/originals"),
        ("lineage.save", "file", f"{folder}/copies"),
        ("lineage.cut", "file", f"{folder}/cut"),
    }
    assert [dataset for event in ends for dataset in event["inputs"]] == []
    (saved,) = [event for event in ends if event["job"]["name"] == "lineage.save"]
    (dataset,) = saved["outputs"]
    statistics = dataset["outputFacets"]["outputStatistics"]
    images = list((folder / "copies").rglob("*.png"))
    assert statistics["fileCount"] == len(images) == 2
    assert statistics["size"] == sum(path.stat().st_size for path in images)
    (cut,) = [event for event in ends if event["job"]["name"] == "lineage.cut"]
    statistics = cut["outputs"][0]["outputFacets"]["outputStatistics"]
    renditions = list((folder / "cut").rglob("*.jpg"))
    assert statistics["fileCount"] == len(renditions) == 4
    assert statistics["size"] == sum(path.stat().st_size for path in renditions)
    assert "evoimage-" not in json.dumps([event["outputs"] for event in openlineage_events(airflow)])
