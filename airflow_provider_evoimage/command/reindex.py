"""``evoimage reindex``: writes the index of a folder again from its sidecars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow_provider_evoimage.defaults import INDEX_FOLDER
from airflow_provider_evoimage.reuse.sidecar import key_in
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.index import ImagesKey, IndexEntry, unusable, write_json


@dataclass(kw_only=True)
class Reindexed:
    """The outcome.

    :param written: entries that were missing or led elsewhere, by their file's name.
    :param kept: entries that were right.
    :param left_out: why a sidecar has no entry, by its name.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"written": self.written, "kept": self.kept, "left_out": self.left_out}

    @property
    def lines(self) -> list[str]:
        """Describe it for a terminal."""
        found = f"{len(self.written):,} entries written, {len(self.kept):,} were right before."
        return [found, *(f"left out {name}: {because}" for name, because in self.left_out.items())]


def reindex(folder: str) -> Reindexed:
    """Write an entry for each request whose images a sidecar below a folder describes; the newest ones win.

    Sidecars and images are only read. Their files must be there with the size that the sidecar says.

    :raises DestinationError: when the storage fails.
    """
    destination, outcome = Destination(folder), Reindexed()
    newest: dict[ImagesKey, IndexEntry] = {}
    for name in destination.names_below(".json"):
        sidecar = destination.read_json(name)
        if name.startswith(f"{INDEX_FOLDER}/") or not _is_sidecar(sidecar):
            continue
        found = _entry(destination, sidecar, name)
        if isinstance(found, str):
            outcome.left_out[name] = found
            continue
        before = newest.get(found.key)
        newest[found.key] = found if before is None else max(before, found, key=lambda each: each.saved_at)
    for key, entry in newest.items():
        if _is_there(destination, entry):
            outcome.kept.append(key.entry_name)
        else:
            write_json(destination, key.entry_name, entry.to_json())
            outcome.written.append(key.entry_name)
    return outcome


def _is_sidecar(data: object) -> bool:
    return isinstance(data, Mapping) and "evolink_task_id" in data and "made_by" in data


def _entry(destination: Destination, sidecar: Mapping[str, Any], name: str) -> IndexEntry | str:
    because = unusable(sidecar, destination)
    if because:
        return because
    made_for = key_in(sidecar)
    if made_for is None:
        return "its request is unknown, or hides a secret"
    # The age of images counts from when EvoLink made them, as a file's own time changes when it is copied.
    moment = sidecar["completed"] or sidecar["created"]
    try:
        saved_at = datetime.fromisoformat(moment or "")
    except ValueError:
        saved_at = None
    if saved_at is None or saved_at.tzinfo is None:
        return "it does not say when its images were made"
    for image in sidecar["images"]:
        if destination.size_if_there(destination.name_of(image["path"]) or "") != image["bytes"]:
            return f"its image {image['path']} is gone or was replaced"
    return IndexEntry(
        key=made_for.key, evolink_task_id=sidecar["evolink_task_id"], sidecar=name, saved_at=saved_at
    )


def _is_there(destination: Destination, entry: IndexEntry) -> bool:
    """Whether the index already leads to these images; the time that it says is then the better one."""
    content = destination.read_if_there(entry.key.entry_name)
    present = None if content is None else IndexEntry.read(content, entry.key)
    return isinstance(present, IndexEntry) and (present.sidecar, present.evolink_task_id) == (
        entry.sidecar,
        entry.evolink_task_id,
    )
