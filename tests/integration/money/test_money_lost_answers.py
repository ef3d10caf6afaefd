"""Failing stores and lost answers: what is not known is never paid for twice."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    EvoLinkUnavailableError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    InvalidRequestError,
    OutcomeUnknownError,
    RateLimitError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.fake_time import FakeTime
from tests.integration.money.crashes import crash, only_id, paid
from tests.integration.task_driver import StateStore, TaskRun, first_leg, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


# What a failing store or Airflow does


@pytest.mark.parametrize("nth", [1, 2])
def test_store_that_fails_to_write_is_a_warning_and_the_key_protects(
    evolink: SimulatorServer, store: StateStore, log_lines: list[Any], nth: int
) -> None:
    calls = {"before set": 0}

    def fail(moment: str) -> None:
        if moment in calls:
            calls[moment] += 1
            if calls[moment] == nth:
                raise ConnectionError("the API server is away")

    store.on = fail
    task = TaskRun(generate(), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    assert any("cannot be written" in line["event"] for line in log_lines)
    task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize("moment", ["before get", "before set"])
def test_ignored_keys_need_the_store_before_anything_is_sent(
    evolink: SimulatorServer, store: StateStore, airflow_connection: Any, moment: str
) -> None:
    airflow_connection(idempotency="ignored")

    def fail(here: str) -> None:
        if here == moment:
            raise ConnectionError("the API server is away")

    store.on = fail
    with pytest.raises(EvoImageError, match="Nothing was submitted") as failed:
        TaskRun(generate(), store=store).start()
    assert failed.value.retryable
    assert evolink.state.counters.submissions == 0


# Answers that were lost


@pytest.mark.parametrize(
    "word", ["[[cut:after]]", "[[status-after:502]]", "[[junk-after]]", "[[cut:before]]"]
)
def test_lost_answer_is_settled_within_the_try(
    evolink: SimulatorServer, maybe_store: StateStore | None, word: str
) -> None:
    manifest = TaskRun(generate(prompt=f"a red fox {word}"), store=maybe_store).run()
    assert paid(evolink) == 1
    assert manifest["evolink_task_id"] == only_id(evolink)


def test_answer_lost_twice_is_settled_by_the_retry(
    evolink: SimulatorServer, maybe_store: StateStore | None
) -> None:
    task = TaskRun(generate(prompt="a red fox [[cut:after times=2]]"), store=maybe_store)
    with pytest.raises(OutcomeUnknownError):
        task.run()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


@pytest.mark.parametrize("trusted", ["trusted", "ignored"])
def test_request_that_was_certainly_refused_can_be_asked_again_by_the_retry(
    evolink: SimulatorServer, store: StateStore, airflow_connection: Any, trusted: str
) -> None:
    airflow_connection(idempotency=trusted)
    fault = Fault("status", 429)
    evolink.state.faults.post("submit", fault)
    task = TaskRun(generate(), store=store)
    with pytest.raises(RateLimitError, match=r"Billed: no\."):
        task.run()
    evolink.state.faults.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)


@pytest.mark.parametrize("trusted", ["trusted", "ignored"])
def test_account_topped_up_after_the_weekend_goes_on_by_a_clear(
    evolink: SimulatorServer,
    store: StateStore,
    airflow_connection: Any,
    fake_time: FakeTime,
    trusted: str,
) -> None:
    airflow_connection(idempotency=trusted)
    evolink.state.configure({"credits": 0})
    task = TaskRun(generate(), store=store)
    with pytest.raises(InsufficientCreditsError, match=r"Billed: no\."):
        task.run_with_retries()
    evolink.state.configure({"credits": 1000})
    fake_time.advance(3 * 86_400)
    task.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)


def test_refusal_does_not_make_an_earlier_unknown_outcome_forgotten(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=5, store=store)
    crash(task, "after POST", monkeypatch)
    key = store.record["key"]
    evolink.state.faults.post("submit", Fault("status", 402, times=1))
    with pytest.raises(InsufficientCreditsError):
        task.run()
    assert (store.record["phase"], store.record["key"]) == ("submitting", key)
    task.clear()
    task.run()
    assert paid(evolink) == 1


def test_key_older_than_evolink_remembers_is_never_asked_again(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    crash(task, "after POST", monkeypatch)
    fake_time.advance(23 * 3600 + 60)
    with pytest.raises(UnrepeatableSubmissionError):
        task.run()
    assert evolink.state.counters.submissions == 1


def test_changed_signature_without_a_record_is_a_conflict_never_a_second_payment(
    evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = "https://bucket.s3.amazonaws.com/a.png?X-Amz-Date={0}&X-Amz-Signature={0}"
    task = TaskRun(generate(image_urls=[link.format(1)]), store=None)
    crash(task, "after POST", monkeypatch)
    task.make = generate(image_urls=[link.format(2)])
    with pytest.raises(IdempotencyConflictError, match="EvoImageSaveOperator"):
        task.run()
    assert paid(evolink) == 1


def test_changed_signature_of_a_reference_resumes_the_recorded_generation(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = "https://bucket.s3.amazonaws.com/a.png?X-Amz-Date={0}&X-Amz-Signature={0}"
    task = TaskRun(generate(image_urls=[link.format(1)]), store=store)
    crash(task, "before defer", monkeypatch)
    task.make = generate(image_urls=[link.format(2)])
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert evolink.state.counters.submissions == 1


def test_rotated_key_is_no_new_request(
    evolink: SimulatorServer,
    maybe_store: StateStore | None,
    airflow_connection: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TaskRun(generate(), store=maybe_store)
    crash(task, "before defer", monkeypatch)
    airflow_connection(api_key="sk-evo-the-next-key")
    task.run()
    assert paid(evolink) == 1


def test_changed_prompt_that_is_to_be_submitted_warns_with_the_earlier_id(
    evolink: SimulatorServer, store: StateStore, log_lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    crash(task, "before defer", monkeypatch)
    earlier = only_id(evolink)
    task.make = generate(prompt="a blue fox", on_change="submit")
    assert task.run()["evolink_task_id"] != earlier
    assert paid(evolink) == 2
    (warning,) = [line for line in log_lines if "paid for and not delivered" in line["event"]]
    assert warning["log_level"] == "warning"
    assert earlier in warning["event"]


def test_mapped_tasks_and_other_runs_are_requests_of_their_own(evolink: SimulatorServer) -> None:
    for index in range(3):
        TaskRun(generate(), store=StateStore(), map_index=index).run()
    TaskRun(generate(), store=StateStore(), run_id="another").run()
    assert paid(evolink) == 4


UNKNOWN_ONCE = Fault("status", 404, code="task_not_found", times=1)


def test_generation_that_is_not_readable_at_once_after_a_lost_answer_is_waited_for(
    evolink: SimulatorServer, maybe_store: StateStore | None
) -> None:
    evolink.state.faults.post("task", UNKNOWN_ONCE)
    task = TaskRun(generate(prompt="a red fox [[cut:after]]"), store=maybe_store)
    assert task.run()["status"] == "completed"
    assert paid(evolink) == 1


@pytest.mark.parametrize("status", [502, 503])
def test_page_of_a_proxy_after_the_request_was_accepted_hides_no_payment(
    evolink: SimulatorServer, store: StateStore, status: int
) -> None:
    prompt = f"a red fox [[status-after:{status} times=100]]"
    task = TaskRun(generate(prompt=prompt, submit_timeout=5), retries=0, store=store)
    with pytest.raises(OutcomeUnknownError) as failed:
        task.run()
    assert failed.value.billed is None
    assert store.record["phase"] == "submitting"
    task.clear()
    with pytest.raises(OutcomeUnknownError):
        task.run()
    assert paid(evolink) == 1


def test_refusal_by_evolink_itself_is_certain(evolink: SimulatorServer, store: StateStore) -> None:
    with pytest.raises(EvoLinkUnavailableError) as failed:
        TaskRun(generate(prompt="a red fox [[http:503]]", submit_timeout=5), store=store).run()
    assert failed.value.billed is False
    assert not store.rows
    assert paid(evolink) == 0


def test_invalid_request_of_a_later_try_names_what_was_paid(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    first_leg(task)
    task.make = generate(quality="excellent")
    with pytest.raises(InvalidRequestError, match=only_id(evolink)) as failed:
        task.run()
    assert failed.value.billed is None
    assert "submitted before" in str(failed.value)
    assert paid(evolink) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403])
def test_refusal_on_the_second_try_does_not_say_that_nothing_was_billed(
    evolink: SimulatorServer, maybe_store: StateStore | None, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    task = TaskRun(generate(submit_timeout=5), retries=3, store=maybe_store)
    crash(task, "after POST", monkeypatch)
    evolink.state.faults.post("submit", Fault("status", status))
    with pytest.raises(EvoImageError, match="an earlier one may have been accepted") as caught:
        task.run()
    assert caught.value.billed is None
    evolink.state.faults.clear()
    if maybe_store is not None:
        task.clear()
        task.run()
        assert paid(evolink) == 1


def test_failed_generation_with_a_charge_is_billed() -> None:
    failed = {"id": "task-unified-1-abcdefgh", "status": "failed", "error": {"code": "service_error"}}
    assert Generation.read(failed).billed is False
    assert Generation.read(failed | {"usage": {"credits_used": 0}}).billed is False
    assert Generation.read(failed | {"usage": {"credits_used": 1.5}}).billed is True
