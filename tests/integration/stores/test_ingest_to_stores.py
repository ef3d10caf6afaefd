"""What is saved in a store is found there again: by its name, and by sidecars anywhere below a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.operators.ingest import EvoImageIngestOperator
from airflow_provider_evoimage.storage.destination import Destination
from tests.integration.stores.store_servers import RunningStore
from tests.integration.task_driver import TaskRun, generate

pytestmark = pytest.mark.usefixtures("airflow_connection")

LARGEST = 100_000


def write(destination: Destination, name: str, tmp_path: Path, content: str = "{}") -> None:
    local = tmp_path / "local.json"
    local.write_text(content)
    destination.publish(local, name, "application/json")


def test_json_files_are_named_wherever_they_lie(store: RunningStore, folder: str, tmp_path: Path) -> None:
    destination = Destination(f"{store.root}/{folder}")
    names = ["a.json", "run one/b.json", "run one/deeper/[c].json", "ü/d.json"]
    for name in [*names, "run one/image.png", ".hidden.json", "run one/.a.saving.json"]:
        write(destination, name, tmp_path)
    write(destination, "large.json", tmp_path, "x" * (LARGEST + 1))

    assert sorted(destination.json_files(since=time.time() - 3600, largest=LARGEST)) == sorted(names)
    # The stores say when a file was written.
    assert list(destination.json_files(since=time.time() + 3600, largest=LARGEST)) == []
    assert [destination.read_json(name) for name in names] == [{}] * len(names)
    # Of a listing that the process has seen before nothing is kept.
    write(destination, "run one/later.json", tmp_path)
    assert "run one/later.json" in set(destination.json_files(since=0, largest=LARGEST))


def test_folder_that_is_absent_has_no_files(store: RunningStore, folder: str) -> None:
    assert list(Destination(f"{store.root}/{folder}/absent").json_files(since=0, largest=LARGEST)) == []


def test_account_is_saved_once_and_without_what_own_tasks_saved(
    store: RunningStore, folder: str, finished: Callable[..., str], fake_time: Any
) -> None:
    own = TaskRun(generate(save_to=f"{store.root}/{folder}/own", n=2)).run()
    tasks = [finished("a poster"), finished("a banner", n=2)]
    fake_time.advance(2 * 3600)

    def run(run_id: str) -> dict[str, Any]:
        operator = EvoImageIngestOperator(
            task_id="ingest",
            save_to=f"{store.root}/{folder}/account",
            own_folders=[f"{store.root}/{folder}/own"],
        )
        return TaskRun(lambda: operator, run_id=run_id).run()

    first = run("one")
    names = store.names()
    second = run("two")
    assert (first["found"], first["saved"], first["own"], first["images"]) == (3, 2, 1, 3)
    assert sorted(first["evolink_task_ids"]) == sorted(tasks)
    assert own["evolink_task_id"] not in first["evolink_task_ids"]
    assert (second["found"], second["saved"], second["known"], second["own"]) == (3, 0, 2, 1)
    assert store.names() == names
