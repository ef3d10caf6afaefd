"""What a cleared task pays in all."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationLostError,
    GenerationNotFoundError,
    GenerationRefusedError,
    GenerationTimeoutError,
    SaveError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.fake_time import FakeTime
from tests.integration.money.crashes import STEPS, crash, paid
from tests.integration.task_driver import StateStore, TaskRun, generate, kept_keys

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


# Clears: how many generations are paid for in all

Before = Callable[[TaskRun, SimulatorServer, pytest.MonkeyPatch], None]


def deferred(task: TaskRun, *_: object) -> None:
    with pytest.raises(TaskDeferred):
        task.start()


def running(task: TaskRun, evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    del evolink
    crash(task, "after POST", monkeypatch)


def timed_out(task: TaskRun, *_: object) -> None:
    made = task.make

    def impatient() -> Any:
        operator = made()
        operator.timeout = 2.0
        return operator

    task.make = impatient
    with pytest.raises(GenerationTimeoutError):
        task.run()
    task.make = made


def save_failed(task: TaskRun, evolink: SimulatorServer, *_: object) -> None:
    evolink.state.faults.post("download", Fault("status", 503))
    with pytest.raises(SaveError):
        task.run()
    evolink.state.faults.clear()


def succeeded(task: TaskRun, *_: object) -> None:
    task.run()


def refused(task: TaskRun, *_: object) -> None:
    with pytest.raises(GenerationRefusedError):
        task.run_with_retries()


CLEARS: list[tuple[str, Before, dict[str, int]]] = [
    # Prompt, what the first try came to, and what is paid in all by on_clear.
    ("a red fox", deferred, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", running, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", timed_out, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", save_failed, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", succeeded, {"auto": 2, "regenerate": 2, "reuse": 1}),
    ("a red fox [[fail:invalid_parameters]]", refused, {"auto": 2, "regenerate": 2, "reuse": 2}),
]


@pytest.mark.parametrize("on_clear", ["auto", "regenerate", "reuse"])
@pytest.mark.parametrize(("prompt", "before", "in_all"), CLEARS, ids=[row[1].__name__ for row in CLEARS])
def test_cleared_task_pays_what_the_table_says(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    before: Before,
    in_all: dict[str, int],
    on_clear: str,
) -> None:
    task = TaskRun(generate(prompt=prompt, on_clear=on_clear, save_to=str(tmp_path)), store=store)
    with kept_keys(evolink) as keys:
        before(task, evolink, monkeypatch)
        task.clear()
        try:
            manifest = task.run()
        except GenerationRefusedError:
            assert "fail" in prompt
        else:
            assert manifest["evolink_task_id"] == list(evolink.state.generations)[-1]
    assert paid(evolink) == len(keys) == in_all[on_clear]
    # And whatever the clear did, the try after it pays nothing more.
    if "fail" not in prompt:
        task.run()
    assert paid(evolink) == in_all[on_clear]


@pytest.mark.parametrize("on_clear", ["auto", "regenerate", "reuse"])
def test_cleared_task_always_asks_anew_before_airflow_3_3(evolink: SimulatorServer, on_clear: str) -> None:
    task = TaskRun(generate(on_clear=on_clear))
    task.run()
    task.clear()
    task.run()
    assert paid(evolink) == 2


@pytest.mark.parametrize("on_clear", ["auto", "reuse"])
def test_crash_of_the_try_after_a_clear_pays_no_more(
    evolink: SimulatorServer, store: StateStore, on_clear: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(on_clear=on_clear), store=store)
    deferred(task)
    task.clear()
    crash(task, "before defer", monkeypatch)
    task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize("step", STEPS)
def test_crash_while_regenerating_after_a_clear_pays_two_in_all(
    evolink: SimulatorServer, store: StateStore, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    task.run()
    task.clear()
    crash(task, step, monkeypatch)
    manifest = task.run()
    assert paid(evolink) == 2
    assert manifest["evolink_task_id"] == list(evolink.state.generations)[-1]


def test_editing_retries_between_tries_is_no_clear(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=2, store=store)
    crash(task, "after POST", monkeypatch)
    task.retries = 7
    task.run()
    assert paid(evolink) == 1


NO_WAIT: list[tuple[str, float, dict[str, int]]] = [
    # Prompt, seconds until the clear, and what is paid in all by on_clear.
    ("a red fox", 0, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", 600, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", 25 * 3600, {"auto": 2, "regenerate": 2, "reuse": 2}),
    ("a red fox [[fail:content_policy_violation]]", 600, {"auto": 2, "regenerate": 2, "reuse": 2}),
]


@pytest.mark.parametrize(
    ("prompt", "later", "on_clear", "expected"),
    [(prompt, later, on_clear, count) for prompt, later, by in NO_WAIT for on_clear, count in by.items()],
)
def test_task_that_did_not_wait_hands_over_the_same_generation_while_anything_can_come_of_it(
    evolink: SimulatorServer,
    store: StateStore,
    fake_time: FakeTime,
    prompt: str,
    later: float,
    on_clear: str,
    expected: int,
    log_lines: list[Any],
) -> None:
    task = TaskRun(generate(prompt=prompt, wait_for_completion=False, on_clear=on_clear), store=store)
    manifest = task.run()
    assert manifest["status"] == "pending"
    assert task.run()["evolink_task_id"] == manifest["evolink_task_id"]
    fake_time.advance(later)
    task.clear()
    again = task.run()
    assert (again["evolink_task_id"] == manifest["evolink_task_id"]) == (expected == 1)
    assert again["request"]["prompt"] == prompt
    assert paid(evolink) == expected
    if on_clear != "regenerate":
        assert not any("paid for and not delivered" in str(line["event"]) for line in log_lines)


def away_at(store: StateStore, moment: str, nth: int = 1) -> None:
    """Let the API server be away at the nth of what Airflow's store is asked for."""
    calls = itertools.count(1)

    def fail(here: str) -> None:
        if here == moment and next(calls) == nth:
            raise ConnectionError("the API server is away")

    store.on = fail


