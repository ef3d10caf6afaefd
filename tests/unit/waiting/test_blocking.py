"""Waiting on a worker: which polls share a request, when there is enough to save, and what a refused key does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.protocol import MAX_IDS_PER_BATCH
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    EvoLinkUnreachableError,
    GenerationNotFoundError,
)
from airflow_provider_evoimage.waiting import blocking
from airflow_provider_evoimage.waiting.blocking import wait_on_worker
from airflow_provider_evoimage.waiting.polling import LAST_POLL_SECONDS, Wait

START = 1_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(blocking, "time", clock)
    monkeypatch.setattr(blocking, "metrics", SimpleNamespace(ids_read=lambda count: None))
    return clock


class Hook:
    """A generation ends so many seconds after the start; ``errors`` are raised by the first reads."""

    def __init__(self, clock: Clock, ends: dict[str, float], errors: Sequence[EvoImageError] = ()) -> None:
        self.clock, self.ends, self.errors = clock, ends, list(errors)
        self.reads: list[tuple[float, list[str]]] = []
        self.limits: list[float] = []
        self.reconnects = 0
        self.read_alone = 0
        self.unknown: set[str] = set()

    @contextmanager
    def reading_within(self, seconds: float) -> Iterator[None]:
        self.limits.append(seconds)
        yield

    def get_generation(self, evolink_task_id: str) -> Generation:
        self.read_alone += 1
        found = self.get_generations([evolink_task_id])
        if evolink_task_id not in found:
            raise GenerationNotFoundError("404", evolink_task_id=evolink_task_id)
        return found[evolink_task_id]

    def get_generations(self, evolink_task_ids: Sequence[str]) -> dict[str, Generation]:
        self.reads.append((self.clock.now - START, list(evolink_task_ids)))
        if self.errors:
            raise self.errors.pop(0)
        return {each: self._generation(each) for each in evolink_task_ids if each not in self.unknown}

    def reconnect(self) -> None:
        self.reconnects += 1

    def _generation(self, evolink_task_id: str) -> Generation:
        has_ended = self.clock.now - START >= self.ends[evolink_task_id]
        return Generation.read({"id": evolink_task_id, "status": "completed" if has_ended else "processing"})


def task(number: int) -> str:
    return f"task-unified-1757156400-{number:08}"


def waited(hook: Hook, *, poll_interval: float = 10.0, deadline: float = 600.0, **arguments: Any) -> Any:
    waits = [
        Wait(evolink_task_id=each, deadline=START + deadline, poll_interval=poll_interval, was_accepted=True)
        for each in hook.ends
    ]
    return wait_on_worker(hook, waits, logging.getLogger(__name__), **arguments)  # type: ignore[arg-type]


def hook_of(clock: Clock, *ends: float, **arguments: Any) -> Hook:
    return Hook(clock, {task(number): end for number, end in enumerate(ends)}, **arguments)


def test_all_are_waited_for_without_a_number_to_save(clock: Clock) -> None:
    hook = hook_of(clock, 5, 100, 200)
    event = waited(hook)
    assert (dict(event.endings), event.waiting) == (dict.fromkeys(hook.ends, "completed"), 0)
    assert clock.now - START >= 200


@pytest.mark.parametrize(("save_every", "ended"), [(1, 1), (2, 2), (3, 3)])
def test_wait_returns_as_soon_as_enough_have_ended(clock: Clock, save_every: int, ended: int) -> None:
    hook = hook_of(clock, 5, 100, 200)
    event = waited(hook, save_every=save_every, save_after=10_000.0)
    assert (len(event.endings), event.waiting) == (ended, 3 - ended)


def test_wait_reads_all_once_before_it_returns_with_enough(clock: Clock) -> None:
    count = 3 * MAX_IDS_PER_BATCH
    event = waited(hook_of(clock, *[0.0] * count), save_every=1, save_after=10_000.0, poll_interval=2.0)
    assert len(event.endings) == count


@pytest.mark.parametrize(("is_resumed", "waited_for"), [(True, 0.0), (False, 30.0)])
def test_resumed_wait_polls_at_once(clock: Clock, is_resumed: bool, waited_for: float) -> None:
    hook = hook_of(clock, 0)
    waited(hook, poll_interval=30.0, is_resumed=is_resumed)
    ((at, _),) = hook.reads
    assert waited_for <= at <= waited_for * 1.3


def test_wait_returns_some_time_after_the_first_has_ended(clock: Clock) -> None:
    hook = hook_of(clock, 45, 100, 200)
    event = waited(hook, save_every=3, save_after=100.0)
    assert len(event.endings) == 2
    assert 145 <= clock.now - START < 180


def test_time_to_save_runs_from_the_first_end_and_not_from_a_later_one(clock: Clock) -> None:
    hook = hook_of(clock, 5, 50, 95, 140, 400)
    waited(hook, save_every=5, save_after=100.0)
    assert clock.now - START < 140


def test_polls_that_are_due_together_share_a_request(clock: Clock) -> None:
    count = MAX_IDS_PER_BATCH + 10
    hook = hook_of(clock, *[1.0] * count)
    waited(hook, poll_interval=2.0)
    assert [len(ids) for _, ids in hook.reads] == [MAX_IDS_PER_BATCH, 10]


def test_polls_that_are_due_far_apart_share_none(clock: Clock) -> None:
    hook = hook_of(clock, 1, 1)
    waits = [
        Wait(evolink_task_id=each, deadline=START + 600, poll_interval=interval)
        for each, interval in zip(hook.ends, (10.0, 20.0), strict=True)
    ]
    wait_on_worker(hook, waits, logging.getLogger(__name__))  # type: ignore[arg-type]
    assert [ids for _, ids in hook.reads] == [[task(0)], [task(1)]]


def test_read_may_take_until_shortly_after_the_deadline(clock: Clock) -> None:
    hook = hook_of(clock, 1)
    waited(hook, poll_interval=10.0, deadline=100.0)
    ((at, _),) = hook.reads
    assert hook.limits == [pytest.approx(100.0 - at + LAST_POLL_SECONDS)]


def test_generation_that_goes_on_times_out_at_its_deadline(clock: Clock) -> None:
    hook = hook_of(clock, 10_000)
    event = waited(hook, deadline=60.0)
    assert (dict(event.endings), event.reason) == ({task(0): "timeout"}, "")
    assert 60 <= clock.now - START < 62


def refused() -> AuthenticationError:
    return AuthenticationError("refused")


@pytest.mark.parametrize(
    ("errors", "ending", "reconnects"),
    [
        ([refused], "completed", 1),
        ([refused, refused], "lost", 1),
        ([lambda: EvoLinkUnreachableError("away")], "completed", 0),
    ],
)
def test_connection_is_read_again_once_when_its_key_is_refused(
    clock: Clock, errors: list[Callable[[], EvoImageError]], ending: str, reconnects: int
) -> None:
    hook = hook_of(clock, 5, errors=[make() for make in errors])
    event = waited(hook)
    assert (dict(event.endings), hook.reconnects) == ({task(0): ending}, reconnects)
    assert event.reason == ("unauthorized" if ending == "lost" else "")


def test_key_that_is_refused_again_after_it_worked_is_read_again(clock: Clock) -> None:
    hook = hook_of(clock, 200, errors=[refused()])
    read, count = hook.get_generations, 0

    def sometimes(ids: Sequence[str]) -> dict[str, Generation]:
        nonlocal count
        count += 1
        if count == 4:
            hook.errors.append(refused())
        return read(ids)

    hook.get_generations = sometimes  # type: ignore[method-assign]
    event = waited(hook)
    assert (dict(event.endings), hook.reconnects) == ({task(0): "completed"}, 2)


def test_key_that_is_refused_again_after_an_outage_ends_the_wait(clock: Clock) -> None:
    hook = hook_of(clock, 100.0, errors=[refused(), EvoLinkUnreachableError("no route"), refused()])
    event = waited(hook)
    assert (dict(event.endings), event.reason) == ({task(0): "lost"}, "unauthorized")
    assert hook.reconnects == 1


def test_id_that_evolink_leaves_out_is_polled_again_while_the_others_end(clock: Clock) -> None:
    hook = hook_of(clock, 5, 5)
    hook.unknown = {task(1)}
    event = waited(hook, deadline=100.0)
    assert dict(event.endings) == {task(0): "completed", task(1): "timeout"}


def test_only_generation_that_is_due_is_read_alone_and_several_are_read_together(clock: Clock) -> None:
    hook = hook_of(clock, 5)
    waited(hook)
    assert hook.read_alone == len(hook.reads) == 1
    hook = Hook(clock, {task(1): 0, task(2): 0})
    waited(hook, poll_interval=0.1)
    assert (hook.read_alone, len(hook.reads)) == (0, 1)


def test_short_interval_is_kept(clock: Clock) -> None:
    hook = hook_of(clock, 2)
    waited(hook, poll_interval=0.5)
    assert len(hook.reads) >= 3


def test_last_poll_after_the_deadline_has_little_time(clock: Clock) -> None:
    hook = hook_of(clock, 0)
    waited(hook, deadline=-10.0)
    assert hook.limits == [LAST_POLL_SECONDS]


def test_what_is_due_first_is_read_first_where_a_request_takes_no_more(clock: Clock) -> None:
    hook = hook_of(clock, *[1.0] * (3 * MAX_IDS_PER_BATCH))
    waited(hook)
    due = {
        each: Wait(evolink_task_id=each, deadline=START + 600, poll_interval=10.0).begin(START)[1].at
        for each in hook.ends
    }
    assert hook.reads[0][1] == sorted(due, key=due.__getitem__)[:MAX_IDS_PER_BATCH]


def test_each_change_of_status_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    waited(hook_of(clock, 100.0))
    assert [record.getMessage() for record in caplog.records] == [
        f"EvoLink task {task(0)}: processing.",
        f"EvoLink task {task(0)}: completed.",
    ]
