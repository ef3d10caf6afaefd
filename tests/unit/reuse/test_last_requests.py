"""What the log says about a request that is drawn again."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.reuse.last_requests import LastRequests, in_words
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.index import ImagesKey, IndexEntry, write_json

BEFORE: dict[str, Any] = {
    "model": "m",
    "prompt": "a red fox of 2026-05-01 in the snow, no text, please",
    "n": 1,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"prompt": BEFORE["prompt"].replace("05-01", "05-02")},
            "prompt differs from X at character 22: '…of 2026-05-01 in the snow, no text, plea…' became "
            "'…of 2026-05-02 in the snow, no text, plea…'",
        ),
        ({"prompt": "b"}, "prompt differs from X at character 0: 'a red fox of 2026-05-01 in t…' became 'b'"),
        ({"n": 2, "size": "1:1"}, "n differs from X; size differs from X"),
        ({"image_urls": ["sha256:1"], "references": [1]}, "image_urls differs from X"),
        ({}, "only variant or occurrence differs from X"),
    ],
    ids=["date", "other words", "two fields", "references", "nothing"],
)
def test_difference_names_fields_and_place(change: dict[str, Any], words: str) -> None:
    assert in_words(BEFORE, BEFORE | change, of="X") == words


def test_unknown_request_has_no_difference() -> None:
    assert in_words(None, BEFORE, of="X") == in_words(BEFORE, None, of="X") == ""


MADE_BY = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
KEY = ImagesKey(fingerprint="a" * 64)
TASK = "task-unified-1757156400-abcdefgh"
NOTED = "_index/tasks/d/t.json"
LOG: Any = logging.getLogger(__name__)


def last(folder: Path) -> LastRequests:
    return LastRequests(Destination(str(folder)), MADE_BY, LOG)


def difference(folder: Path, label: str = "mug") -> str:
    return last(folder).difference(label, RequestSummary(request={**BEFORE, "n": 2}))


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A folder in which an earlier run has noted what it drew for the item "mug"."""
    folder = Destination(str(tmp_path))
    entry = IndexEntry(
        key=KEY, evolink_task_id=TASK, sidecar="mug.json", saved_at=datetime(2026, 5, 1, tzinfo=UTC)
    )
    write_json(folder, KEY.entry_name, entry.to_json())
    made_for = {**KEY.to_json(), "provenance": "mark"}
    write_json(folder, "mug.json", {"evolink_task_id": TASK, "request": BEFORE, "reusable_for": made_for})
    last(tmp_path).keep({"mug": KEY})
    return tmp_path


def test_difference_is_from_what_the_same_item_had_last(noted: Path) -> None:
    assert difference(noted) == f"n differs from that of EvoLink task {TASK}"
    assert difference(noted, "cup") == ""


@pytest.mark.parametrize("gone", [KEY.entry_name, "mug.json", NOTED])
def test_difference_is_unknown_where_a_file_is_gone(noted: Path, gone: str) -> None:
    (noted / gone).unlink()
    assert difference(noted) == ""


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"v": 2, "items": {}}',
        '{"v": 1}',
        '{"v": 1, "items": []}',
        '{"v": 1, "items": {"mug": 5}}',
    ],
)
def test_edited_note_says_nothing_and_is_written_again(noted: Path, content: str) -> None:
    (noted / NOTED).write_text(content)
    assert difference(noted) == ""
    last(noted).keep({"mug": KEY})
    assert json.loads((noted / NOTED).read_text()) == {"v": 1, "items": {"mug": KEY.to_json()}}


@pytest.mark.parametrize(
    "other", [{"reusable_for": {**KEY.to_json(), "provenance": "mark", "occurrence": 1}}, None]
)
def test_sidecar_of_another_request_is_not_compared(noted: Path, other: dict[str, Any] | None) -> None:
    sidecar = json.loads((noted / "mug.json").read_text())
    (noted / "mug.json").write_text(json.dumps([] if other is None else sidecar | other))
    assert difference(noted) == ""


def test_damaged_entry_is_not_followed(noted: Path) -> None:
    (noted / KEY.entry_name).write_text("{}")
    assert difference(noted) == ""


def test_note_keeps_other_items_and_is_written_only_where_it_changes(noted: Path) -> None:
    cup = replace(KEY, occurrence=2)
    found = last(noted)
    found.keep({"cup": cup})
    assert json.loads((noted / NOTED).read_text())["items"] == {"mug": KEY.to_json(), "cup": cup.to_json()}
    (noted / NOTED).unlink()
    found.keep({"cup": cup})
    assert not (noted / NOTED).exists()


def test_storage_that_fails_costs_the_sentence_only(noted: Path, caplog: pytest.LogCaptureFixture) -> None:
    (noted / NOTED).unlink()
    (noted / NOTED).mkdir()
    assert difference(noted) == ""
    last(noted).keep({"mug": KEY})
    assert "The request of the earlier run cannot be read" in caplog.text
    assert "A later run cannot say why it draws" in caplog.text
