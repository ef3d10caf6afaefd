"""What an earlier release has written into Airflow's database, into XComs and beside images: an upgrade reads it.

The samples are literal on purpose. A changed sample means that running tasks lose what they have paid for.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_provider_evoimage import manifest as manifest_module
from airflow_provider_evoimage.batch.ledger import BatchLedger, ItemError, LedgerLine
from airflow_provider_evoimage.batch.summary import summary_of
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.generation import run as generation_run
from airflow_provider_evoimage.manifest import (
    RequestSummary,
    build_manifest,
    generations_given,
    without_links,
)
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.references import uploads
from airflow_provider_evoimage.references.files import KnownReferences
from airflow_provider_evoimage.references.uploads import ReferenceRecord
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.progress import SaveProgress
from airflow_provider_evoimage.submission import record as submission_record
from airflow_provider_evoimage.submission.record import SubmissionRecord
from airflow_provider_evoimage.triggers.batch import EvoImageBatchTrigger
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.packing import pack_ids, unpack_ids

TASK = "task-unified-1757156400-abcdefgh"
OTHER = "task-unified-1757156401-ijklmnop"
FINGERPRINT = "f" * 64
KEY = "airflow-evoimage-eef8ac4eeab3d5b6a5f37f928813b9ab1492007a83fcf92a8253787a639677ce"
MADE_BY = {"dag_id": "campaign", "run_id": "run", "task_id": "draw", "map_index": -1}


# The record of a submission, in the task state store.

RECORD_JSON: dict[str, Any] = {
    "v": 1,
    "key": KEY,
    "fingerprint": FINGERPRINT,
    "epoch": 3,
    "asked_in": 2,
    "occurrence": 1,
    "sequence": 4,
    "conn_id": "evoimage_default",
    "base_url": "https://api.evolink.ai",
    "posted_at": 1757156400.25,
    "phase": "submitted",
    "evolink_task_id": TASK,
    "retryable": False,
    "credits_reserved": 8.5,
}
RECORD = SubmissionRecord(
    key=KEY,
    fingerprint=FINGERPRINT,
    epoch=3,
    asked_in=2,
    occurrence=1,
    sequence=4,
    conn_id="evoimage_default",
    base_url="https://api.evolink.ai",
    posted_at=1757156400.25,
    phase="submitted",
    evolink_task_id=TASK,
    credits_reserved=8.5,
)
# Without the fields that have a default.
SHORT_RECORD_JSON: dict[str, Any] = {
    "v": 1,
    "key": KEY,
    "fingerprint": FINGERPRINT,
    "epoch": 3,
    "sequence": 0,
    "conn_id": "evoimage_default",
    "base_url": "https://api.evolink.ai",
    "posted_at": 1757156400,
    "phase": "submitting",
}
SHORT_RECORD = SubmissionRecord(
    key=KEY,
    fingerprint=FINGERPRINT,
    epoch=3,
    asked_in=3,
    sequence=0,
    conn_id="evoimage_default",
    base_url="https://api.evolink.ai",
    posted_at=1757156400.0,
)
PHASES: list[dict[str, Any]] = [
    {"phase": "submitting", "evolink_task_id": None},
    {"phase": "submitted"},
    {"phase": "failed", "retryable": True},
    {"phase": "delivered"},
]


def test_names_under_which_airflow_keeps_our_state_stay() -> None:
    assert submission_record.STATE_KEY == "evoimage"
    assert uploads.STATE_KEY == "evoimage_references"
    assert generation_run.XCOM_EVOLINK_TASK_ID == "evolink_task_id"
    assert generation_run.XCOM_REQUEST == "evoimage_asked"


def test_submission_record_is_written_as_in_earlier_release() -> None:
    assert RECORD.to_json() == RECORD_JSON


@pytest.mark.parametrize(
    ("stored", "record"), [(RECORD_JSON, RECORD), (SHORT_RECORD_JSON, SHORT_RECORD)], ids=["whole", "short"]
)
def test_submission_record_of_earlier_release_is_read(
    stored: dict[str, Any], record: SubmissionRecord
) -> None:
    assert SubmissionRecord.read(stored) == record


def test_record_and_ledger_line_hold_what_a_limit_counts() -> None:
    stored = {**RECORD_JSON, "phase": "failed", "most": 9.25, "charged": 0.0, "spent_before": 4.5}
    record = replace(RECORD, phase="failed", most=9.25, charged=0.0, spent_before=4.5)
    assert record.to_json() == stored
    assert SubmissionRecord.read(stored) == record
    line, row = LEDGER["failed"]
    line = replace(line, spent_on_gone=3.5)
    row = {**row, "submission": row["submission"] | {"spent_on_gone": 3.5}}
    assert line.to_json() == row
    assert LedgerLine.read(row) == line


@pytest.mark.parametrize("change", PHASES, ids=lambda change: change["phase"])
def test_every_phase_of_earlier_release_is_read(change: dict[str, Any]) -> None:
    stored = RECORD_JSON | change
    record = SubmissionRecord.read(stored)
    assert record is not None
    assert record.to_json() == stored


# Triggers and their events, in Airflow's database.

EVENTS: list[tuple[WaitEvent, dict[str, Any]]] = [
    (
        WaitEvent(endings={TASK: "completed"}),
        {"v": 1, "status": "completed", "generations": {TASK: "completed"}},
    ),
    (
        WaitEvent(endings={TASK: "failed", OTHER: "cancelled"}),
        {"v": 1, "status": "failed", "generations": {TASK: "failed", OTHER: "cancelled"}},
    ),
    (
        WaitEvent(endings={TASK: "timeout"}, waiting=7),
        {"v": 1, "status": "timeout", "generations": {TASK: "timeout"}, "waiting": 7},
    ),
    (
        WaitEvent(endings={TASK: "lost"}, reason="unknown"),
        {"v": 1, "status": "lost", "generations": {TASK: "lost"}, "reason": "unknown"},
    ),
    (
        WaitEvent(endings={}, waiting=2, reason="unknown"),
        {"v": 1, "status": "lost", "generations": {}, "waiting": 2, "reason": "unknown"},
    ),
]
PACKED = {
    "eNoDAAAAAAE=": [],
    "eNorSSzO1i3Ny0zLTE3RNTQ3NTc0NTMxMNBNTEpOSU1LzwAArvMKRw==": [TASK],
    "eNorSSzO1i3Ny0zLTE3RNTQ3NTc0NTMxMNBNTEpOSU1Lz+AqwarAUDczKzsnNy+/AACzfxTY": [TASK, OTHER],
}
GENERATION_TRIGGER: dict[str, Any] = {
    "evolink_task_ids": [TASK, OTHER],
    "evoimage_conn_id": "evoimage_default",
    "deadline": 1757160000.5,
    "poll_interval": 2.5,
    "estimated_time": 45.0,
}
BATCH_TRIGGER: dict[str, Any] = {
    "evolink_task_ids": "eNorSSzO1i3Ny0zLTE3RNTQ3NTc0NTMxMNBNTEpOSU1Lz+AqwarAUDczKzsnNy+/AACzfxTY",
    "evoimage_conn_id": "evoimage_default",
    "deadline": 1757160000.5,
    "save_every": 20,
    "save_after": 60.0,
    "poll_interval": None,
    "estimated_time": None,
}


@pytest.mark.parametrize(("event", "stored"), EVENTS)
def test_wait_event_is_written_and_read_as_in_earlier_release(
    event: WaitEvent, stored: dict[str, Any]
) -> None:
    assert event.to_json() == stored
    assert WaitEvent.read(stored) == event


@pytest.mark.parametrize(("packed", "ids"), PACKED.items())
def test_ids_that_an_earlier_release_packed_are_read(packed: str, ids: list[str]) -> None:
    # The other direction may differ by a few bytes from one zlib to another.
    assert unpack_ids(packed) == ids
    assert unpack_ids(pack_ids(ids)) == ids


def test_generation_trigger_of_earlier_release_is_restored() -> None:
    assert EvoImageGenerationTrigger(**GENERATION_TRIGGER).serialize() == (
        "airflow_provider_evoimage.triggers.generation.EvoImageGenerationTrigger",
        GENERATION_TRIGGER | {"was_accepted": False},
    )
    later = GENERATION_TRIGGER | {"was_accepted": True}
    assert EvoImageGenerationTrigger(**later).serialize()[1] == later


@pytest.mark.parametrize("ids", [BATCH_TRIGGER["evolink_task_ids"], [TASK, OTHER]], ids=["packed", "list"])
def test_batch_trigger_of_earlier_release_is_restored(ids: Any) -> None:
    trigger = EvoImageBatchTrigger(**BATCH_TRIGGER | {"evolink_task_ids": ids})
    path, arguments = trigger.serialize()
    assert path == "airflow_provider_evoimage.triggers.batch.EvoImageBatchTrigger"
    assert trigger.evolink_task_ids == unpack_ids(arguments["evolink_task_ids"]) == [TASK, OTHER]
    assert {**arguments, "evolink_task_ids": None} == {**BATCH_TRIGGER, "evolink_task_ids": None}


def test_triggers_need_no_argument_that_an_earlier_release_did_not_store() -> None:
    needed = {"evolink_task_ids", "evoimage_conn_id", "deadline"}
    assert _needed(EvoImageGenerationTrigger.__init__) == {"self"} | needed
    assert _needed(EvoImageBatchTrigger.__init__) == {"self", "save_every", "save_after"} | needed


@pytest.mark.parametrize(
    ("operator", "stored"),
    [
        (EvoImageGenerateOperator, {"credits_reserved": 8.5}),
        (EvoImageBatchOperator, {"deadline": 1757160000.5}),
        (EvoImageGenerationSensor, {}),
    ],
    ids=["generate", "batch", "sensor"],
)
def test_task_that_an_earlier_release_deferred_can_go_on(operator: type, stored: dict[str, Any]) -> None:
    method = operator.execute_complete  # type: ignore[attr-defined]
    inspect.signature(method).bind(None, context={}, event={}, **stored)


def _needed(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.default is inspect.Parameter.empty}


# The manifest: an XCom, and the sidecar beside the images.

ESTIMATE: dict[str, Any] = {
    "credits_low": 16.2939,
    "credits_high": 16.2995,
    "usd_low": 0.239617,
    "usd_high": 0.239699,
    "rule": "tokens",
    "source": "EvoLink's public price rules",
    "as_of": "2026-10-10",
}
REQUEST_JSON: dict[str, Any] = {
    "model": "gpt-image-1.5",
    "prompt": "ein größerer Fuchs",
    "size": "1024x1024",
    "quality": "low",
    "n": 2,
    "image_urls": ["https://b.s3.amazonaws.com/a.png?v=3&token=***", "sha256:" + "a" * 64],
    "seed": 7,
}
ASKED = RequestSummary(request=REQUEST_JSON, images=2, estimate=ESTIMATE)
KEPT_JSON: dict[str, Any] = {"request": REQUEST_JSON, "asked": 2, "usage": {"estimate": ESTIMATE}}
ANSWER: dict[str, Any] = {
    "id": TASK,
    "model": "gpt-image-1.5",
    "status": "completed",
    "progress": 100,
    "created": 1757156400,
    "duration": 12,
    "results": ["https://files.evolink.ai/a_0.png", "https://files.evolink.ai/a_1.png"],
    "usage": {"credits_reserved": 8.5, "credits_used": 8.1474, "image_output_tokens": 4160},
}
SAVED: dict[str, Any] = {
    "index": 1,
    "path": "file:///data/draw-1.png",
    "sha256": "0" * 64,
    "bytes": 10,
    "content_type": "image/png",
    "width": 1024,
    "height": 1024,
}
MANIFEST_JSON: dict[str, Any] = {
    "v": 1,
    "provider": "airflow-provider-evoimage 0.1.0",
    "evolink_task_id": TASK,
    "status": "completed",
    "model": "gpt-image-1.5",
    "created": "2025-09-06T11:00:00+00:00",
    "completed": "2025-09-06T11:00:12+00:00",
    "expires_at": "2025-09-07T11:00:00+00:00",
    "asked": 2,
    "made": 2,
    "request": REQUEST_JSON,
    "images": [
        {"index": 0, "url": "https://files.evolink.ai/a_0.png"},
        {"index": 1, "url": "https://files.evolink.ai/a_1.png", **SAVED},
    ],
    "usage": {
        "estimate": ESTIMATE,
        "reserved": 8.5,
        "charged": 8.1474,
        "tokens": {"image_output_tokens": 4160},
    },
    "made_by": MADE_BY,
}
SIDECAR_JSON: dict[str, Any] = {**MANIFEST_JSON, "images": [{"index": 0}, SAVED]}


def test_manifest_is_written_as_in_earlier_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "__version__", "0.1.0")
    manifest = build_manifest(Generation.read(ANSWER), requested=ASKED, made_by=MADE_BY, saved=[SAVED])
    assert manifest == MANIFEST_JSON
    assert without_links(manifest) == SIDECAR_JSON


@pytest.mark.parametrize("stored", [MANIFEST_JSON, SIDECAR_JSON], ids=["xcom", "sidecar"])
def test_manifest_of_earlier_release_names_its_generation_and_request(stored: dict[str, Any]) -> None:
    requested = RequestSummary(request=REQUEST_JSON, images=2, estimate=ESTIMATE, credits_reserved=8.5)
    assert generations_given(stored) == [(TASK, requested)]


def test_kept_request_is_written_and_read_as_in_earlier_release() -> None:
    assert ASKED.kept() == KEPT_JSON
    assert RequestSummary.in_manifest(KEPT_JSON) == ASKED


def test_request_is_described_as_in_earlier_release() -> None:
    request = ImageRequest.build(
        model="gpt-image-1.5",
        prompt="ein größerer Fuchs",
        size="1024x1024",
        quality="low",
        n=2,
        image_urls=[
            "https://me:pa55@b.s3.amazonaws.com/a.png?v=3&X-Amz-Signature=s&token=t",
            "sha256:" + "a" * 64,
        ],
        extra_body={"seed": 7},
        callback_url="https://hooks.example.com/done",
    )
    assert RequestSummary.by(request).request == REQUEST_JSON


def test_files_that_a_killed_save_of_earlier_release_began_are_found(tmp_path: Path) -> None:
    stored = {"evolink_task_id": TASK, "images": [SAVED]}
    (tmp_path / ".draw.saving.json").write_text(json.dumps(stored), encoding="utf-8")
    assert SaveProgress(Destination(str(tmp_path)), "draw.json", TASK).found() == {1: SAVED}


# The ledger of a batch, beside the images, and its XCom.

PLACE: dict[str, Any] = {"item": 5, "position": 3, "name": "größer"}
LINE: dict[str, Any] = {**PLACE, "fingerprint": FINGERPRINT, "occurrence": 1, "requested": ASKED}
WITHOUT_RECORD: dict[str, Any] = {"fingerprint": FINGERPRINT, "occurrence": 1}
WITHOUT_IMAGES: dict[str, Any] = {
    "request": REQUEST_JSON,
    "asked": 2,
    "usage": {"estimate": ESTIMATE, "charged": None},
    "v": 2,
}
CHARGED: dict[str, Any] = {**WITHOUT_IMAGES, "usage": {"estimate": ESTIMATE, "charged": 4.0}}
FAILURE = ItemError(code="content_policy", message="It was refused.", retryable=False)
FAILURE_JSON = {"code": "content_policy", "message": "It was refused.", "retryable": False}

LEDGER: dict[str, tuple[LedgerLine, dict[str, Any]]] = {
    "queued": (
        LedgerLine(**LINE, state="queued"),
        {
            **PLACE,
            "state": "queued",
            "error": None,
            "evolink_task_id": None,
            **WITHOUT_IMAGES,
            "submission": WITHOUT_RECORD,
        },
    ),
    "waiting": (
        LedgerLine(**LINE, state="waiting", record=RECORD),
        {
            **PLACE,
            "state": "waiting",
            "error": None,
            "evolink_task_id": TASK,
            **WITHOUT_IMAGES,
            "submission": RECORD_JSON,
        },
    ),
    "saved": (
        LedgerLine(
            **{
                **LINE,
                "requested": RequestSummary(
                    request=REQUEST_JSON, images=2, estimate=ESTIMATE, credits_reserved=8.5
                ),
            },
            state="saved",
            record=RECORD,
            manifest=SIDECAR_JSON,
        ),
        {**PLACE, "state": "saved", "error": None, **SIDECAR_JSON, "v": 2, "submission": RECORD_JSON},
    ),
    "failed": (
        LedgerLine(**LINE, state="failed", record=RECORD, charge=4.0, error=FAILURE),
        {
            **PLACE,
            "state": "failed",
            "error": FAILURE_JSON,
            "evolink_task_id": TASK,
            **CHARGED,
            "submission": RECORD_JSON,
        },
    ),
    "left out": (
        LedgerLine(**LINE, state="left out", error=FAILURE),
        {
            **PLACE,
            "state": "left out",
            "error": FAILURE_JSON,
            "evolink_task_id": None,
            **WITHOUT_IMAGES,
            "submission": WITHOUT_RECORD,
        },
    ),
}
SUMMARY_JSON: dict[str, Any] = {
    "v": 2,
    "manifest": "file:///data/a.batch.jsonl",
    "items": 5,
    "saved": 1,
    "drawn": 1,
    "reused": 0,
    "failed": 1,
    "left_out": 1,
    "images": 2,
    "credits": {"estimate": 81.4975, "charged": 12.1474},
    "failures": [
        {"item": 5, "position": 3, "name": "größer", "evolink_task_id": None, "code": None, "message": None},
        {"item": 5, "position": 3, "name": "größer", "evolink_task_id": TASK, "code": None, "message": None},
        {
            "item": 5,
            "position": 3,
            "name": "größer",
            "evolink_task_id": TASK,
            "code": "content_policy",
            "message": "It was refused.",
        },
        {
            "item": 5,
            "position": 3,
            "name": "größer",
            "evolink_task_id": None,
            "code": "content_policy",
            "message": "It was refused.",
        },
    ],
    "made_by": MADE_BY,
}


@pytest.mark.parametrize(("line", "stored"), LEDGER.values(), ids=LEDGER)
def test_ledger_line_is_written_and_read_in_version_2(line: LedgerLine, stored: dict[str, Any]) -> None:
    assert line.to_json() == stored
    assert LedgerLine.read(stored) == line


def version_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a line as releases before 0.2 wrote it: ``item`` is the position, ``number`` is for file names."""
    rest = {name: value for name, value in stored.items() if name not in {"item", "position", "v"}}
    return {"item": 3, "number": 5, **rest, "v": 1}


