"""Prompt files, templates and mapping, as Airflow renders and expands them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.system

MAPPED_FIELDS = (
    *("prompt", "model", "size", "quality", "n", "image_urls"),
    *("callback_url", "extra_body", "save_to", "filename_template"),
)


@pytest.fixture(scope="module")
def saved_to(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arguments")


@pytest.fixture(scope="module")
def run_id(airflow: LocalAirflow, saved_to: Path) -> str:
    run = airflow.run("arguments", {"save_to": saved_to.as_uri()})
    airflow.wait_for_success("arguments", run, deadline=240)
    return run


def test_prompt_file_and_templated_number_are_rendered_and_blanks_take_the_documented_default(
    airflow: LocalAirflow, run_id: str
):
    request = airflow.xcom("arguments", run_id, "from_a_file")["request"]

    assert request == {
        "model": "gpt-image-1",
        "prompt": "A poster for an enamel mug, no text",
        "size": "1024x1024",
        "quality": "low",
        "n": 2,
    }


@pytest.mark.parametrize("field", MAPPED_FIELDS)
def test_every_request_field_maps(field: str, airflow: LocalAirflow, run_id: str):
    manifests = [airflow.xcom("arguments", run_id, f"by_{field}", map_index=index) for index in (0, 1)]

    assert len({manifest["evolink_task_id"] for manifest in manifests}) == 2
    if field in {"prompt", "model", "size", "quality", "n", "image_urls"}:
        assert manifests[0]["request"][field] != manifests[1]["request"][field]


def test_mapped_save_to_gives_each_item_its_folder(run_id: str, saved_to: Path):
    assert [len(list((saved_to / side).rglob("*.png"))) for side in ("left", "right")] == [1, 1]
