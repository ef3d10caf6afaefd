"""Says why a request is drawn although an earlier run drew one like it: what differs from that one.

A small file for each Airflow task names the index entry that each of its items had last. It explains, and decides
nothing: without it only the sentence is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.defaults import INDEX_FOLDER
from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.reuse.sidecar import key_in
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames, task_fields
from airflow_provider_evoimage.storage.index import ImagesKey, IndexEntry, key_of, write_json

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_NAMES = FileNames(f"{INDEX_FOLDER}/tasks/{{dag_id}}/{{task_id}}{{map_suffix}}.{{ext}}")
_VERSION = 1
# Characters of a prompt that are shown before and after the place where it differs.
_BEFORE, _AFTER = 12, 28


class LastRequests:
    """The requests that one Airflow task had in its last runs.

    :param made_by: the task.
    """

    def __init__(self, destination: Destination, made_by: Mapping[str, Any], log: Logger) -> None:
        self._destination = destination
        self._name = _NAMES.name({**task_fields(made_by), "ext": "json"})
        self._log = log
        self._items: dict[str, dict[str, Any]] | None = None

    def difference(self, label: str, requested: RequestSummary) -> str:
        """Say how a request differs from the one that this item had last; empty where that is unknown.

        :param label: of the item: its name or place in a batch, "" for a task with one request.
        """
        try:
            sidecar = self._sidecar(label)
        except DestinationError as error:
            self._log.warning("The request of the earlier run cannot be read: %s", error.message)
            return ""
        if sidecar is None:
            return ""
        of = f"that of EvoLink task {sidecar.get('evolink_task_id')}"
        return in_words(sidecar.get("request"), requested.request, of=of)

    def keep(self, keys: Mapping[str, ImagesKey]) -> None:
        """Note the present requests by label; a failing storage only logs a warning."""
        try:
            items = dict(self._read())
            items |= {label: key.to_json() for label, key in keys.items()}
            if items != self._read():
                write_json(self._destination, self._name, {"v": _VERSION, "items": items})
                self._items = items
        except DestinationError as error:
            self._log.warning("A later run cannot say why it draws: %s", error.message)

    def _sidecar(self, label: str) -> Mapping[str, Any] | None:
        key = key_of(self._read().get(label))
        content = None if key is None else self._destination.read_if_there(key.entry_name)
        if key is None or content is None:
            return None
        entry = IndexEntry.read(content, key)
        sidecar = None if isinstance(entry, str) else self._destination.read_json(entry.sidecar)
        if not isinstance(sidecar, Mapping):
            return None
        # Its files may have been replaced by those of another request.
        made_for = key_in(sidecar)
        return sidecar if made_for is not None and made_for.key == key else None

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._items is None:
            content = self._destination.read_if_there(self._name)
            try:
                data = json.loads(content) if content is not None else None
            except (ValueError, RecursionError):
                data = None
            items = data.get("items") if isinstance(data, Mapping) and data.get("v") == _VERSION else None
            self._items = dict(items) if isinstance(items, Mapping) else {}
        return self._items


def in_words(before: object, now: object, *, of: str) -> str:
    """Say which fields of two requests differ, and where a prompt does.

    :param before: the earlier request, in the form of a manifest.
    :param of: what the earlier one belongs to.
    """
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return ""
    names = [name for name in dict.fromkeys([*now, *before]) if before.get(name) != now.get(name)]
    if not names:
        return f"only variant or occurrence differs from {of}"
    parts = [
        _prompts_in_words(str(before.get(name)), str(now.get(name)), of=of)
        if name == "prompt"
        else f"{name} differs from {of}"
        for name in names
        # Says nothing that image_urls or mask_url does not say.
        if name != "references" or len(names) == 1
    ]
    return "; ".join(parts)


def _prompts_in_words(before: str, now: str, *, of: str) -> str:
    shared = next(
        (place for place, (one, other) in enumerate(zip(before, now, strict=False)) if one != other),
        min(len(before), len(now)),
    )
    was, by_now = (_excerpt(text, shared) for text in (before, now))
    return f"prompt differs from {of} at character {shared}: {was!r} became {by_now!r}"


def _excerpt(text: str, place: int) -> str:
    begin, end = max(0, place - _BEFORE), place + _AFTER
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"
