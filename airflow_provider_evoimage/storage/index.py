"""The index of saved images: for each request the place of its sidecar, as small files in ``_index`` below ``save_to``.

An entry is written after the sidecar, which is written after the images, so it never leads to images that are not
complete. It holds no prompt and no link: the sidecar says everything else, and has the last word.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.defaults import INDEX_FOLDER
from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID
from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.manifest import MANIFEST_VERSION
from airflow_provider_evoimage.shapes import Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.progress import write_temporary

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

INDEX_VERSION = 1
_HASH = re.compile(r"[0-9a-f]{64}")
_DAMAGED = "its sidecar was changed or is damaged"
# Entries are some 300 bytes; more is none of ours.
_MOST_BYTES = 10_000
_OF_AN_IMAGE: Mapping[str, type] = {
    "path": str,
    "sha256": str,
    "bytes": int,
    "content_type": str,
    "width": int,
    "height": int,
}
_OF_A_TASK: Mapping[str, type] = {"dag_id": str, "run_id": str, "task_id": str, "map_index": int}


@dataclass(frozen=True, kw_only=True)
class ImagesKey:
    """Which request images were made for.

    :param fingerprint: of the request, see ``submission.identity``.
    :param occurrence: number among equal requests of one task, so that each has images of its own.
    """

    fingerprint: str
    occurrence: int = 0

    @property
    def entry_name(self) -> str:
        """The entry's file, below ``save_to``."""
        suffix = f"-{self.occurrence}" if self.occurrence else ""
        return f"{INDEX_FOLDER}/{self.fingerprint}{suffix}.json"

    def to_json(self) -> dict[str, Any]:
        """Return it as a manifest's ``reusable_for`` has it."""
        return {"fingerprint": self.fingerprint, "occurrence": self.occurrence}


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """One entry.

    :param sidecar: name of the sidecar below ``save_to``.
    :param saved_at: when the images were complete.
    """

    key: ImagesKey
    evolink_task_id: str
    sidecar: str
    saved_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "v": INDEX_VERSION,
            **self.key.to_json(),
            "evolink_task_id": self.evolink_task_id,
            "sidecar": self.sidecar,
            "saved_at": self.saved_at.isoformat(timespec="seconds"),
        }

    @classmethod
    def read(cls, content: bytes, key: ImagesKey) -> IndexEntry | str:
        """Read an entry, or say why it cannot be used. People can edit files in their storage."""
        try:
            data = json.loads(content) if len(content) <= _MOST_BYTES else None
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, Mapping):
            return "its index entry is no JSON object"
        version = data.get("v")
        if isinstance(version, int) and version > INDEX_VERSION:
            return f"its index entry has format version {version}, of a newer release"
        saved_at = _moment(data.get("saved_at"))
        evolink_task_id, sidecar = data.get("evolink_task_id"), data.get("sidecar")
        if (
            version != INDEX_VERSION
            or {name: data.get(name) for name in ("fingerprint", "occurrence")} != key.to_json()
            or not (isinstance(evolink_task_id, str) and EVOLINK_TASK_ID.fullmatch(evolink_task_id))
            or not (isinstance(sidecar, str) and _is_below(sidecar) and sidecar.endswith(".json"))
            or saved_at is None
        ):
            return "its index entry was changed or is damaged"
        return cls(key=key, evolink_task_id=evolink_task_id, sidecar=sidecar, saved_at=saved_at)


def add_to_index(destination: Destination, manifest: Manifest, sidecar: str, log: Logger) -> None:
    """Write the entry of images whose sidecar is written; a failure only logs a warning, as they are saved.

    Images that a later run could not reuse get none.
    """
    key = key_of(manifest.get("reusable_for"))
    if key is None or unusable(manifest, destination):
        return
    entry = IndexEntry(
        key=key,
        evolink_task_id=manifest["evolink_task_id"],
        sidecar=sidecar,
        saved_at=datetime.fromtimestamp(time.time(), UTC),
    )
    try:
        write_json(destination, key.entry_name, entry.to_json())
    except DestinationError as error:
        log.warning(
            "The images are saved, but not in the index, so a later run does not find them: %s", error.message
        )


