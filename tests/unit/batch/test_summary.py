"""The summary of a batch: exact counts and sums, and small whatever the batch's size."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_evoimage.batch.ledger import ItemError
from airflow_provider_evoimage.batch.summary import counted, missing_in_words, ranges_in_words, summary_of
from tests.unit.batch.test_submission import line, record, task_of

MADE_BY: Any = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
ERROR = ItemError(code="service_error", message="m" * 300, retryable=True)


def saved(number: int, charged: Any = 1.5, **fields: Any) -> Any:
    manifest: Any = {"images": [{}, {}], "usage": {"charged": charged}}
    return line(item=number, position=number, state="saved", manifest=manifest, **fields)


def test_every_item_is_counted_once_and_charges_are_summed():
    lines = [
        saved(0),
        saved(1, None),
        saved(2, 0, reused_in=0),
        line(item=3, position=4, name="cup" * 100, state="failed", error=ERROR, record=record(), charge=0.1),
        line(item=4, state="left out", error=ERROR),
        line(item=5, state="waiting"),
    ]
    summary = summary_of(lines, "s3://a.batch.jsonl", MADE_BY)
    failures = summary.pop("failures")  # type: ignore[misc]
    assert summary == {
        "v": 2,
        "manifest": "s3://a.batch.jsonl",
        "items": 6,
        "saved": 3,
        "drawn": 2,
        "reused": 1,
        "failed": 1,
        "left_out": 1,
        "images": 6,
        "credits": {"estimate": 20.0, "charged": 1.6},
        "made_by": MADE_BY,
    }
    assert summary["made_by"] is not MADE_BY
    assert failures[0] == {
        "item": 3,
        "position": 4,
        "name": ("cup" * 100)[:200],
        "evolink_task_id": task_of("a red fox"),
        "code": "service_error",
        "message": "m" * 200,
    }
    assert [each["item"] for each in failures] == [3, 4, 5]
    assert (failures[2]["code"], failures[2]["message"], failures[2]["evolink_task_id"]) == (None, None, None)


def test_only_the_first_twenty_failures_are_described():
    summary = summary_of([line(item=number, state="failed") for number in range(30)], "x", MADE_BY)
    assert [each["item"] for each in summary["failures"]] == list(range(20))
    assert summary["failed"] == 30


def test_warning_is_there_only_where_there_is_one():
    assert "warning" not in summary_of([], "x", MADE_BY, warning="")
    assert summary_of([], "x", MADE_BY, warning="too dear")["warning"] == "too dear"


def test_missing_images_are_explained_by_the_first():
    failed = line(item=7, state="failed", error=ItemError(code="x", message="No.", retryable=True))
    assert missing_in_words([failed, line(item=8)], 3, "s3://a") == (
        "2 of 3 items have no images: 7-8 (numbered as in file names, from 0). The first: No. 1 saved; "
        "s3://a describes each item."
    )
    words = missing_in_words([line(item=0)], 1, "s3://a")
    assert words.startswith("1 of 1 item has no images: 0 ")
    assert "The first: It is still running. 0 saved" in words


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], ""),
        ([3], "3"),
        ([9, 3, 7, 8], "3, 7-9"),
        (range(5), "0-4"),
        (range(0, 40, 2), ", ".join(str(each) for each in range(0, 40, 2))),
        (range(0, 42, 2), ", ".join(str(each) for each in range(0, 40, 2)) + ", …"),
    ],
)
def test_numbers_are_written_as_ranges(numbers: Any, words: str):
    assert ranges_in_words(numbers) == words


def test_numbers_have_their_noun():
    assert [counted(each, "item") for each in (0, 1, 2000)] == ["0 items", "1 item", "2,000 items"]
