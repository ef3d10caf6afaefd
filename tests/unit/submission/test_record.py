"""The record of a submission: what is kept from try to try, and what a damaged one means."""

from __future__ import annotations

import logging
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.exceptions import EvoImageError, UnrepeatableSubmissionError
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import (
    OUTLIVED_SECONDS,
    STATE_KEY,
    RecordKeeper,
    SubmissionRecord,
    TaskStateRecords,
    record_before_post,
)

TASK = "task-unified-1757156400-abcdefgh"
LOG: Any = logging.getLogger(__name__)
HOOK: Any = SimpleNamespace(
    evoimage_conn_id="evoimage_default",
    settings=SimpleNamespace(account=SimpleNamespace(base_url="https://api.evolink.ai")),
)
IDENTITY = RequestIdentity(
    namespace="", dag_id="campaign", run_id="run", task_id="draw", epoch=2, fingerprint="f" * 64
)


class Store:
    """Airflow's task state store."""

    def __init__(self, value: Any = None) -> None:
        self.rows = {} if value is None else {STATE_KEY: value}

    def get(self, key: str, default: Any = None) -> Any:
        return self.rows.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self.rows[key] = value

    def delete(self, key: str) -> None:
        self.rows.pop(key, None)


def before_post(key: str, earlier: SubmissionRecord | None = None, **changes: Any) -> SubmissionRecord:
    return record_before_post(IDENTITY, key, epoch=2, hook=HOOK, earlier=earlier, **changes)


def keeper_of(value: Any) -> RecordKeeper:
    return RecordKeeper(TaskStateRecords(Store(value)), LOG)


def test_time_of_the_first_post_under_a_key_stays() -> None:
    """EvoLink remembers a key for about a day from its first POST; a later try must not begin that day anew."""
    key = IDENTITY.idempotency_key
    first = replace(before_post(key), posted_at=1_000.0)
    assert before_post(key, first).posted_at == 1_000.0
    other = replace(IDENTITY, sequence=1).idempotency_key
    assert before_post(other, first).posted_at > 1_000_000.0


def test_record_comes_back_as_it_was_kept() -> None:
    identity = replace(IDENTITY, item="d" * 64, occurrence=3)
    tried = (GivenUp(model="gpt-image-2", why="model_not_found"),)
    record = record_before_post(
        identity,
        identity.idempotency_key,
        epoch=5,
        hook=HOOK,
        earlier=None,
        most=Decimal("1.5"),
        sealed="sealed",
        tried=tried,
    )
    assert SubmissionRecord.read(record.to_json()) == record
    assert (record.phase, record.evolink_task_id, record.most) == ("submitting", None, 1.5)
    assert (record.item, record.occurrence, record.tried) == ("d" * 64, 3, tried)
    assert (record.epoch, record.asked_in) == (5, 2)
    ended = replace(
        record,
        phase="failed",
        evolink_task_id=TASK,
        retryable=True,
        credits_reserved=2.0,
        charged=0.5,
        spent_before=1.0,
        failure="service_error",
    )
    assert SubmissionRecord.read(ended.to_json()) == ended


def test_ended_record_says_why_a_generation_failed_and_what_it_cost() -> None:
    answer = {"id": TASK, "status": "failed", "error": {"code": "service_error", "message": "busy"}}
    generation = Generation.read({**answer, "usage": {"credits_used": 0.5}})
    record = before_post(IDENTITY.idempotency_key)
    failed = record.ended("failed", generation)
    assert (failed.phase, failed.evolink_task_id, failed.failure) == ("failed", TASK, "service_error")
    assert failed.charged == generation.usage.credits_used
    delivered = record.ended("delivered", generation)
    assert (delivered.phase, delivered.failure, delivered.charged) == ("delivered", "", None)
    expired = record.ended("failed", Generation.read({"id": TASK, "status": "completed"}))
    assert (expired.phase, expired.failure) == ("failed", "")


@pytest.mark.parametrize("damaged", ["junk", 5, [], {"v": 1}, {"v": 2, "phase": "submitted"}])
def test_damaged_record_is_none_only_where_the_key_protects(damaged: object) -> None:
    assert keeper_of(damaged).read() is None
    assert keeper_of(damaged).read(required=True) is None
    with pytest.raises(UnrepeatableSubmissionError, match="damaged"):
        keeper_of(damaged).read(key_protects=False)


def test_store_that_fails_is_an_error_only_where_going_on_could_pay_twice() -> None:
    class Failing(Store):
        def get(self, key: str, default: Any = None) -> Any:
            raise OSError("away")

        def set(self, key: str, value: Any) -> None:
            raise OSError("away")

    keeper = RecordKeeper(TaskStateRecords(Failing()), LOG)
    record = before_post(IDENTITY.idempotency_key)
    assert keeper.read() is None
    keeper.keep(record)
    for step in (lambda: keeper.read(required=True), lambda: keeper.keep(record, required=True)):
        with pytest.raises(EvoImageError) as caught:
            step()
        assert caught.value.retryable


@pytest.mark.parametrize("phase", ["failed", "delivered"])
def test_phase_is_marked_for_the_recorded_generation_alone(phase: Any) -> None:
    store = Store(replace(before_post(IDENTITY.idempotency_key), evolink_task_id=TASK).to_json())
    keeper = RecordKeeper(TaskStateRecords(store), LOG)
    keeper.mark(phase, Generation.read({"id": f"{TASK}x", "status": "completed"}))
    assert store.rows[STATE_KEY]["phase"] == "submitting"
    keeper.mark(phase, Generation.read({"id": TASK, "status": "completed"}))
    assert store.rows[STATE_KEY]["phase"] == phase


def test_generation_is_forgotten_once_its_links_are_dead_in_any_case() -> None:
    record = replace(
        before_post(IDENTITY.idempotency_key),
        phase="submitted",
        evolink_task_id=TASK,
        posted_at=0.0,
        retryable=True,
    )
    keeper = keeper_of(record.to_json())
    assert not keeper.forget_if_old(TASK, OUTLIVED_SECONDS)
    assert not keeper.forget_if_old(f"{TASK}x", OUTLIVED_SECONDS + 1)
    assert keeper.forget_if_old(TASK, OUTLIVED_SECONDS + 1)
    kept = keeper.read()
    assert kept is not None
    assert (kept.phase, kept.retryable) == ("failed", False)


@pytest.mark.parametrize(
    ("charged", "reserved", "most", "spent"),
    [
        (2.0, 5.0, 7.0, 3.0),
        (None, 5.0, 4.0, 6.0),
        (None, None, 4.0, 5.0),
        (None, None, None, 1.0),
        (-3.0, None, None, 1.0),
    ],
)
def test_spending_before_another_key_is_what_earlier_generations_cost_or_may_cost(
    charged: float | None, reserved: float | None, most: float | None, spent: float
) -> None:
    record = replace(
        before_post(IDENTITY.idempotency_key),
        charged=charged,
        credits_reserved=reserved,
        most=most,
        spent_before=1.0,
    )
    assert record.spent_before_key(record.key) == 1.0
    assert record.spent_before_key("another") == spent
    assert replace(record, phase="delivered").spent_before_key("another") == 0.0
