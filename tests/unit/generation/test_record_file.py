"""Where a record is kept: in Airflow's store, in a file, or in both, so that a clear or a retry never pays twice."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.generation.record_file import (
    RecordFile,
    StoreAndFile,
    discards_on_clear,
    keeper_of,
)
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.submission.record import DamagedRecordError, SubmissionRecord
from tests.unit.submission.test_decision import RECORD

LOG: Any = logging.getLogger(__name__)
MADE_BY = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 3}
NAME = "d/r/t-3.submission.json"


class Store(dict[str, Any]):
    """Airflow 3.3's store."""

    def set(self, key: str, value: Any, **_: Any) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


class DiscardedStore(Store):
    """Airflow 3.4's, which a clear empties."""

    async def aget(self, key: str) -> Any:
        return self.get(key)


def files(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


@pytest.mark.parametrize(
    ("store", "save_to", "may_change_model", "in_file"),
    [
        (None, True, False, False),
        (None, True, True, True),
        (None, False, True, False),
        (Store, True, False, False),
        (Store, True, True, False),
        (DiscardedStore, True, False, True),
        (DiscardedStore, False, True, False),
    ],
)
def test_file_is_written_where_airflow_would_forget(
    tmp_path: Path, store: Any, save_to: bool, may_change_model: bool, in_file: bool
):
    kept = None if store is None else store()
    keeper = keeper_of(
        {"task_state_store": kept} if store else {},
        save_to=str(tmp_path) if save_to else None,
        made_by=MADE_BY,
        log=LOG,
        may_change_model=may_change_model,
    )
    keeper.keep(RECORD)
    assert files(tmp_path) == ([NAME] if in_file else [])
    assert bool(kept) == (store is not None)
    assert keeper.has_store == (store is not None or in_file)
    if in_file:
        assert RecordFile(str(tmp_path), NAME).read() == RECORD


def test_store_that_is_discarded_is_told_by_its_methods():
    assert not discards_on_clear(Store())  # type: ignore[arg-type]
    assert discards_on_clear(DiscardedStore())  # type: ignore[arg-type]


def test_file_is_read_as_it_was_written_and_goes_with_the_delivery(tmp_path: Path):
    file = RecordFile(str(tmp_path), NAME)
    assert file.read() is None
    for record in (
        RECORD,
        replace(RECORD, phase="submitted", evolink_task_id="task-unified-1757156400-abcdefgh"),
    ):
        file.keep(record)
        assert file.read() == record
    file.keep(replace(RECORD, phase="delivered"))
    assert files(tmp_path) == []
    file.keep(RECORD)
    file.keep(None)
    assert files(tmp_path) == []
    # Without a file there is nothing to remove.
    file.keep(None)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"v": 1}', "[" * 100_000])
def test_file_that_holds_no_record_is_damaged_and_not_absent(tmp_path: Path, content: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DamagedRecordError):
        RecordFile(str(tmp_path), "a.json").read()


class Records:
    """Records in memory, which may fail."""

    def __init__(self, record: SubmissionRecord | None = None, error: Exception | None = None) -> None:
        self.record, self.error, self.kept = record, error, list[Any]()

    def read(self) -> SubmissionRecord | None:
        if self.error:
            raise self.error
        return self.record

    def keep(self, record: SubmissionRecord | None) -> None:
        if self.error:
            raise self.error
        self.kept.append(record)


OTHER = replace(RECORD, sequence=1)


def test_record_of_the_store_comes_first_and_that_of_the_file_after_a_clear():
    def both(store: Any, file: Any) -> StoreAndFile:
        return StoreAndFile(store, file, LOG)

    assert both(Records(RECORD), Records(OTHER)).read() == RECORD
    assert both(Records(RECORD), Records(error=DestinationError("down"))).read() == RECORD
    assert both(Records(), Records(OTHER)).read() == OTHER
    assert both(Records(), Records()).read() is None
    with pytest.raises(DestinationError):
        both(Records(), Records(error=DestinationError("down"))).read()


def test_copy_that_cannot_be_written_ends_no_task(caplog: pytest.LogCaptureFixture):
    store = Records()
    StoreAndFile(store, Records(error=DestinationError("down")), LOG).keep(RECORD)  # type: ignore[arg-type]
    assert store.kept == [RECORD]
    assert "cannot be written (down" in caplog.text
    file = Records()
    with pytest.raises(DestinationError):
        StoreAndFile(Records(error=DestinationError("down")), file, LOG).keep(RECORD)  # type: ignore[arg-type]
    assert file.kept == []
    StoreAndFile(store, file, LOG).keep(None)  # type: ignore[arg-type]
    assert (store.kept, file.kept) == ([RECORD, None], [None])


def test_storage_that_cannot_be_read_is_not_an_absent_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise DestinationError("down")

    monkeypatch.setattr(Destination, "read_text", fail)
    with pytest.raises(DestinationError):
        RecordFile(str(tmp_path), NAME).read()
