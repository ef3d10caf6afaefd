"""Coming back from the wait, once or twice, on time or late."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_evoimage.exceptions import (
    DestinationError,
    EvoImageError,
    GenerationLostError,
    GenerationTimeoutError,
    LinkExpiredError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.fake_time import FakeTime
from tests.integration.money.crashes import only_id, paid
from tests.integration.task_driver import StateStore, TaskRun, first_leg, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


# Coming back from the wait


def test_execute_complete_may_run_twice(evolink: SimulatorServer, store: StateStore, tmp_path: Path) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    once = task.resume(deferral, event)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert task.resume(deferral, event) == once
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert paid(evolink) == evolink.state.counters.submissions == 1
    assert evolink.state.counters.downloads == 1


def test_trigger_may_run_twice(evolink: SimulatorServer, store: StateStore) -> None:
    task = TaskRun(generate(), store=store)
    row = task.stored(first_leg(task))
    assert task.wait_in_triggerer(row) == task.wait_in_triggerer(row)
    assert evolink.state.counters.submissions == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_retry_after_a_timeout_goes_on_waiting_for_the_same_generation(
    evolink: SimulatorServer, maybe_store: StateStore | None, deferrable: bool, fake_time: FakeTime
) -> None:
    task = TaskRun(
        generate(prompt="a red fox [[duration:200]]", timeout=90, deferrable=deferrable), store=maybe_store
    )
    for _ in range(2):
        with pytest.raises(GenerationTimeoutError, match="submits nothing") as failed:
            task.run()
        assert failed.value.evolink_task_id == only_id(evolink)
        assert failed.value.billed is None
        assert failed.value.retryable
    assert fake_time.passed == pytest.approx(180, abs=5)
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [("Trigger timeout", GenerationTimeoutError), ("Trigger failure", EvoImageError)],
)
def test_deferral_that_airflow_ends_itself_names_the_generation(
    evolink: SimulatorServer, maybe_store: StateStore | None, message: str, kind: type[EvoImageError]
) -> None:
    task = TaskRun(generate(), store=maybe_store)
    deferral = first_leg(task)
    with pytest.raises(kind, match="submits nothing") as failed:
        task.resume_failed(deferral, message)
    assert failed.value.evolink_task_id == only_id(evolink)
    assert failed.value.retryable
    task.run()
    assert paid(evolink) == 1


def test_deferral_that_airflow_ends_itself_delivers_what_has_finished_meanwhile(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime
) -> None:
    task = TaskRun(generate(), store=store)
    deferral = first_leg(task)
    fake_time.advance(600)
    assert task.resume_failed(deferral, "Trigger timeout")["evolink_task_id"] == only_id(evolink)


def test_event_of_another_version_fails_without_losing_the_generation(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    deferral = first_leg(task)
    with pytest.raises(EvoImageError, match="submits nothing"):
        task.resume(deferral, {"v": 99, "status": "completed"})
    task.run()
    assert paid(evolink) == 1


def test_links_that_died_before_they_were_saved_say_what_is_lost(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, fake_time: FakeTime
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    fake_time.advance(25 * 3600)
    with pytest.raises(LinkExpiredError, match="save_to") as failed:
        task.resume(deferral, event)
    assert failed.value.evolink_task_id == only_id(evolink)
    assert failed.value.billed is True
    assert list(tmp_path.rglob("*.png")) == []
    # Nothing is left to go on with, so a clear asks anew.
    task.clear()
    task.run()
    assert paid(evolink) == 2


def test_generation_that_is_unknown_for_once_after_the_wait_is_collected_by_the_retry(
    evolink: SimulatorServer, maybe_store: StateStore | None
) -> None:
    task = TaskRun(generate(), store=maybe_store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    evolink.state.faults.post("task", Fault("status", 404, code="task_not_found", times=1))
    with pytest.raises(GenerationLostError, match="submits nothing") as failed:
        task.resume(deferral, event)
    assert failed.value.retryable
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_destination_that_broke_during_the_wait_names_the_paid_generation(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    task = TaskRun(generate(save_to=f"file://{tmp_path}"), store=store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    task.make = generate(save_to="nowhere://bucket/images")
    with pytest.raises(DestinationError) as failed:
        task.resume(deferral, event)
    assert failed.value.evolink_task_id == only_id(evolink)
    assert "A retry resumes it" in str(failed.value)
    task.make = generate(save_to=f"file://{tmp_path}")
    task.run()
    assert paid(evolink) == 1
