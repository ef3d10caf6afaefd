"""References as Airflow hands them over: rendered, mapped, pulled; an edit's picture shows that they were read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from airflow_provider_evoimage.simulator.drawing.images import MARGIN, THUMBNAIL_SHARE
from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.system

#: task → number of references.
WAYS = {
    "by_output": 1,
    "by_list": 2,
    "by_path": 1,
    "by_all_mapped": 2,
    "by_template": 1,
    "by_template_in_list": 1,
    "by_json": 1,
    "by_function": 1,
}


@pytest.mark.parametrize("rendering", ["text", "native"])
def test_references_reach_evolink_however_airflow_hands_them_over(
    rendering: str, airflow: LocalAirflow, tmp_path: Path
):
    dag_id = f"references_{rendering}"
    run_id = airflow.run(dag_id, {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success(dag_id, run_id, deadline=240)

    counts = {
        task_id: len(airflow.xcom(dag_id, run_id, task_id)["request"]["references"]) for task_id in WAYS
    }
    mapped = [airflow.xcom(dag_id, run_id, "by_mapping", map_index=index) for index in (0, 1)]
    made = [airflow.xcom(dag_id, run_id, "make", map_index=index) for index in (0, 1)]

    assert counts == WAYS
    assert [each["request"]["references"][0]["sha256"] for each in mapped] == [
        each["images"][0]["sha256"] for each in made
    ]


def test_edit_chain_edits_the_saved_file(airflow: LocalAirflow, tmp_path: Path):
    run_id = airflow.run("evoimage_edit_chain", {"save_to": tmp_path.as_uri()})
    airflow.wait_for_success("evoimage_edit_chain", run_id, deadline=180)

    manifests = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    (scene,) = [each for each in manifests if "references" not in (each["request"] or {})]
    edits = [each for each in manifests if each is not scene]

    assert len(edits) == 2
    for edit in edits:
        (reference,) = edit["request"]["references"]
        assert reference["source"] == scene["images"][0]["path"]
        assert reference["sha256"] == scene["images"][0]["sha256"]
        assert _shows(_opened(edit), _opened(scene))
        assert not _shows(_opened(scene), _opened(scene))


def _opened(manifest: dict) -> Image.Image:
    path = manifest["images"][0]["path"].removeprefix("file://")
    with Image.open(path) as image:
        return image.convert("RGB")


def _shows(picture: Image.Image, reference: Image.Image) -> bool:
    """Tell whether a simulated picture has a small copy of its reference at its left edge."""
    short = min(picture.size)
    margin, cell = round(short * MARGIN), round(short * THUMBNAIL_SHARE)
    thumbnail = ImageOps.contain(reference, (cell, cell))
    differences = [
        sum(ImageStat.Stat(ImageChops.difference(thumbnail, crop)).mean)
        for top in range(picture.height - thumbnail.height)
        for crop in [picture.crop((margin, top, margin + thumbnail.width, top + thumbnail.height))]
    ]
    return min(differences) < 15
