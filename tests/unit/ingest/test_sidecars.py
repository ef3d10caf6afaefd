"""What is saved already: found by the sidecars, whatever they are called, and never taken for absent by mistake."""

from __future__ import annotations

import contextvars
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.ingest import sidecars
from airflow_provider_evoimage.ingest.account_list import ListedGeneration
from airflow_provider_evoimage.ingest.sidecars import generations_saved_below, sidecars_named
from airflow_provider_evoimage.storage.destination import Destination

SINCE = 1_790_000_000.0
WHOSE = contextvars.ContextVar("whose", default="nobody's")


def sidecar(folder: Path, name: str, evolink_task_id: object, *, written: float = SINCE) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"evolink_task_id": evolink_task_id}))
    os.utime(path, (written, written))


def saved(folder: Path, *candidates: str) -> set[str]:
    return generations_saved_below(Destination(str(folder)), candidates=candidates, since=SINCE)


def test_only_candidates_are_found_wherever_their_sidecars_lie(tmp_path: Path):
    sidecar(tmp_path, "a.json", "a")
    sidecar(tmp_path, "deep/er/b.json", "b")
    sidecar(tmp_path, "c.json", "c")
    sidecar(tmp_path, "odd.json", ["a"])
    (tmp_path / "text.json").write_text("{")
    assert saved(tmp_path, "a", "b", "d") == {"a", "b"}
    assert saved(tmp_path, "d") == set()


@pytest.mark.parametrize(("before", "is_found"), [(0, True), (3500, True), (3700, False)])
def test_clocks_may_differ_by_an_hour(tmp_path: Path, before: float, is_found: bool):
    sidecar(tmp_path, "a.json", "a", written=SINCE - before)
    assert saved(tmp_path, "a") == ({"a"} if is_found else set())


def test_larger_file_is_no_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sidecar(tmp_path, "a.json", "a")
    monkeypatch.setattr(sidecars, "_LARGEST_SIDECAR", (tmp_path / "a.json").stat().st_size - 1)
    assert saved(tmp_path, "a") == set()


def test_storage_that_fails_does_not_look_like_nothing_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise DestinationError("down")

    sidecar(tmp_path, "a.json", "a")
    monkeypatch.setattr(Destination, "read_json", fail)
    with pytest.raises(DestinationError):
        saved(tmp_path, "a")


class Folder:
    """Notes what is read, and whose context it is read in."""

    def __init__(self, files: int = 0) -> None:
        self.files, self.read = files, list[Any]()

    def json_files(self, **_: Any) -> Any:
        return iter([str(number) for number in range(self.files)])

    def read_json(self, name: str) -> Any:
        self.read.append(WHOSE.get())
        return {"evolink_task_id": name} if name else None


def test_threads_find_the_connections_of_the_task():
    WHOSE.set("the task's")
    folder: Any = Folder()
    assert sidecars_named(folder, ["a", "", "b"]) == [
        {"evolink_task_id": "a"},
        None,
        {"evolink_task_id": "b"},
    ]
    assert folder.read == ["the task's"] * 3


def test_reading_ends_once_all_are_found():
    folder: Any = Folder(1000)
    assert generations_saved_below(folder, candidates=["3", "150"], since=SINCE) == {"3", "150"}
    assert len(folder.read) == 200
    folder = Folder(450)
    assert generations_saved_below(folder, candidates=["3", "x"], since=SINCE) == {"3"}
    assert len(folder.read) == 450


def test_age_of_a_generation_is_that_of_evolinks_clock():
    created = datetime(2026, 11, 27, tzinfo=UTC)
    listed = ListedGeneration.of(Generation(evolink_task_id="a", model="m", created=created))
    assert (listed.evolink_task_id, listed.model, listed.created) == ("a", "m", created.timestamp())
    assert listed.age(created.timestamp() + 60) == 60
    assert ListedGeneration.of(Generation(evolink_task_id="a")).age(SINCE) == 0
