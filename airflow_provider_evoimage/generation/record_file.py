"""The record of a submission as a file below ``save_to``, where Airflow's own store does not keep it.

Below Airflow 3.3 there is no store, and of several models only a record says which may have been paid.
From Airflow 3.4 on, clearing a task discards its task state store unless the caller asks to keep it. A task that waits
for a paid generation would forget it then and submit a new request.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames, task_fields
from airflow_provider_evoimage.storage.progress import write_temporary
from airflow_provider_evoimage.submission.record import (
    DamagedRecordError,
    RecordKeeper,
    RecordStore,
    StateStore,
    SubmissionRecord,
    TaskStateRecords,
)

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

RECORD_NAME = "{dag_id}/{run_id}/{task_id}{map_suffix}.submission.{ext}"


def discards_on_clear(store: StateStore) -> bool:
    """Tell whether this Airflow's task state store is discarded on a clear: since 3.4, which also has async methods."""
    return hasattr(store, "aget")


def keeper_of(
    context: Mapping[str, Any],
    *,
    save_to: str | None,
    made_by: Mapping[str, Any],
    log: Logger,
    may_change_model: bool = False,
) -> RecordKeeper:
    """Return the keeper of a task's record: in its task state store, and in a file where a clear discards that one.

    :param save_to: the folder of the images, where the task has one; without it there is no file.
    :param may_change_model: whether other models may follow the first. Then the key alone protects no retry, and
        below Airflow 3.3 the record is in the file.
    """
    store = context.get("task_state_store")
    if save_to is None or (not may_change_model if store is None else not discards_on_clear(store)):
        return RecordKeeper.of_task(context, log)
    name = FileNames(RECORD_NAME).name({**task_fields(made_by), "ext": "json"})
    file = RecordFile(save_to, name)
    return RecordKeeper(file if store is None else StoreAndFile(TaskStateRecords(store), file, log), log)


class RecordFile:
    """One record as a file.

    :param name: below the destination.
    """

    def __init__(self, save_to: str, name: str) -> None:
        self._save_to = save_to
        self._name = name

    def read(self) -> SubmissionRecord | None:
        """Return the record; None where there is no file.

        :raises DamagedRecordError: when the file holds no record.
        :raises DestinationError: when the storage fails.
        """
        text = Destination(self._save_to).read_text(self._name)
        if text is None:
            return None
        try:
            record = SubmissionRecord.read(json.loads(text))
        except (ValueError, RecursionError):
            record = None
        if record is None:
            raise DamagedRecordError
        return record

    def keep(self, record: SubmissionRecord | None) -> None:
        """Write the record; remove the file once there is nothing left to resume.

        :raises DestinationError: when the storage refuses.
        """
        destination = Destination(self._save_to)
        if record is None or record.phase == "delivered":
            destination.remove(self._name)
            return
        with tempfile.TemporaryDirectory(prefix="evoimage-") as folder:
            local = Path(folder) / "submission.json"
            write_temporary(local, json.dumps(record.to_json()))
            destination.publish(local, self._name, "application/json")


class StoreAndFile:
    """The record in Airflow's task state store, and a copy in a file that a clear leaves alone.

    A storage that refuses the copy ends no task: retries read the store.
    """

    def __init__(self, store: RecordStore, file: RecordFile, log: Logger) -> None:
        self._store = store
        self._file = file
        self._log = log

    def read(self) -> SubmissionRecord | None:
        """Read the store's record, else the file's.

        :raises DestinationError: when the store has none and the storage fails, so that what was paid is unknown.
        """
        return self._store.read() or self._file.read()

    def keep(self, record: SubmissionRecord | None) -> None:
        """Write or delete both."""
        self._store.keep(record)
        try:
            self._file.keep(record)
        except DestinationError as error:
            self._log.warning(
                "The copy of this submission's record cannot be written (%s). If the task is cleared while it waits, "
                "it may submit a new request.",
                error,
            )
