"""Batches in doubt: lists, storages, keys and endpoints that fail half-way lose and pay nothing."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred
from PIL import Image

from airflow_provider_evoimage.batch.ledger import BatchLedger
from airflow_provider_evoimage.evolink import answers
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    DestinationError,
    EvoImageError,
    InsufficientCreditsError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.submission.budget import most_credits
from tests.integration.fake_time import FakeTime
from tests.integration.money.batches import die_at, lines, run_until_it_lives
from tests.integration.money.crashes import paid
from tests.integration.task_driver import (
    CONNECTION,
    Killed,
    StateStore,
    TaskRun,
    batch,
    connection,
    first_leg,
)

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def prompts(count: int) -> list[str]:
    return [f"a poster {number}" for number in range(count)]


def states(folder: Path) -> Counter[str]:
    return Counter(line["state"] for line in lines(folder))


def images_in(folder: Path) -> int:
    return len(list(folder.rglob("*.png")))


# What was perhaps paid


def test_lost_answer_is_no_failure_that_a_batch_may_accept(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch([*prompts(2), "a mug [[cut:after times=2]]"], tmp_path), retries=0)
    with pytest.raises(BatchIncompleteError, match="1 of 3 items"):
        task.run()
    task.clear()
    assert task.run()["saved"] == 3
    assert paid(evolink) == 3


def test_proxy_that_is_away_stops_the_submitting(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.faults.post("submit", Fault("status-after", 503))
    task = TaskRun(batch(prompts(30), tmp_path, parallel=2, submit_timeout=5), retries=0)
    with pytest.raises(BatchIncompleteError):
        task.run()
    assert states(tmp_path)["left out"] >= 28
    evolink.state.faults.clear()
    task.clear()
    assert task.run()["saved"] == 30
    assert paid(evolink) == 30


def test_key_that_is_disabled_half_way_is_asked_with_once_and_fails_the_batch(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(prompts(30), tmp_path, parallel=1, max_active_generations=3), retries=0)
    deferral = first_leg(task)
    before = evolink.state.counters.submissions
    evolink.state.faults.post("submit", Fault("status", 403, code="key_disabled"))
    with pytest.raises(BatchFailedError, match="27 of 30"):
        task.go_on(deferral)
    assert evolink.state.counters.submissions - before <= 1
    assert states(tmp_path) == {"saved": 3, "left out": 27}


def test_model_that_a_key_may_not_use_fails_its_own_items(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.faults.post("submit", Fault("status", 403, code="model_not_allowed", times=1))
    summary = TaskRun(batch(prompts(4), tmp_path, parallel=1), retries=0).run()
    assert (summary["saved"], summary["failed"], summary["left_out"]) == (3, 1, 0)


# What cannot be read or written any more


def test_list_that_cannot_be_read_by_a_later_try_strands_nothing(
    evolink: SimulatorServer, tmp_path: Path, store: StateStore
) -> None:
    reference = tmp_path / "reference.png"
    Image.new("RGB", (64, 64)).save(reference)
    requests = [*prompts(2), {"prompt": "a mug", "image_urls": [str(reference)]}]
    task = TaskRun(batch(requests, tmp_path / "out"), store=store)
    first_leg(task)
    reference.unlink()
    assert task.run()["saved"] == 3
    assert (paid(evolink), images_in(tmp_path / "out")) == (3, 3)


def test_list_that_cannot_be_read_leaves_out_what_was_not_asked_for(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(prompts(5), tmp_path, max_active_generations=2), retries=0)
    first_leg(task)
    task.make = batch(str(tmp_path / "gone.jsonl"), tmp_path, max_active_generations=2)
    with pytest.raises(BatchIncompleteError, match="3 of 5 items"):
        task.run()
    assert states(tmp_path) == {"saved": 2, "left out": 3}
    assert paid(evolink) == 2


def test_list_that_is_not_there_fails_a_batch_that_has_nothing_yet(tmp_path: Path) -> None:
    with pytest.raises(EvoImageError, match=r"gone\.jsonl"):
        TaskRun(batch(str(tmp_path / "gone.jsonl"), tmp_path)).run()


def test_generations_of_removed_items_are_all_named(
    evolink: SimulatorServer, tmp_path: Path, log_lines: list[Any]
) -> None:
    task = TaskRun(batch(prompts(70), tmp_path))
    first_leg(task)
    task.make = batch(["another"], tmp_path)
    first_leg(task)
    text = " ".join(line["event"] for line in log_lines)
    gone = [key for key, each in evolink.state.generations.items() if each.order.prompt != "another"]
    assert len(gone) == 70
    assert all(each in text for each in gone)


def test_one_failing_write_with_ignored_keys_is_outlasted(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION, connection(evolink, idempotency="ignored"))
    evolink.state.settings.ignore_keys = True
    fail_writing(monkeypatch, {2, 3})
    assert TaskRun(batch(prompts(40), tmp_path)).run()["saved"] == 40
    assert paid(evolink) == 40


def test_storage_that_goes_on_failing_with_ignored_keys_names_what_it_does_not_know(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION, connection(evolink, idempotency="ignored"))
    evolink.state.settings.ignore_keys = True
    task = TaskRun(batch(prompts(40), tmp_path, parallel=4), retries=0)
    with monkeypatch.context() as patch:
        fail_writing(patch, set(range(3, 1000)))
        with pytest.raises(DestinationError) as failed:
            task.run()
    known = {line["evolink_task_id"] for line in lines(tmp_path)} - {None}
    unknown = set(evolink.state.generations) - known
    assert len(known) == len(unknown) == 4
    assert all(each in str(failed.value) for each in unknown)
    assert failed.value.billed is None
    # These alone are not asked for again.
    task.clear()
    with pytest.raises(BatchFailedError, match="4 of 40 items"):
        task.run()
    assert paid(evolink) == 40


def fail_writing(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """Let the storage refuse the ledger at these of its writings, counted from 1."""
    write, count = BatchLedger.write, iter(range(1, 10_000))

    def failing(ledger: BatchLedger, found: Any) -> None:
        if next(count) in numbers:
            raise DestinationError("the storage says slow down")
        write(ledger, found)

    monkeypatch.setattr(BatchLedger, "write", failing)


@pytest.mark.parametrize("at", [1, 5, 17])
def test_kill_with_ignored_keys_leaves_no_more_in_doubt_than_were_under_way(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setenv(CONNECTION, connection(evolink, idempotency="ignored"))
    evolink.state.settings.ignore_keys = True
    die_at("before POST", at, monkeypatch)
    task = TaskRun(batch(prompts(24), tmp_path, parallel=3), retries=0)
    with pytest.raises(Killed):
        task.run()
    task.clear()
    with pytest.raises(BatchFailedError):
        run_until_it_lives(task)
    assert states(tmp_path)["saved"] >= 21
    assert paid(evolink) <= 24


# What the account says


def test_balance_that_was_enough_is_not_asked_for_twice_after_a_crash(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = [ImageRequest.build(model="gpt-image-1", quality="low", prompt=each) for each in prompts(10)]
    evolink.state.configure({"credits": float(most_credits(requested)) + 0.5})
    die_at("after POST", 8, monkeypatch)
    task = TaskRun(batch(prompts(10), tmp_path, check_credits=True, parallel=1))
    assert run_until_it_lives(task)["saved"] == 10
    assert paid(evolink) == 10


def test_balance_that_is_too_low_by_now_stops_only_what_is_new(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(prompts(4), tmp_path, check_credits=True), retries=0)
    first_leg(task)
    evolink.state.configure({"credits": 0.5})
    task.make = batch(prompts(8), tmp_path, check_credits=True)
    with pytest.raises(BatchFailedError, match="4 of 8 items"):
        task.run()
    assert states(tmp_path) == {"saved": 4, "left out": 4}


def test_balance_that_is_too_low_at_first_asks_for_nothing(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.configure({"credits": 0.5})
    with pytest.raises(InsufficientCreditsError):
        TaskRun(batch(prompts(4), tmp_path, check_credits=True)).run()
    assert evolink.state.counters.submissions == 0


# The wait


def test_trigger_that_cannot_work_ends_the_try(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(batch(["a mug [[duration:100000]]", "a shoe"], tmp_path, timeout=3600), retries=0)
    deferral = first_leg(task)
    kept = os.environ[CONNECTION]
    monkeypatch.delenv(CONNECTION)
    event = task.wait_in_triggerer(task.stored(deferral))
    monkeypatch.setenv(CONNECTION, kept)
    evolink.state.clock.advance(600)
    with pytest.raises(BatchIncompleteError, match="1 of 2 items"):
        task.resume(deferral, event)
    assert images_in(tmp_path) == 1


def test_wake_while_evolink_is_away_goes_on_waiting(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(["a mug", "a shoe [[duration:900]]"], tmp_path, save_every=1), retries=0)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    for endpoint in ("task", "batch"):
        evolink.state.faults.post(endpoint, Fault("status", 502, times=12))
    with pytest.raises(TaskDeferred) as again:
        task.resume(deferral, event)
    evolink.state.faults.clear()
    assert task.go_on(again.value)["saved"] == 2


def test_evolink_that_is_away_at_the_deadline_ends_the_try(
    evolink: SimulatorServer, tmp_path: Path, fake_time: FakeTime
) -> None:
    task = TaskRun(batch(["a mug"], tmp_path, timeout=300), retries=0)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    fake_time.advance(400)
    evolink.state.faults.post("task", Fault("status", 502))
    with pytest.raises(EvoImageError) as failed:
        task.resume(deferral, event)
    assert failed.value.retryable


def test_event_without_the_deadline_goes_on(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(prompts(6), tmp_path, max_active_generations=2), retries=0)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    deferral.kwargs = None
    with pytest.raises(TaskDeferred) as again:
        task.resume(deferral, event)
    assert task.go_on(again.value)["saved"] == 6
    assert paid(evolink) == 6


def test_generations_that_evolink_has_forgotten_are_asked_for_anew_once_their_links_would_be_dead(
    evolink: SimulatorServer, tmp_path: Path, fake_time: FakeTime
) -> None:
    task = TaskRun(batch(prompts(2), tmp_path), retries=0)
    first_leg(task)
    evolink.state.generations.clear()
    for hours, kind in ((1, BatchIncompleteError), (48, BatchFailedError)):
        fake_time.advance(hours * 3600)
        task.clear()
        with pytest.raises(kind):
            task.run()
    task.clear()
    assert task.run()["saved"] == 2


# The limit of what it may cost


def limited(tmp_path: Path, requests: list[str], max_credits: float, **arguments: Any) -> TaskRun:
    return TaskRun(batch(requests, tmp_path, max_credits=max_credits, **arguments), retries=0)


def charged(evolink: SimulatorServer) -> float:
    return float(evolink.state.counters.credits_charged)


@pytest.mark.parametrize("untold", ["credits_used", "credits_reserved"])
def test_limit_holds_where_evolink_does_not_tell(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untold: str
) -> None:
    read = answers.Usage.read.__func__  # type: ignore[attr-defined]
    hidden = {untold, "cost"} if untold == "credits_used" else {untold}

    def less(cls: type, data: Any) -> Any:
        return read(cls, {name: value for name, value in (data or {}).items() if name not in hidden})

    monkeypatch.setattr(answers.Usage, "read", classmethod(less))
    slow = [f"a slow poster {number} [[duration:3000]]" for number in range(2)]
    task = limited(tmp_path, [*slow, *prompts(12)], 2.1, max_active_generations=3)
    with contextlib.suppress(BatchFailedError, BatchIncompleteError):
        task.run()
    assert 1 < charged(evolink) <= 2.1


@pytest.mark.parametrize("word", ["[[download:410]]", "[[expired]]"])
def test_limit_counts_what_was_charged_and_could_not_be_saved(
    evolink: SimulatorServer, tmp_path: Path, word: str
) -> None:
    requested = [f"{each} {word}" for each in prompts(12)]
    with pytest.raises((BatchFailedError, BatchIncompleteError)):
        limited(tmp_path, requested, 2.1, max_active_generations=1).run()
    assert 1 < charged(evolink) <= 2.1


def test_charge_of_a_generation_without_images_is_in_the_summary(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    summary = TaskRun(batch(["a mug", "a shoe [[results:0]]"], tmp_path), retries=0).run()
    assert (summary["saved"], summary["failed"]) == (1, 1)
    assert summary["credits"]["charged"] == pytest.approx(charged(evolink))


def test_limit_counts_what_may_have_been_paid(evolink: SimulatorServer, tmp_path: Path) -> None:
    requested = [text for each in prompts(8) for text in (f"{each} [[cut:after times=2]]", f"{each}, again")]
    with pytest.raises(BatchIncompleteError):
        limited(tmp_path, requested, 4.1, max_active_generations=1, parallel=1).run()
    evolink.state.clock.advance(1000)
    evolink.state.settle()
    assert 3 < charged(evolink) <= 4.1


def test_crash_under_a_limit_leaves_out_what_does_not_fit(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at("after POST", 4, monkeypatch)
    task = TaskRun(batch(prompts(20), tmp_path, parallel=1, max_credits=4))
    summary = run_until_it_lives(task)
    assert (summary["saved"], summary["failed"], summary["left_out"]) == (5, 0, 15)
    assert paid(evolink) == 5


def test_what_an_earlier_try_may_have_paid_goes_before_what_is_new(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at("after POST", 4, monkeypatch)
    task = TaskRun(batch(prompts(5), tmp_path, parallel=1, max_credits=4))
    with pytest.raises(Killed):
        task.run()
    task.make = batch(["a new one", "another", *prompts(5)], tmp_path, parallel=1, max_credits=4)
    summary = task.run()
    assert (summary["saved"], summary["left_out"]) == (5, 2)
    assert paid(evolink) == 5
