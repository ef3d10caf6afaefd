"""Files that exist in the destination before a save: of an earlier try, another generation, or anybody else."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.images.provenance import Statement, read_statement
from airflow_provider_evoimage.images.result_file import IMAGE_TYPES, ImageFile, describe_image
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.index import remove_from_index
from airflow_provider_evoimage.storage.progress import entries_of

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


@dataclass(kw_only=True)
class EarlierSidecar:
    """The sidecar of another generation with the same names; it is wrong as soon as one of its images is replaced.

    :param entries: its images, by index.
    :param reusable_for: which request its images are for; see ``storage.index``.
    """

    entries: Mapping[int, Mapping[str, Any]]
    reusable_for: object = None
    is_there: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, sidecar: object, evolink_task_id: str) -> EarlierSidecar | None:
        """Read a sidecar; return None if it is none, or belongs to this generation."""
        other = sidecar.get("evolink_task_id") if isinstance(sidecar, Mapping) else None
        if not isinstance(other, str) or other == evolink_task_id:
            return None
        reusable_for = sidecar.get("reusable_for") if isinstance(sidecar, Mapping) else None
        return cls(entries=entries_of(sidecar, other), reusable_for=reusable_for)


def other_task_of(sidecar: object, made_by: Mapping[str, Any]) -> str:
    """Name the other task instance of the same DAG run that a sidecar belongs to; empty where there is none.

    :param made_by: of the task that is about to save.
    """
    owner = sidecar.get("made_by") if isinstance(sidecar, Mapping) else None
    if not isinstance(owner, Mapping):
        return ""
    is_same_run = all(owner.get(name) == made_by[name] for name in ("dag_id", "run_id"))
    is_same_task = all(owner.get(name) == made_by[name] for name in ("task_id", "map_index"))
    return task_in_words(owner) if is_same_run and not is_same_task else ""


def task_in_words(made_by: Mapping[str, Any]) -> str:
    """Name a task instance for a message: ``dag_id.task_id[map_index] of run run_id``."""
    index = made_by.get("map_index", -1)
    mapped = f"[{index}]" if isinstance(index, int) and index >= 0 else ""
    return f"{made_by.get('dag_id')}.{made_by.get('task_id')}{mapped} of run {made_by.get('run_id')}"


@dataclass(frozen=True)
class ExistingFiles:
    """Compares the files of a destination with what manifests say about them.

    :param folder: a local folder for copies.
    """

    destination: Destination
    folder: Path
    log: Logger

    def is_as_described(self, name: str, entry: Mapping[str, Any], *, with_hash: bool) -> bool:
        """Tell whether a file has the size in a manifest's entry, and on request the hash."""
        return (
            self.destination.exists(name)
            and self.destination.size(name) == entry.get("bytes")
            and (not with_hash or self._sha256(name) == entry.get("sha256"))
        )

    def described(self, name: str) -> tuple[ImageFile, Statement]:
        """Read an image file, and what it says of its origin.

        :raises DownloadError: when it is no complete image.
        """
        local = new_file_in(self.folder)
        try:
            self.destination.fetch(name, local)
            image = describe_image(local)
            with local.open("rb") as file:
                return image, read_statement(file)
        finally:
            local.unlink(missing_ok=True)

    def remove_sidecar(self, earlier: EarlierSidecar | None, name: str) -> None:
        """Remove the sidecar of another generation, once, before the first of its images is replaced."""
        if earlier is None:
            return
        with earlier.lock:
            if not earlier.is_there:
                return
            earlier.is_there = False
            remove_from_index(self.destination, earlier.reusable_for, name, self.log)
            try:
                self.destination.remove(name)
            except DestinationError as error:
                self.log.warning("The earlier sidecar stays until all images are saved: %s", error.message)

    def remove_image(self, name: str, entry: Mapping[str, Any]) -> None:
        """Remove an image of another generation, unless the file has been replaced since."""
        try:
            if not self.is_as_described(name, entry, with_hash=True):
                return
            self.destination.remove(name)
        except DestinationError as error:
            self.log.warning("An image of the earlier generation stays: %s", error.message)
        else:
            self.log.info("Removed %s, an image of the earlier generation.", entry["path"])

    def _sha256(self, name: str) -> str:
        local = new_file_in(self.folder)
        try:
            self.destination.fetch(name, local)
            with local.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            local.unlink(missing_ok=True)


def extension_of(entry: Mapping[str, Any]) -> str | None:
    """Return the extension of an image that a manifest lists; None where its type is unknown."""
    return next((ext for ext, kind in IMAGE_TYPES.values() if kind == entry.get("content_type")), None)


def new_file_in(folder: Path) -> Path:
    """Return the path of a new temporary file."""
    return folder / secrets.token_hex(8)