@pytest.mark.parametrize(("line", "stored"), LEDGER.values(), ids=LEDGER)
def test_ledger_line_of_version_1_is_read(line: LedgerLine, stored: dict[str, Any]) -> None:
    found = LedgerLine.read(version_1(stored))
    assert found is not None
    assert replace(found, manifest=None) == replace(line, manifest=None)
    assert found.to_json() == stored


def test_ledger_file_of_earlier_release_is_read(tmp_path: Path) -> None:
    line, stored = LEDGER["failed"]
    text = json.dumps(version_1(stored), ensure_ascii=False) + "\n"
    (tmp_path / "a.batch.jsonl").write_text(text, encoding="utf-8")
    assert BatchLedger(Destination(str(tmp_path)), "a.batch.jsonl", try_number=1).read() == {
        (FINGERPRINT, 1): line
    }


TRY_ID = "01890000-0000-7000-8000-000000000000"


def test_ledger_file_that_holds_no_id_of_its_try_is_read(tmp_path: Path) -> None:
    line, stored = LEDGER["failed"]
    row = stored | {"submission": stored["submission"] | {"try_number": 3}}
    (tmp_path / "a.batch.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    ledger = BatchLedger(Destination(str(tmp_path)), "a.batch.jsonl", try_number=3, try_id=TRY_ID)
    assert ledger.read() == {(FINGERPRINT, 1): line}


def test_ledger_file_says_which_try_wrote_it(tmp_path: Path) -> None:
    line, stored = LEDGER["failed"]
    ledger = BatchLedger(Destination(str(tmp_path)), "a.batch.jsonl", try_number=3, try_id=TRY_ID)
    ledger.write([line])
    row = json.loads((tmp_path / "a.batch.jsonl").read_text())
    assert row == stored | {"submission": stored["submission"] | {"try_number": 3, "try_id": TRY_ID}}
    assert ledger.read() == {(FINGERPRINT, 1): line}


def test_batch_summary_is_written_in_version_2() -> None:
    lines = [line for line, _ in LEDGER.values()]
    assert summary_of(lines, "file:///data/a.batch.jsonl", MADE_BY) == SUMMARY_JSON


# The record of uploaded references, in the task state store.

UPLOADS_JSON: dict[str, Any] = {
    "v": 1,
    "hashes": {"/data/shoe.png": "a" * 64},
    "sidecars": {"/data/draw.json": ["/data/draw-0.png", "/data/draw-1.png"]},
    "key": KEY,
    "sent": [
        {"a" * 64: "https://files.evolink.ai/one/ref-1.png"},
        {"a" * 64: "https://files.evolink.ai/two/ref-1.png"},
    ],
    "expires_at": 1757415600.0,
}
UPLOADS = ReferenceRecord(
    known=KnownReferences(
        hashes={"/data/shoe.png": "a" * 64},
        sidecars={"/data/draw.json": ["/data/draw-0.png", "/data/draw-1.png"]},
    ),
    key=KEY,
    sent=(
        {"a" * 64: "https://files.evolink.ai/one/ref-1.png"},
        {"a" * 64: "https://files.evolink.ai/two/ref-1.png"},
    ),
    expires_at=1757415600.0,
)


def test_record_of_references_is_written_as_in_earlier_release() -> None:
    store = Mock()
    UPLOADS.keep(store, Mock())
    store.set.assert_called_once_with("evoimage_references", UPLOADS_JSON)


def test_record_of_references_of_earlier_release_is_read() -> None:
    store = {"evoimage_references": UPLOADS_JSON}
    assert ReferenceRecord.read(store, Mock()) == UPLOADS  # type: ignore[arg-type]
