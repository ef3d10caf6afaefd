"""The ledger of a batch: a text that is always written, as what it tells of is paid for."""

from __future__ import annotations

from pathlib import Path

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
    ledger = BatchLedger(Destination(str(tmp_path)), "a.batch.jsonl", try_number=1)
    ledger.write([line])
    assert "größer" in (tmp_path / "a.batch.jsonl").read_text(encoding="utf-8")
    (found,) = ledger.read().values()
    assert found.requested.request == request