def test_record_that_cannot_be_read_after_a_clear_pays_nothing(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    deferred(task)
    task.clear()
    away_at(store, "before get")
    with pytest.raises(EvoImageError, match="a retry tries again") as failed:
        task.run()
    assert failed.value.retryable
    task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize("hours", [1, 26])
def test_record_whose_second_half_was_lost_is_mended_when_the_images_are_delivered(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime, hours: int
) -> None:
    away_at(store, "before set", 2)
    task = TaskRun(generate(), store=store)
    first = task.run()
    assert store.record["phase"] == "delivered"
    assert store.record["evolink_task_id"] == first["evolink_task_id"]
    fake_time.advance(hours * 3600)
    task.clear()
    assert task.run()["evolink_task_id"] != first["evolink_task_id"]
    assert paid(evolink) == 2


def test_generation_that_evolink_has_forgotten_is_asked_for_anew_once_its_links_would_be_dead(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime
) -> None:
    task = TaskRun(generate(), retries=0, store=store)
    deferred(task)
    evolink.state.generations.clear()
    fake_time.advance(26 * 3600)
    # Accepted so late under its key, its images might still be there.
    task.clear()
    with pytest.raises(GenerationLostError, match="may be readable again later"):
        task.run()
    fake_time.advance(24 * 3600)
    task.clear()
    with pytest.raises(GenerationNotFoundError, match="clear the task to submit a new request"):
        task.run()
    task.clear()
    assert task.run()["status"] == "completed"


def test_dead_links_are_handed_on_with_a_warning_and_a_further_clear_asks_anew(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    task = TaskRun(generate(), store=store)
    deferred(task)
    fake_time.advance(25 * 3600)
    task.clear()
    first = task.run()
    assert any("died at" in line["event"] for line in log_lines)
    task.clear()
    assert task.run()["evolink_task_id"] != first["evolink_task_id"]
    assert paid(evolink) == 2
