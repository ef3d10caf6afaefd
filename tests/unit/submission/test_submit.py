"""One submission, step by step, against a hook that answers as it is told; with real HTTP see the money tests."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.evolink.protocol import Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    BudgetExceededError,
    EvoLinkUnreachableError,
    IdempotencyConflictError,
)
from airflow_provider_evoimage.submission.decision import Submit
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import RecordKeeper, SubmissionRecord, record_before_post
from airflow_provider_evoimage.submission.submit import Submission, most_of

TASK = "task-unified-1757156400-abcdefgh"
LOG: Any = logging.getLogger(__name__)
REQUEST = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox", quality="low")
IDENTITY = RequestIdentity(
    namespace="", dag_id="campaign", run_id="run", task_id="draw", epoch=2, fingerprint="f" * 64
)


class Hook:
    """Accepts every request; ``answer`` is the answer to the POST, ``present`` that to reading it."""

    evoimage_conn_id = "evoimage_default"
    settings = SimpleNamespace(
        account=SimpleNamespace(
            base_url="https://api.evolink.ai", api_key="sk-evo-secret", trust_idempotency=True
        )
    )

    def __init__(self, answer: dict[str, Any], present: dict[str, Any] | None = None) -> None:
        self.answer, self.present = answer, present
        self.posts = 0
        self.read: list[str] = []

    def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
        self.posts += 1
        return Submitted(generation=Generation.read(self.answer), replayed=False)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def get_generation(self, evolink_task_id: str) -> Generation:
        self.read.append(evolink_task_id)
        if self.present is None:
            raise EvoLinkUnreachableError("away")
        return Generation.read(self.present)


class Records:
    """The record in memory, and each that was kept."""

    def __init__(self, record: SubmissionRecord | None = None) -> None:
        self.record = record
        self.kept: list[SubmissionRecord | None] = []

    def read(self) -> SubmissionRecord | None:
        return self.record

    def keep(self, record: SubmissionRecord | None) -> None:
        self.record = record
        self.kept.append(record)


def submission(hook: Hook, records: Records | None, **arguments: Any) -> Submission:
    fields: dict[str, Any] = {"hook": hook, "identity": IDENTITY, "log": LOG, "submit_timeout": 60.0}
    return Submission(keeper=RecordKeeper(records, LOG), **(fields | arguments))


def test_record_that_precedes_the_post_holds_what_the_request_may_cost() -> None:
    records = Records()
    submission(Hook({"id": TASK, "status": "pending"}), records).ensure(REQUEST)
    most = most_of(REQUEST)
    assert most is not None
    assert [each and (each.phase, each.most) for each in records.kept] == [
        ("submitting", float(most)),
        ("submitted", float(most)),
    ]


def test_generation_that_has_ended_already_is_read_for_what_the_answer_lacks() -> None:
    whole = {"id": TASK, "status": "completed", "results": ["https://files.evolink.ai/a.png"]}
    hook = Hook({"id": TASK, "status": "completed"}, whole)
    generation = submission(hook, Records()).ensure(REQUEST)
    assert (hook.posts, hook.read) == (1, [TASK])
    assert len(generation.image_urls) == 1


def test_generation_that_is_running_is_not_read_again() -> None:
    hook = Hook({"id": TASK, "status": "pending"})
    submission(hook, Records()).ensure(REQUEST)
    assert hook.read == []


def refuse(request: ImageRequest) -> None:
    raise BudgetExceededError("too much", billed=False)


@pytest.mark.parametrize(
    ("has_store", "is_sent_before", "arguments", "billed"),
    [
        (True, False, {}, False),
        (True, False, {"is_retry": True}, False),
        (True, True, {}, None),
        (False, False, {}, False),
        (False, False, {"is_retry": True}, None),
    ],
)
def test_refusal_says_unpaid_only_where_no_earlier_try_may_have_been_accepted(
    has_store: bool, is_sent_before: bool, arguments: dict[str, Any], billed: bool | None
) -> None:
    first = Records()
    if is_sent_before:
        with pytest.raises(EvoLinkUnreachableError):
            submission(Unanswering({}), first).ensure(REQUEST)
    hook = Hook({"id": TASK, "status": "pending"})
    trying = submission(hook, first if has_store else None, before_submit=refuse, **arguments)
    with pytest.raises(BudgetExceededError) as caught:
        trying.ensure(REQUEST)
    assert caught.value.billed is billed
    assert hook.posts == 0


class Unanswering(Hook):
    """Sends the request, and no answer comes."""

    def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
        raise EvoLinkUnreachableError("no answer", billed=None)


FAILED = {"id": TASK, "status": "failed", "error": {"code": "service_error", "message": "busy"}}
OTHER = "task-unified-1757156400-otherone"


class Answering(Hook):
    """Gives the next of its answers to each POST: a generation, or an error to raise."""

    def __init__(self, *answers: Submitted | Exception, present: dict[str, Any] | None = None) -> None:
        super().__init__({}, present)
        self.answers = list(answers)
        self.sent: list[tuple[ImageRequest, str, float]] = []

    def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
        self.sent.append((request, key, submit_timeout))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def accepted(evolink_task_id: str = TASK, *, replayed: bool = False) -> Submitted:
    generation = Generation.read({"id": evolink_task_id, "status": "pending"})
    return Submitted(generation=generation, replayed=replayed)


def a_record(**changes: Any) -> SubmissionRecord:
    hook: Any = Hook({})
    record = record_before_post(IDENTITY, IDENTITY.idempotency_key, epoch=2, hook=hook, earlier=None)
    return replace(record, **changes)


def test_request_after_a_replayed_failure_has_the_next_key_of_the_same_clear() -> None:
    records = Records()
    hook = Answering(accepted(replayed=True), accepted(OTHER), present=FAILED)
    generation = submission(hook, records).ensure(REQUEST)
    assert generation.evolink_task_id == OTHER
    keys = [key for _, key, _ in hook.sent]
    assert keys == [IDENTITY.idempotency_key, replace(IDENTITY, sequence=1).idempotency_key]
    assert records.record is not None
    assert (records.record.asked_in, records.record.sequence) == (2, 1)


@pytest.mark.parametrize(("charged", "spent"), [(0.5, 1.5), (None, 1.0)])
def test_generation_handed_over_early_that_failed_is_counted_by_what_it_cost(
    charged: float | None, spent: float
) -> None:
    """A clear of a task that had ended before its generation finds it failed, and submits a new one."""
    earlier = replace(IDENTITY, epoch=1)
    records = Records(
        a_record(
            phase="submitted",
            evolink_task_id=OTHER,
            key=earlier.idempotency_key,
            epoch=1,
            asked_in=1,
            most=2.0,
            spent_before=1.0,
        )
    )
    asked: list[float] = []
    hook = Answering(accepted(), present={**FAILED, "id": OTHER, "usage": {"credits_used": charged}})
    trying = submission(
        hook,
        records,
        hands_over_early=True,
        before_submit=lambda request: asked.append(trying.spent_before),
    )
    assert trying.ensure(REQUEST).evolink_task_id == TASK
    assert [key for _, key, _ in hook.sent] == [IDENTITY.idempotency_key]
    assert asked == [spent]
    assert records.record is not None
    assert records.record.spent_before == spent


def test_next_model_is_tried_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    tried = (GivenUp(model="gpt-image-2", why="model_not_found"),)
    earlier = a_record(phase="failed", evolink_task_id=OTHER, fingerprint="e" * 64)
    hook = Answering(accepted())
    with caplog.at_level("INFO"):
        submission(hook, Records(earlier), tried=tried).ensure(REQUEST)
    assert f"Submitting a new request after EvoLink task {OTHER}: another model is tried." in caplog.text


def test_record_that_is_stored_already_is_the_one_of_the_post() -> None:
    """A batch stores the records of many requests at once, before the first POST."""
    records = Records()
    announced = a_record(posted_at=5.0)
    submission(Answering(accepted()), records).carry_out(
        Submit(IDENTITY, "this is the first try"), REQUEST, earlier=None, announced=announced
    )
    assert records.kept == [announced, replace(announced, phase="submitted", evolink_task_id=TASK)]


class Uploading:
    """Gives the request other URLs at each upload; knows nothing of earlier tries."""

    def sendable(self, request: ImageRequest, key: str) -> ImageRequest:
        return request.model_copy(update={"image_urls": ("https://files.evolink.ai/new.png",)})

    def as_sent_before(self, request: ImageRequest) -> list[ImageRequest]:
        return []


def test_conflict_of_uploaded_references_is_answered_by_the_request_that_was_sent_before() -> None:
    records = Records()
    first = Answering(EvoLinkUnreachableError("no answer", billed=None))
    with pytest.raises(EvoLinkUnreachableError):
        submission(first, records, uploads=Uploading()).ensure(REQUEST)
    conflict = IdempotencyConflictError("another request under this key", billed=None)
    hook = Answering(conflict, accepted())
    submission(hook, records, uploads=Uploading(), submit_timeout=45.0).ensure(REQUEST)
    (_, key, _), (again, same_key, submit_timeout) = hook.sent
    assert key == same_key == IDENTITY.idempotency_key
    assert again.body() == first.sent[0][0].body()
    assert submit_timeout == 45.0
