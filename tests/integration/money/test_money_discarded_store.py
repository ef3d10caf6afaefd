"""Airflow 3.4 discards the task state store when a task is cleared: what was paid is resumed from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.generation import record_file
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage.destination import Destination
from tests.integration.money.crashes import STEPS, crash, only_id, paid
from tests.integration.task_driver import StateStore, TaskRun, first_leg, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

RECORD = "campaign/scheduled__2026-05-01/draw.submission.json"


class DiscardedStore(StateStore):
    """The task state store of Airflow 3.4: with asynchronous methods, and empty after a clear."""

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)


def drawing(folder: Path, **arguments: Any) -> TaskRun:
    return TaskRun(generate(save_to=str(folder), **arguments), retries=2, store=DiscardedStore())


def clear(task: TaskRun) -> None:
    assert task.store is not None
    task.store.rows.clear()
    task.clear()


def test_cleared_task_that_waits_resumes_what_was_paid(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = drawing(tmp_path)
    first_leg(task)
    assert json.loads((tmp_path / RECORD).read_text())["evolink_task_id"] == only_id(evolink)
    clear(task)
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


def test_delivered_task_leaves_no_record_and_its_clear_is_a_new_purchase(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = drawing(tmp_path)
    first = task.run()
    assert not (tmp_path / RECORD).exists()
    clear(task)
    assert task.run()["evolink_task_id"] != first["evolink_task_id"]
    assert paid(evolink) == 2


@pytest.mark.parametrize("step", STEPS)
def test_task_that_is_killed_and_then_cleared_pays_once(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    task = drawing(tmp_path)
    crash(task, step, monkeypatch)
    clear(task)
    task.run()
    assert paid(evolink) == 1


def test_cleared_task_whose_storage_fails_submits_nothing(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = drawing(tmp_path)
    first_leg(task)
    clear(task)

    def refuse(self: Destination, name: str) -> str | None:
        raise self._failure(name, PermissionError("denied"))

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "read_text", refuse)
        with pytest.raises(EvoImageError, match="cannot be read") as caught:
            task.run()
        assert caught.value.retryable
    assert paid(evolink) == 1
    assert task.run()["evolink_task_id"] == only_id(evolink)


def test_storage_that_refuses_the_copy_ends_no_task(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = drawing(tmp_path)

    def refuse(self: Destination, local: Path, name: str, content_type: str) -> str:
        raise self._failure(name, PermissionError("denied"))

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "publish", refuse)
        deferred = first_leg(task)
    assert task.go_on(deferred)["images"]
    assert paid(evolink) == 1


def test_damaged_copy_is_like_none(evolink: SimulatorServer, tmp_path: Path) -> None:
    file = tmp_path / RECORD
    file.parent.mkdir(parents=True)
    file.write_text("{")
    drawing(tmp_path).run()
    assert paid(evolink) == 1


def test_no_file_is_written_where_the_store_outlasts_a_clear(tmp_path: Path, store: StateStore) -> None:
    first_leg(TaskRun(generate(save_to=str(tmp_path)), store=store))
    assert not list(tmp_path.rglob("*"))


def test_mapped_items_have_files_of_their_own(evolink: SimulatorServer, tmp_path: Path) -> None:
    for place in range(2):
        task = TaskRun(generate(save_to=str(tmp_path)), store=DiscardedStore(), map_index=place)
        first_leg(task)
    assert len(list(tmp_path.rglob("*.submission.json"))) == paid(evolink) == 2
    assert record_file.RECORD_NAME.endswith(".submission.{ext}")
