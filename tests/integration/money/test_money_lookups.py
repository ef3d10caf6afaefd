"""A paid generation cannot be looked up for a while: the connection, or the generation itself, is not found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import (
    BatchIncompleteError,
    ConnectionNotFoundError,
    DownloadError,
    EvoImageError,
    EvoLinkUnavailableError,
    GenerationLostError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.fake_time import FakeTime
from tests.integration.money.crashes import crash, only_id, paid
from tests.integration.task_driver import CONNECTION, StateStore, TaskRun, batch, first_leg, generate, save

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

NOT_FOUND = Fault("status", 404, code="task_not_found")


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let Airflow find no connection, as it says when its secrets backend fails; returns what brings it back."""
    connection = os.environ[CONNECTION]

    def lose() -> Any:
        monkeypatch.delenv(CONNECTION)
        return lambda: monkeypatch.setenv(CONNECTION, connection)

    return lose


@pytest.mark.parametrize("saves", [True, False])
def test_connection_that_is_not_found_after_the_wait_costs_a_retry_and_nothing_more(
    evolink: SimulatorServer, store: StateStore, away: Any, tmp_path: Path, saves: bool
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path) if saves else None), retries=3, store=store)
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    back = away()
    with pytest.raises(ConnectionNotFoundError, match="A retry resumes it") as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    assert caught.value.evolink_task_id == only_id(evolink)
    assert "Billed: no" not in str(caught.value)
    back()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_connection_that_is_not_found_as_a_paid_task_is_retried_names_what_was_paid(
    evolink: SimulatorServer, store: StateStore, away: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=3, store=store)
    crash(task, "before defer", monkeypatch)
    back = away()
    with pytest.raises(ConnectionNotFoundError) as caught:
        task.run()
    assert caught.value.retryable
    assert caught.value.evolink_task_id == only_id(evolink)
    back()
    task.run()
    assert paid(evolink) == 1


def test_connection_that_is_not_found_in_the_triggerer_ends_no_task_for_good(
    evolink: SimulatorServer, store: StateStore, away: Any
) -> None:
    task = TaskRun(generate(), retries=3, store=store)
    deferred = first_leg(task)
    back = away()
    event = task.wait_in_triggerer(task.stored(deferred))
    assert event["status"] == "lost"
    with pytest.raises(EvoImageError) as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    assert caught.value.evolink_task_id == only_id(evolink)
    back()
    assert task.run()["evolink_task_id"] == only_id(evolink)


def test_connection_that_is_not_found_as_a_batch_resumes_says_where_the_paid_ones_are(
    evolink: SimulatorServer, away: Any, tmp_path: Path
) -> None:
    task = TaskRun(batch(["a red fox", "a blue fox"], tmp_path), retries=3, store=StateStore())
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    back = away()
    with pytest.raises(ConnectionNotFoundError, match="batch manifest") as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    assert "Billed: no" not in str(caught.value)
    back()
    assert task.run()["saved"] == 2
    assert paid(evolink) == 2


def test_404_for_minutes_does_not_end_the_wait(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime
) -> None:
    task = TaskRun(generate(prompt="a red fox [[duration:30]]"), retries=0, store=store)
    deferred = first_leg(task)
    evolink.state.faults.post("task", NOT_FOUND)
    evolink.state.faults.post("batch", NOT_FOUND)
    begun = fake_time.passed
    event = task.wait_in_triggerer(task.stored(deferred))
    assert event["status"] == "lost"
    assert fake_time.passed - begun >= 600
    with pytest.raises(GenerationLostError, match="clearing the task, waits for it") as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    assert caught.value.evolink_task_id == only_id(evolink)
    evolink.state.faults.clear()
    task.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_batch_goes_on_after_404s_for_minutes(
    evolink: SimulatorServer, tmp_path: Path, fake_time: FakeTime
) -> None:
    del fake_time
    prompts = [f"a red fox {number} [[duration:30]]" for number in range(3)]
    task = TaskRun(batch(prompts, tmp_path), retries=3, store=StateStore())
    deferred = first_leg(task)
    evolink.state.faults.post("task", NOT_FOUND)
    evolink.state.faults.post("batch", NOT_FOUND)
    with pytest.raises(BatchIncompleteError):
        task.go_on(deferred)
    evolink.state.faults.clear()
    assert task.run()["saved"] == 3
    assert paid(evolink) == 3


HOURS_AHEAD = 30 * 3600


@pytest.mark.parametrize("status", [403, 404])
def test_links_that_are_refused_for_a_while_are_not_dead_because_the_clock_of_the_worker_is_ahead(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime, tmp_path: Path, status: int
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), retries=0, store=store)
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    fake_time.set_ahead(HOURS_AHEAD)
    evolink.state.faults.post("download", Fault("status", status))
    with pytest.raises(DownloadError) as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    evolink.state.faults.clear()
    task.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_links_that_are_refused_for_a_while_end_no_item_of_a_batch_because_the_clock_is_ahead(
    evolink: SimulatorServer, fake_time: FakeTime, tmp_path: Path
) -> None:
    task = TaskRun(batch(["a red fox", "a blue fox"], tmp_path), retries=0, store=StateStore())
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    fake_time.set_ahead(HOURS_AHEAD)
    evolink.state.faults.post("download", Fault("status", 403))
    with pytest.raises(BatchIncompleteError):
        task.resume(deferred, event)
    evolink.state.faults.clear()
    task.clear()
    assert task.run()["saved"] == 2
    assert paid(evolink) == 2


def test_delivered_task_that_is_cleared_in_doubt_resumes_by_evolinks_clock(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=0, store=store)
    crash(task, "before defer", monkeypatch)
    evolink.state.clock.advance(200)
    fake_time.set_ahead(HOURS_AHEAD)
    task.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


FIREWALL = Fault("status", 403, page=True)


@pytest.mark.parametrize("deferrable", [True, False])
def test_page_of_a_firewall_on_every_read_ends_no_task(
    evolink: SimulatorServer, store: StateStore, deferrable: bool
) -> None:
    task = TaskRun(generate(deferrable=deferrable), retries=2, store=store)
    evolink.state.faults.post("task", Fault("status", 403, page=True, times=9))
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_page_of_a_firewall_after_the_wait_costs_a_retry_and_nothing_more(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), retries=2, store=store)
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    evolink.state.faults.post("task", FIREWALL)
    with pytest.raises(EvoLinkUnavailableError, match="not one of EvoLink's own errors") as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    assert caught.value.evolink_task_id == only_id(evolink)
    evolink.state.faults.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_page_of_a_firewall_on_every_read_ends_no_batch(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(["a red fox", "a blue fox"], tmp_path), retries=2, store=StateStore())
    evolink.state.faults.post("task", Fault("status", 403, page=True, times=5))
    evolink.state.faults.post("batch", Fault("status", 403, page=True, times=5))
    assert task.run()["saved"] == 2
    assert paid(evolink) == 2


def test_page_of_a_firewall_as_a_save_reads_is_retried(evolink: SimulatorServer, tmp_path: Path) -> None:
    made = TaskRun(generate(), store=StateStore()).run()
    evolink.state.faults.post("task", FIREWALL)
    with pytest.raises(EvoImageError) as caught:
        TaskRun(save(made["evolink_task_id"], tmp_path), task_id="save").run()
    assert caught.value.retryable
    evolink.state.faults.clear()
    assert TaskRun(save(made["evolink_task_id"], tmp_path), task_id="save").run()["images"]
