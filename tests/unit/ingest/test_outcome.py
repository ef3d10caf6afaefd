"""Counts of an ingest run: exact, small, and no charge is invented."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import DownloadError, EvoImageError
from airflow_provider_evoimage.ingest.outcome import IngestOutcome
from airflow_provider_evoimage.lineage import MAX_LISTED

MADE_BY: Any = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}


def manifest(evolink_task_id: str = "a", charged: Any = 1.5, images: int = 2) -> Any:
    return {
        "evolink_task_id": evolink_task_id,
        "usage": {"charged": charged},
        "images": [{"path": f"/{evolink_task_id}-{n}.png", "bytes": 10} for n in range(images)],
    }


def test_saved_generations_are_summed():
    outcome = IngestOutcome(found=4)
    outcome.add(manifest("a"))
    outcome.add(manifest("b", 0.1, images=1))
    outcome.add({"evolink_task_id": "c", "usage": {"charged": 0.2}})  # type: ignore[typeddict-item]
    assert (outcome.saved, outcome.images, outcome.bytes, outcome.credits) == (3, 3, 30, 1.8)
    assert outcome.evolink_task_ids == ["a", "b", "c"]
    assert outcome.paths == ["/a-0.png", "/a-1.png", "/b-0.png"]


@pytest.mark.parametrize("usage", [{"charged": None}, {"charged": "a lot"}, None, {}])
def test_one_unknown_charge_makes_the_sum_unknown(usage: Any):
    outcome = IngestOutcome()
    outcome.add(manifest())
    outcome.add({**manifest(), "usage": usage})
    outcome.add(manifest())
    assert outcome.credits is None
    assert outcome.summary(MADE_BY)["credits"] is None


def test_images_whose_size_is_unknown_count_as_images():
    outcome = IngestOutcome()
    outcome.add({**manifest(), "images": [{"path": 5}, {"bytes": 7}, "edited"]})
    assert (outcome.images, outcome.bytes, outcome.paths) == (3, 7, [])


def test_lists_stay_short_however_much_is_saved_or_fails():
    outcome = IngestOutcome()
    for number in range(MAX_LISTED + 5):
        outcome.add(manifest(f"task-{number}", images=1))
        outcome.failed_with(f"failed-{number}", DownloadError("x" * 500))
    outcome.expiring = [f"old-{number}" for number in range(30)]
    summary = outcome.summary(MADE_BY)
    assert summary["evolink_task_ids"] == [f"task-{number}" for number in range(MAX_LISTED)]
    assert len(summary["paths"]) == MAX_LISTED
    assert (summary["saved"], summary["failed"]) == (MAX_LISTED + 5, MAX_LISTED + 5)
    assert [each["evolink_task_id"] for each in summary["failures"]] == [f"failed-{n}" for n in range(20)]
    assert summary["failures"][0] == {
        "evolink_task_id": "failed-0",
        "kind": "DownloadError",
        "message": "x" * 200,
    }
    assert summary["expiring"] == [f"old-{number}" for number in range(20)]
    assert len(outcome._first) == 20


def test_summary_has_every_count_and_a_copy_of_who_made_it():
    counts: dict[str, Any] = {
        name: number
        for number, name in enumerate(
            ("found", "known", "own", "young", "without_images", "failed", "saved", "images", "bytes"),
            start=1,
        )
    }
    summary = IngestOutcome(**counts, credits=2.5).summary(MADE_BY)
    assert {name: summary[name] for name in counts} == counts  # type: ignore[literal-required]
    assert (summary["v"], summary["credits"]) == (1, 2.5)
    assert summary["made_by"] == MADE_BY
    assert summary["made_by"] is not MADE_BY


def test_what_is_shown_and_announced_is_what_was_saved():
    outcome = IngestOutcome(found=5)
    outcome.add(manifest())
    outcome.failed_with("b", EvoImageError("gone"))
    shown = outcome.shown
    assert {
        name: shown[name] for name in ("images", "saved", "credits", "items", "items_saved", "items_failed")
    } == {
        "images": 2,
        "saved": 2,
        "credits": 1.5,
        "items": 5,
        "items_saved": 1,
        "items_failed": 1,
    }
    announced = outcome.images_below("s3://shop")
    assert (announced.save_to, announced.bytes) == ("s3://shop", 20)
    assert announced.counts == {
        "generations": 1,
        "images": 2,
        "credits": 1.5,
        "reused": 0,
        "evolink_task_ids": ["a"],
        "paths": ["/a-0.png", "/a-1.png"],
    }
    assert IngestOutcome().images_below("s3://shop").save_to is None
