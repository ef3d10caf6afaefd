"""Airflow does not take what a task hands it: nothing that was paid for is lost, and nothing is paid twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.money.crashes import crash, only_id, paid
from tests.integration.task_driver import ResultRefusedError, StateStore, TaskRun, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def refuse_xcoms(task: TaskRun, *, after: int = 0) -> None:
    """Let Airflow refuse every XCom but the first ones."""
    pushes = 0

    def push(moment: str) -> None:
        nonlocal pushes
        pushes += moment == "before xcom_push"
        if pushes > after:
            raise ConnectionError("the XCom backend is away")

    task.ti.on = push


def test_xcom_that_cannot_be_written_before_the_post_stops_the_try_unpaid(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    refuse_xcoms(task)
    with pytest.raises(EvoImageError, match="the XCom backend is away") as raised:
        task.start()
    assert raised.value.retryable
    assert raised.value.billed is False
    assert paid(evolink) == 0
    task.ti.on = lambda moment: None
    task.run()
    assert paid(evolink) == 1


def test_xcom_that_cannot_be_written_keeps_no_image_from_its_folder(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store)
    refuse_xcoms(task)
    manifest = task.run()
    events = [str(line["event"]) for line in log_lines]
    warned = next(n for n, event in enumerate(events) if "cannot be written" in event)
    assert any(only_id(evolink) in str(line) for line in log_lines[:warned])
    assert paid(evolink) == 1
    assert Path(manifest["images"][0]["path"].removeprefix("file://")).exists()
    # The record has what the XCom could not keep.
    assert manifest["request"]["prompt"] == "a red fox"


@pytest.mark.parametrize("keeps_records", [True, False], ids=["3.3", "3.2"])
def test_xcom_that_cannot_be_written_after_the_post_is_a_warning_that_follows_the_id(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    keeps_records: bool,
    log_lines: list[dict[str, object]],
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store if keeps_records else None)
    refuse_xcoms(task, after=1)
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    events = [str(line["event"]) for line in log_lines]
    warned = next(n for n, event in enumerate(events) if "cannot be written" in event)
    assert any(only_id(evolink) in str(line) for line in log_lines[:warned])
    manifest = task.go_on(deferred.value)
    assert Path(manifest["images"][0]["path"].removeprefix("file://")).exists()
    assert manifest["request"]["prompt"] == "a red fox"
    assert paid(evolink) == 1


def test_retry_that_cannot_write_xcoms_delivers_what_was_paid(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store)
    crash(task, "before defer", monkeypatch)
    refuse_xcoms(task)
    assert task.run()["request"]["prompt"] == "a red fox"
    assert len(list(tmp_path.rglob("*.png"))) == paid(evolink) == 1


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("on_clear", ["auto", "reuse"])
def test_task_whose_result_airflow_refused_is_cleared_for_free(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, on_clear: str, waits: bool
) -> None:
    task = TaskRun(
        generate(save_to=str(tmp_path), on_clear=on_clear, wait_for_completion=waits), retries=1, store=store
    )
    task.result_is_refused = True
    with pytest.raises(ResultRefusedError):
        task.run_with_retries()
    assert task.ti.try_number == 2
    task.result_is_refused = False
    task.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_task_that_succeeded_makes_new_images_when_it_is_cleared(
    evolink: SimulatorServer, store: StateStore
) -> None:
    calls: list[object] = []
    task = TaskRun(generate(on_success_callback=calls.append), store=store)
    task.run()
    assert store.record["phase"] == "delivered"
    assert calls == [task.context]
    task.clear()
    task.run()
    assert paid(evolink) == 2


def test_delivery_that_cannot_be_recorded_fails_nothing_and_a_clear_pays_nothing(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    with pytest.raises(TaskDeferred) as deferred:
        task.start()

    def away(moment: str) -> None:
        raise ConnectionError(f"the API server is away ({moment})")

    store.on = away
    manifest = task.go_on(deferred.value)
    store.on = lambda moment: None
    task.clear()
    assert task.run()["evolink_task_id"] == manifest["evolink_task_id"]
    assert paid(evolink) == 1
