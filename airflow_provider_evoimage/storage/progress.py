"""Records which files of a generation a save has begun to write, until the sidecar is written.

A save that is killed leaves files and no sidecar. This record tells the next try which of them are its own:
it keeps complete ones and writes the others again.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.storage.destination import Destination


class SaveProgress:
    """The record of one generation's save.

    :param sidecar_name: where the finished manifest will be; the record lies beside it, hidden.
    """

    def __init__(self, destination: Destination, sidecar_name: str, evolink_task_id: str) -> None:
        folder, slash, name = sidecar_name.rpartition("/")
        self._destination = destination
        #: Of the record, below the destination.
        self.name = f"{folder}{slash}.{name.removesuffix('.json')}.saving.json"
        self._evolink_task_id = evolink_task_id
        self._lock = threading.Lock()
        self._entries: dict[int, Mapping[str, Any]] = {}

    def found(self) -> dict[int, Mapping[str, Any]]:
        """Return the files that an earlier try of this save had begun to write, by index."""
        self._entries = entries_of(self._destination.read_json(self.name), self._evolink_task_id)
        return dict(self._entries)

    def begins(self, entry: Mapping[str, Any], folder: Path) -> None:
        """Record a file that is about to be written.

        :param folder: a local folder for temporary files.
        """
        with self._lock:
            self._entries[entry["index"]] = entry
            record = {"evolink_task_id": self._evolink_task_id, "images": list(self._entries.values())}
            local = folder / f"saving-{secrets.token_hex(4)}.json"
            write_temporary(local, json.dumps(record))
            self._destination.publish(local, self.name, "application/json")

    def ends(self) -> None:
        """Remove the record, as the sidecar now has everything."""
        if self._entries:
            self._destination.remove(self.name)


def write_temporary(path: Path, text: str) -> None:
    """Write JSON that is to be published; a lone surrogate becomes the escape that JSON has for it.

    :raises DestinationError: when the temporary folder does not take it.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise temporary_folder_failed(error) from error


def temporary_folder_failed(error: OSError) -> DestinationError:
    """Return the error for this machine's temporary folder, not the storage."""
    return DestinationError(
        f"The temporary folder of this machine cannot be written to: {error}. Make room there, or set TMPDIR."
    )


def entries_of(manifest: object, evolink_task_id: str) -> dict[int, Mapping[str, Any]]:
    """Return the images of a stored manifest by index, if it belongs to this generation.

    People can edit files in their storage, so every field is checked.
    """
    if not isinstance(manifest, Mapping) or manifest.get("evolink_task_id") != evolink_task_id:
        return {}
    listed = manifest.get("images")
    return {
        entry["index"]: entry
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, Mapping) and isinstance(entry.get("index"), int)
    }
