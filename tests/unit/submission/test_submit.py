"""One submission, step by step, against a hook that answers as it is told; with real HTTP see the money tests."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.protocol import Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import BudgetExceededError, EvoLinkUnreachableError
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import RecordKeeper, SubmissionRecord
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
