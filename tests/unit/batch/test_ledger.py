"""The ledger of a batch: a text that is always written, as what it tells of is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.batch import ledger
from airflow_provider_evoimage.batch.ledger import BatchLedger, LedgerLine
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.storage.destination import Destination


def test_lone_surrogate_is_written_as_its_escape(tmp_path: Path) -> None:
    # As in the path of a reference whose name is no UTF-8.
    request = {"prompt": "größer", "image_urls": ["/data/gr\udcf6sser.png"]}
    line = LedgerLine(
        item=0,
        position=0,
        name="",
        fingerprint="a" * 64,
        occurrence=0,
        requested=RequestSummary(request=request, images=1),
    )
    kept = BatchLedger(Destination(str(tmp_path)), "a.batch.jsonl", try_number=1)
    kept.write([line])
    assert "größer" in (tmp_path / "a.batch.jsonl").read_text(encoding="utf-8")
    (found,) = kept.read().values()
    assert found.requested.request == request


WHOLE: dict[str, Any] = {
    "v": 2,
    "item": 0,
    "position": 0,
    "state": "queued",
    "submission": {"fingerprint": "a" * 64, "occurrence": 0},
}


def test_line_that_people_edited_is_read_only_while_it_makes_sense() -> None:
    assert LedgerLine.read(WHOLE) is not None
    for changed in (
        {"v": 99},
        {"state": "odd"},
        {"submission": None},
        {"submission": {"occurrence": 0}},
        {"submission": {"fingerprint": "a" * 64, "occurrence": "0"}},
        {"item": "0"},
        {"position": None},
    ):
        assert LedgerLine.read(WHOLE | changed) is None, changed
    assert LedgerLine.read([WHOLE]) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "is_later"),
    [
        ("01980000-0000-7000-8000-000000000000", "01970000-0000-7000-8000-000000000000", True),
        ("01970000-0000-7000-8000-000000000000", "01980000-0000-7000-8000-000000000000", False),
        # Of another version, so that they hold no time.
        ("01980000-0000-4000-8000-000000000000", "01970000-0000-7000-8000-000000000000", False),
        ("01980000-0000-7000-8000-000000000000", "no id", False),
        ("01980000-0000-7000-8000-000000000000", None, False),
    ],
)
def test_later_try_is_known_by_the_time_in_its_id(mine: str, theirs: object, is_later: bool) -> None:
    assert ledger._was_made_after(mine, theirs) is is_later
