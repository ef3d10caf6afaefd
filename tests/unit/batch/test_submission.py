"""Submitting the items of a batch, without HTTP or storage; what is paid in all is held by the money tests."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.batch import submission
from airflow_provider_evoimage.batch.items import BatchItem
from airflow_provider_evoimage.batch.ledger import ItemError, LedgerLine
from airflow_provider_evoimage.batch.submission import (
    BatchSubmission,
    hold_earlier,
    progress_in_words,
    spent_before,
    spent_by,
)
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.protocol import Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    BudgetExceededError,
    DestinationError,
    EvoImageError,
    EvoLinkUnreachableError,
    InvalidRequestError,
    OutcomeUnknownError,
    RateLimitError,
    SupersededTryError,
)
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.submission.budget import Budget
from airflow_provider_evoimage.submission.identity import RequestIdentity, fingerprint
from airflow_provider_evoimage.submission.record import SubmissionRecord
from airflow_provider_evoimage.submission.submit import most_of
from airflow_provider_evoimage.version_compat import AirflowTaskTimeout

LOG: Any = logging.getLogger(__name__)


class Hook:
    """Accepts every request, but for prompts that ``refusals`` name."""

    evoimage_conn_id = "evoimage_default"

    def __init__(
        self,
        *,
        trusted: bool = True,
        refusals: dict[str, EvoImageError] | None = None,
        reserved: float | None = None,
    ) -> None:
        self.reserved = reserved
        account = SimpleNamespace(base_url="https://api.evolink.ai", api_key="key", trust_idempotency=trusted)
        self.settings = SimpleNamespace(account=account)
        self.refusals = refusals or {}
        self.accepted: list[str] = []

    def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
        del key, submit_timeout
        if request.prompt in self.refusals:
            raise self.refusals[request.prompt]
        self.accepted.append(request.prompt)
        usage = {"credits_reserved": self.reserved}
        body = {"id": task_of(request.prompt), "status": "pending", "usage": usage}
        return Submitted(generation=Generation.read(body), replayed=False)


class Ledger:
    """Takes so many writes, and then raises."""

    def __init__(self, writes: int = 1000, error: Exception | None = None) -> None:
        self.writes, self.error = writes, error

    def write(self, lines: Any) -> None:
        del lines
        self.writes -= 1
        if self.writes < 0:
            raise self.error or DestinationError("full")

    def write_if_possible(self, lines: Any, log: Any) -> None:
        """Write nothing."""

    def require_latest_try_after_pause(self) -> None:
        """No later try has taken over."""


def task_of(prompt: str) -> str:
    return f"task-unified-1757156400-{prompt.replace(' ', '-')}"


def item_of(prompt: str) -> BatchItem:
    request = ImageRequest.build(model="gpt-image-1.5", prompt=prompt, quality="low")
    return BatchItem(
        alt_text=None,
        position=0,
        name="",
        request=request,
        references=None,
        given={},
        fingerprint=fingerprint(request),
        occurrence=0,
    )


def identity_of(item: BatchItem) -> RequestIdentity:
    return RequestIdentity(
        namespace="", dag_id="a", run_id="r", task_id="t", epoch=0, fingerprint=item.fingerprint
    )


def batch_of(*prompts: str, hook: Hook, ledger: Ledger | None = None, **arguments: Any) -> Any:
    items = [item_of(prompt) for prompt in prompts]
    lines = {
        each.ledger_key: replace(LedgerLine.new(each, number), state="queued")
        for number, each in enumerate(items)
    }
    fields: dict[str, Any] = {
        "hook": hook,
        "ledger": ledger or Ledger(),
        "lines": lines,
        "identity_of": identity_of,
        "uploads_of": lambda item: None,
        "is_there": lambda line: True,
        "on_clear": "auto",
        "submit_timeout": 60.0,
        "budget": Budget(None),
        "log": LOG,
        "parallel": 1,
    }
    batch = BatchSubmission(**(fields | arguments))
    return batch, items, lambda: [batch.lines[each.ledger_key] for each in items]


def record(**fields: Any) -> SubmissionRecord:
    known: dict[str, Any] = {
        "key": "k" * 64,
        "fingerprint": "f",
        "epoch": 0,
        "asked_in": 0,
        "sequence": 0,
        "conn_id": "evoimage_default",
        "base_url": "https://api.evolink.ai",
        "posted_at": 1.0,
        "phase": "submitted",
        "evolink_task_id": task_of("a red fox"),
    }
    return SubmissionRecord(**(known | fields))


def line(**fields: Any) -> LedgerLine:
    requested = RequestSummary(request={}, images=1, estimate={"credits_high": 4.0})
    known: dict[str, Any] = {"item": 0, "position": 0, "name": "", "fingerprint": "f", "occurrence": 0}
    return LedgerLine(requested=requested, **(known | fields))


@pytest.mark.parametrize(
    ("fields", "by", "before"),
    [
        ({}, 2.0, 2.0),
        ({"record": record(spent_before=3.0, phase="delivered"), "charge": 5.0}, 2.0, 5.0),
        ({"record": record(spent_before=3.0)}, 9.0, 5.0),
        ({"record": record(spent_before=3.0, credits_reserved=7.0)}, 12.0, 5.0),
        ({"record": record(spent_before=3.0), "charge": 5.0}, 10.0, 5.0),
        ({"record": record(spent_before=3.0), "charge": -5.0}, 5.0, 5.0),
        ({"record": record(spent_before=3.0, charged=1.0), "state": "queued"}, 6.0, 5.0),
        ({"record": record(spent_before=3.0, charged=1.0), "state": "left out"}, 6.0, 5.0),
        ({"record": record(spent_before=3.0, charged=1.0), "state": "failed"}, 9.0, 5.0),
    ],
)
def test_line_has_cost_its_charge_or_the_most_it_may_cost_and_what_went_before(
    fields: dict[str, Any], by: float, before: float
) -> None:
    given = line(spent_on_gone=2.0, **fields)
    assert (spent_by(given), spent_before(given)) == (by, before)


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({}, 2),
        ({"record": record(spent_before=3.0)}, 9),
        ({"record": record(spent_before=3.0), "charge": 1.0}, 6),
        ({"charge": 1.0}, 3),
        ({"record": record(spent_before=3.0, charged=1.0), "state": "queued"}, 6),
        ({"record": record(spent_before=3.0, charged=1.0), "state": "left out"}, 6),
        ({"record": record(spent_before=3.0, evolink_task_id=None), "state": "left out"}, 9),
    ],
)
def test_budget_holds_what_earlier_tries_spent_or_may_have_spent(fields: dict[str, Any], held: int) -> None:
    budget = Budget(Decimal(100))
    hold_earlier(budget, [line(spent_on_gone=2.0, **fields)])
    assert budget.left == 100 - held


def test_every_line_after_one_without_a_present_generation_is_held_too() -> None:
    budget = Budget(Decimal(100))
    hold_earlier(
        budget,
        [
            line(record=record(charged=1.0), state="queued"),
            line(occurrence=1, record=record(), charge=2.0, state="failed"),
        ],
    )
    assert budget.left == 97


def test_progress_counts_items_by_state_and_sums_what_was_charged() -> None:
    lines = [
        line(state="left out"),
        line(state="waiting"),
        line(state="waiting", record=record()),
        line(state="failed", charge=1.5),
        line(state="saved", charge=2.0),
        line(state="saved"),
    ]
    expected = "2 saved, 1 failed, 1 waiting, 1 queued, 1 left out; 3.50 credits charged so far"
    assert progress_in_words(lines) == expected


def test_item_that_is_refused_fails_alone_with_its_reason() -> None:
    hook = Hook(refusals={"one": InvalidRequestError("bad size", billed=False)})
    budget = Budget(None)
    batch, items, lines = batch_of("one", "two", hook=hook, budget=budget)
    batch.ensure(items)
    assert [each.state for each in lines()] == ["failed", "waiting"]
    assert lines()[0].error.message == "bad size"
    assert budget.held == lines()[1].most_credits


@pytest.mark.parametrize(
    ("error", "states", "accepted"),
    [
        (AuthenticationError("key", billed=False), ["left out", "left out"], []),
        (AccessDeniedError("key", code="key_expired", billed=False), ["left out", "left out"], []),
        (AccessDeniedError("model", code="model_denied", billed=False), ["failed", "waiting"], ["two"]),
        (RateLimitError("slower", billed=False), ["left out", "left out"], []),
        (EvoLinkUnreachableError("away", billed=False), ["left out", "left out"], []),
        (EvoLinkUnreachableError("cut", billed=None), ["failed", "waiting"], ["two"]),
        (OutcomeUnknownError("proxy", http_status=503), ["failed", "left out"], []),
        (OutcomeUnknownError("proxy", http_status=502), ["failed", "waiting"], ["two"]),
    ],
)
def test_error_that_would_meet_every_item_stops_the_submitting(
    error: EvoImageError, states: list[str], accepted: list[str]
) -> None:
    hook = Hook(refusals={"one": error})
    batch, items, lines = batch_of("one", "two", hook=hook)
    batch.ensure(items)
    assert ([each.state for each in lines()], hook.accepted) == (states, accepted)


def test_item_over_the_rate_limit_stays_queued_while_others_are_under_way() -> None:
    hook = Hook(refusals={"two": RateLimitError("slower", billed=False)})
    batch, items, lines = batch_of("one", "two", "three", hook=hook)
    batch.ensure(items)
    assert [each.state for each in lines()] == ["waiting", "queued", "queued"]
    assert hook.accepted == ["one"]


@pytest.mark.parametrize(("most", "accepted"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3)])
def test_no_more_are_submitted_than_may_be_under_way(most: int, accepted: int) -> None:
    hook = Hook()
    batch, items, lines = batch_of("one", "two", "three", hook=hook, max_active=most)
    batch.ensure(items)
    assert len(hook.accepted) == accepted
    assert [each.state for each in lines()].count("queued") == 3 - accepted


@pytest.mark.parametrize(
    ("error", "trusted", "billed"),
    [
        (DestinationError("full"), True, False),
        (DestinationError("full"), False, False),
        (SupersededTryError("taken over", billed=False), True, False),
    ],
)
def test_ledger_that_cannot_be_written_at_first_leaves_all_queued_and_unpaid(
    monkeypatch: pytest.MonkeyPatch, error: EvoImageError, trusted: bool, billed: bool | None
) -> None:
    monkeypatch.setattr(submission, "LEDGER_ATTEMPTS", 1)
    hook = Hook(trusted=trusted)
    batch, items, lines = batch_of("one", "two", hook=hook, ledger=Ledger(0, error))
    with pytest.raises(type(error)) as caught:
        batch.ensure(items)
    assert (caught.value.billed, hook.accepted) == (billed, [])
    assert [(each.state, each.record) for each in lines()] == [("queued", None)] * 2


@pytest.mark.parametrize(("trusted", "named", "more"), [(True, 10, " and 2 more"), (False, 12, "")])
def test_error_names_the_paid_generations_that_the_ledger_lacks(
    monkeypatch: pytest.MonkeyPatch, trusted: bool, named: int, more: str
) -> None:
    monkeypatch.setattr(submission, "LEDGER_ATTEMPTS", 1)
    prompts = [f"fox {number:02}" for number in range(12)]
    # One write announces all of them; the next one would name the generations.
    batch, items, _ = batch_of(*prompts, hook=Hook(trusted=trusted), ledger=Ledger(1), parallel=12)
    with pytest.raises(DestinationError) as caught:
        batch.ensure(items)
    assert caught.value.billed is None
    ids = ", ".join(task_of(prompt) for prompt in prompts[:named])
    collect = "" if trusted else ": collect them with EvoImageSaveOperator"
    assert caught.value.on_retry.endswith(f" It does not name these{collect}: {ids}{more}.")
    assert ("submits the others again under the same keys" in caught.value.on_retry) is trusted


def test_generations_that_the_ledger_has_are_not_named_when_a_later_write_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submission, "LEDGER_ATTEMPTS", 1)
    hook = Hook(trusted=False)
    batch, items, lines = batch_of("one", "two", "three", hook=hook, ledger=Ledger(2), parallel=1)
    with pytest.raises(DestinationError) as caught:
        batch.ensure(items)
    assert hook.accepted == ["one", "two"]
    assert task_of("two") in caught.value.on_retry
    assert task_of("one") not in caught.value.on_retry
    assert [each.state for each in lines()] == ["waiting", "waiting", "queued"]


def test_storage_that_fails_for_a_while_is_outlasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)

    class Flaky(Ledger):
        def write(self, lines: Any) -> None:
            self.writes -= 1
            if self.writes >= 0:
                raise DestinationError("away")

    hook = Hook()
    batch, items, _ = batch_of("one", hook=hook, ledger=Flaky(submission.LEDGER_ATTEMPTS - 1))
    batch.ensure(items)
    assert hook.accepted == ["one"]


def test_refusal_before_the_first_new_item_leaves_all_unpaid() -> None:
    def refuse(items: Any) -> None:
        raise InvalidRequestError(f"no room for {len(items)}", billed=False)

    hook = Hook()
    batch, items, _ = batch_of("one", "two", hook=hook)
    with pytest.raises(InvalidRequestError, match="no room for 2"):
        batch.ensure(items, before_first=refuse)
    assert hook.accepted == []


MOST = most_of(item_of("one").request) or Decimal(0)


def sent(batch: Any, item: BatchItem, *, state: str = "waiting", **fields: Any) -> None:
    """Give an item the record of an earlier try."""
    identity = identity_of(item)
    known = {"key": identity.idempotency_key, "fingerprint": item.fingerprint, "posted_at": time.time() - 60}
    earlier = record(**(known | fields))
    batch.lines[item.ledger_key] = replace(batch.lines[item.ledger_key], state=state, record=earlier)


IN_DOUBT: dict[str, Any] = {"evolink_task_id": None, "phase": "submitting", "state": "queued"}


def test_item_that_an_earlier_try_submitted_is_waited_for_and_not_submitted() -> None:
    hook = Hook()
    batch, items, lines = batch_of("one", hook=hook)
    sent(batch, items[0], state="failed")
    batch.ensure(items)
    assert ([each.state for each in lines()], hook.accepted) == (["waiting"], [])


def test_failed_generation_stays_failed_with_its_error() -> None:
    batch, items, lines = batch_of("one", hook=Hook())
    sent(batch, items[0], state="failed", phase="failed")
    error = ItemError(code="refused", message="bad prompt", retryable=False)
    batch.lines[items[0].ledger_key] = replace(lines()[0], error=error)
    batch.ensure(items)
    assert (lines()[0].state, lines()[0].error) == ("failed", error)


@pytest.mark.parametrize(
    ("trusted", "fields"),
    [(False, {}), (True, {"base_url": "https://elsewhere.example"}), (True, {"conn_id": "another"})],
)
def test_item_whose_repetition_could_pay_twice_fails_with_the_reason(
    trusted: bool, fields: dict[str, Any]
) -> None:
    hook = Hook(trusted=trusted)
    batch, items, lines = batch_of("one", hook=hook)
    sent(batch, items[0], **IN_DOUBT, **fields)
    batch.ensure(items)
    assert hook.accepted == []
    assert (lines()[0].state, lines()[0].error.code) == ("failed", "UnrepeatableSubmissionError")


def test_item_in_doubt_is_repeated_first_and_keeps_the_time_of_its_first_post() -> None:
    hook = Hook()
    batch, items, lines = batch_of("one", "two", hook=hook)
    sent(batch, items[1], **IN_DOUBT)
    before = lines()[1].record
    batch.ensure(items)
    assert hook.accepted == ["two", "one"]
    after = lines()[1].record
    assert (after.key, after.posted_at, after.epoch) == (before.key, before.posted_at, 0)


def test_refusal_of_what_is_new_still_repeats_what_may_be_paid_for() -> None:
    def refuse(new: Any) -> None:
        raise BudgetExceededError(f"no room for {len(new)}", billed=False)

    hook = Hook()
    batch, items, lines = batch_of("one", "two", hook=hook)
    sent(batch, items[1], **IN_DOUBT)
    batch.ensure(items, before_first=refuse)
    assert hook.accepted == ["two"]
    assert [each.state for each in lines()] == ["left out", "waiting"]
    assert lines()[0].error.message == "no room for 1"


def test_item_in_doubt_that_is_left_out_says_that_it_may_be_paid_for() -> None:
    hook = Hook(refusals={"one": AuthenticationError("key", billed=False)})
    batch, items, lines = batch_of("one", "two", hook=hook)
    for each in items:
        sent(batch, each, **IN_DOUBT)
    batch.ensure(items)
    assert [each.state for each in lines()] == ["failed", "left out"]
    message = lines()[1].error.message
    assert message.startswith("An earlier try may have submitted this item")
    assert message.endswith(" key")


def test_what_earlier_tries_spent_counts_against_the_limit() -> None:
    for spent, accepted in [(MOST, ["two"]), (MOST + 1, [])]:
        hook = Hook()
        batch, items, _ = batch_of("one", "two", hook=hook, budget=Budget(MOST * 2))
        sent(batch, items[0], state="failed", phase="failed", charged=float(spent))
        first = batch.lines[items[0].ledger_key]
        batch.lines[items[0].ledger_key] = replace(first, charge=float(spent))
        batch.ensure(items)
        assert hook.accepted == accepted


def test_what_an_item_cost_before_its_new_submission_counts_against_the_limit() -> None:
    for spent, accepted in [(MOST, ["one"]), (MOST + 1, [])]:
        hook = Hook()
        batch, items, _ = batch_of("one", hook=hook, budget=Budget(MOST * 2))
        sent(batch, items[0], state="failed", phase="failed", retryable=True, charged=float(spent))
        batch.ensure(items)
        assert hook.accepted == accepted


@pytest.mark.parametrize(("limit", "writes"), [(None, 1), (MOST * 10, 2)])
def test_first_item_of_a_model_goes_alone_where_there_is_a_limit(limit: Decimal | None, writes: int) -> None:
    class Counting(Ledger):
        def write(self, lines: Any) -> None:
            groups.append(sum(each.record is not None for each in lines))

    groups: list[int] = []
    batch, items, _ = batch_of(
        "one", "two", "three", hook=Hook(reserved=float(MOST)), ledger=Counting(), budget=Budget(limit)
    )
    batch.ensure(items)
    # The last writing is the one after all submissions.
    assert groups == ([3] if limit is None else [1, 3]) + [3]
    assert len(groups) == writes + 1


def test_failed_generation_that_a_repetition_returns_leaves_no_room_for_another_one() -> None:
    class Failing(Hook):
        def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
            found = super().submit(request, key, submit_timeout=submit_timeout)
            return replace(found, replayed=True)

        def get_generation(self, evolink_task_id: str) -> Generation:
            error = {"code": "service_error"}
            usage = {"credits_used": float(MOST)}
            return Generation.read(
                {"id": evolink_task_id, "status": "failed", "error": error, "usage": usage}
            )

    hook = Failing()
    batch, items, lines = batch_of("one", hook=hook, budget=Budget(MOST))
    batch.ensure(items)
    assert hook.accepted == ["one"]
    assert lines()[0].error.code == "BudgetExceededError"


def test_each_line_is_held_under_a_name_of_its_own() -> None:
    budget = Budget(Decimal(100))
    hold_earlier(budget, [line(record=record(), charge=2.0), line(occurrence=1, record=record(), charge=5.0)])
    assert budget.left == 93


def test_no_more_are_sent_at_a_time_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Paired(Hook):
        def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
            threads.add(threading.get_ident())
            assert all_are_queued.wait(30)
            # Two are sent at the same time, or this breaks.
            pair.wait(30)
            return super().submit(request, key, submit_timeout=submit_timeout)

    def wait(futures: Any) -> Any:
        # Every thread that is allowed has started, as none has come to an end yet.
        all_are_queued.set()
        return wait_for_futures(futures)

    wait_for_futures = submission.wait
    monkeypatch.setattr(submission, "wait", wait)
    threads: set[int] = set()
    all_are_queued, pair, hook = threading.Event(), threading.Barrier(2), Paired()
    batch, items, _ = batch_of(*"abcdef", hook=hook, parallel=2)
    batch.ensure(items)
    assert (sorted(hook.accepted), len(threads)) == (list("abcdef"), 2)


def test_time_limit_of_the_task_starts_no_further_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blocking(Hook):
        def submit(self, request: ImageRequest, key: str, *, submit_timeout: float) -> Submitted:
            started.set()
            assert ends.wait(30)
            return super().submit(request, key, submit_timeout=submit_timeout)

    def time_is_up(futures: Any) -> None:
        assert started.wait(30)
        # The first request ends only after the others have been given up.
        threading.Timer(0.1, ends.set).start()
        raise AirflowTaskTimeout("execution_timeout")

    started, ends, hook = threading.Event(), threading.Event(), Blocking()
    monkeypatch.setattr(submission, "wait", time_is_up)
    batch, items, _ = batch_of("one", "two", "three", hook=hook)
    with pytest.raises(AirflowTaskTimeout):
        batch.ensure(items)
    assert hook.accepted == ["one"]


def test_item_in_doubt_whose_model_is_no_longer_listed_is_repeated_as_it_was_sent() -> None:
    """Under another identity it would be a new request, while the first one may be paid for."""
    hook = Hook()
    batch, items, lines = batch_of("one", hook=hook)
    earlier = replace(identity_of(items[0]), fingerprint="e" * 64)
    sent(batch, items[0], **IN_DOUBT, fingerprint="e" * 64, key=earlier.idempotency_key)
    batch.ensure(items)
    kept = lines()[0].record
    assert (kept.key, kept.fingerprint) == (earlier.idempotency_key, "e" * 64)
    assert (lines()[0].state, kept.phase) == ("waiting", "submitted")