def remove_from_index(destination: Destination, reusable_for: object, sidecar: str, log: Logger) -> None:
    """Remove the entry of images that are about to be replaced, unless it leads to others by now."""
    key = key_of(reusable_for)
    if key is None:
        return
    try:
        content = destination.read_if_there(key.entry_name)
        entry = None if content is None else IndexEntry.read(content, key)
        if isinstance(entry, IndexEntry) and entry.sidecar == sidecar:
            destination.remove(key.entry_name)
    except DestinationError as error:
        # Without its sidecar it is not used.
        log.warning("The index entry of the earlier images stays: %s", error.message)


def key_of(reusable_for: object) -> ImagesKey | None:
    """Read which request a manifest's images are for; None where it does not say."""
    if not isinstance(reusable_for, Mapping):
        return None
    mark, occurrence = reusable_for.get("fingerprint"), reusable_for.get("occurrence")
    if not isinstance(mark, str) or not _HASH.fullmatch(mark):
        return None
    if not isinstance(occurrence, int) or isinstance(occurrence, bool) or occurrence < 0:
        return None
    return ImagesKey(fingerprint=mark, occurrence=occurrence)


def alt_text_hash(alt_text: str | None) -> str | None:
    """Return the hash that a manifest holds in place of an alt text, which may be long."""
    return None if alt_text is None else hashlib.sha256(alt_text.encode("utf-8", "replace")).hexdigest()


def unusable(manifest: object, destination: Destination) -> str:
    """Say why no later run can reuse the images of a sidecar; empty where one can."""
    if not isinstance(manifest, Mapping) or manifest.get("v") != MANIFEST_VERSION:
        return "its sidecar is gone, or is no manifest"
    images, made, asked = (manifest.get(name) for name in ("images", "made", "asked"))
    if not isinstance(images, list) or not images or not _has_known_types(manifest):
        return _DAMAGED
    if made != len(images) or (isinstance(asked, int) and made < asked):
        return "some of its images are missing"
    problems = (_unusable_image(image, place, destination) for place, image in enumerate(images))
    return next(filter(None, problems), "")


def _unusable_image(image: object, place: int, destination: Destination) -> str:
    if not isinstance(image, Mapping) or image.get("index") != place or "renditions" in image:
        return _DAMAGED
    if "path" not in image:
        return "some of its images are missing"
    if not _has(image, _OF_AN_IMAGE) or image["bytes"] < 1:
        return _DAMAGED
    name = destination.name_of(image["path"])
    if name is None or not _is_below(name):
        return "its images lie outside save_to"
    provenance = image.get("provenance")
    if isinstance(provenance, Mapping) and provenance.get("source_sha256") is None:
        return "one of its files existed before it was made"
    return ""


def write_json(destination: Destination, name: str, data: Mapping[str, Any]) -> None:
    """Write a small JSON file; it appears whole or not at all.

    :raises DestinationError: when the storage refuses.
    """
    with tempfile.TemporaryDirectory(prefix="evoimage-") as folder:
        local = Path(folder) / "index.json"
        write_temporary(local, json.dumps(data, indent=2))
        destination.publish(local, name, "application/json")


def _has_known_types(manifest: Mapping[str, Any]) -> bool:
    evolink_task_id, made_by = manifest.get("evolink_task_id"), manifest.get("made_by")
    return (
        isinstance(evolink_task_id, str)
        and EVOLINK_TASK_ID.fullmatch(evolink_task_id) is not None
        and manifest.get("status") == "completed"
        and isinstance(made_by, Mapping)
        and _has(made_by, _OF_A_TASK)
        and isinstance(manifest.get("usage"), Mapping)
        and isinstance(manifest.get("request"), Mapping | None)
        and isinstance(manifest.get("asked"), int | None)
        and all(
            isinstance(manifest.get(name), str | None)
            for name in ("model", "created", "completed", "expires_at")
        )
    )


def _has(data: Mapping[str, Any], types: Mapping[str, type]) -> bool:
    return all(
        isinstance(data.get(name), kind) and not isinstance(data[name], bool) for name, kind in types.items()
    )


def _is_below(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def _moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
