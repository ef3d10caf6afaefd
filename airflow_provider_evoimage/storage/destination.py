"""Where files go: their names, and writing them complete or not at all through ObjectStoragePath."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.storage.stores import (
    DamagedUploadError,
    MissingContainerError,
    RefusedCredentialsError,
    store_of,
)

IfExists = Literal["overwrite", "skip", "error"]
IF_EXISTS: tuple[IfExists, ...] = ("overwrite", "skip", "error")

ONE_GENERATION = "{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}"
MANY_GENERATIONS = "{dag_id}/{run_id}/{task_id}{map_suffix}-{item}-{index}.{ext}"

#: What a ``filename_template`` may name.
NAME_FIELDS: dict[str, str] = {
    "dag_id": "id of the DAG",
    "run_id": "id of the DAG run",
    "task_id": "id of the Airflow task",
    "map_index": "index of a mapped task, -1 for others",
    "map_suffix": "'-' and the index of a mapped task, empty for others",
    "item": "which generation of this save, from 0",
    "name": "the item's own name in a batch; its number where it has none",
    "index": "which image of the generation, from 0",
    "ext": "extension by the image's real type, without the dot",
    "evolink_task_id": "EvoLink's id of the generation",
    "model": "model that made the image",
}

_NUMBERS = frozenset({"map_index", "item", "index"})

# Most file systems end at 255 bytes; ".part" names need some of them.
_MAX_NAME_BYTES = 200
_UNSAFE = re.compile(r"[^\w.+=@-]+")


class FileNames:
    """Names by a template such as ``{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}``.

    The slashes of the template make folders; those in a value do not.

    :raises InvalidRequestError: when the template names an unknown field, or is no relative path.
    """

    def __init__(self, template: str) -> None:
        self.template = template.strip()
        try:
            parsed = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise self._wrong(str(error)) from error
        for _, field, format_spec, conversion in parsed:
            if field is not None and (field not in NAME_FIELDS or conversion or "{" in (format_spec or "")):
                raise self._wrong(f"{{{field}}} is none of its fields, which are {', '.join(NAME_FIELDS)}")
        if not self.template or self.template.endswith("/"):
            raise self._wrong("it names no file")
        if self.template.startswith("/") or "\\" in self.template or "://" in self.template:
            raise self._wrong("it must be relative to save_to")
        if ".." in PurePosixPath(self.template).parts:
            raise self._wrong("it must not leave save_to")
        if any(ord(letter) < ord(" ") for letter in self.template):
            raise self._wrong("it holds a control character")
        self.fields = frozenset(field for _, field, _, _ in parsed if field is not None)
        # A format that does not fit a field shows now, not after the images are paid for.
        self.name({field: 0 if field in _NUMBERS else field for field in NAME_FIELDS} | {"map_suffix": ""})

    def name(self, fields: Mapping[str, str | int]) -> str:
        """Fill in the template; return a relative path with ``/``."""
        safe = {key: value if isinstance(value, int) else _safe(value) for key, value in fields.items()}
        try:
            filled = self.template.format_map(safe)
        except (ValueError, TypeError) as error:
            raise self._wrong(str(error)) from error
        # A leading dot hides a file, and "." and ".." are places, not names.
        parts = [_shortened(part.lstrip(".") or "_") for part in filled.split("/") if part]
        if not parts:
            raise self._wrong("it names no file")
        return "/".join(parts)

    def _wrong(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(f"filename_template {self.template!r} cannot be used: {why}.")


class Destination:
    """A folder of the user's storage, by any URL that Airflow's ObjectStoragePath knows.

    Opens the connection of the URL at once, so it is made when a task runs, never when a DAG file is read.

    :raises DestinationError: when the URL is of no storage that this Airflow is configured for.
    """

    def __init__(self, save_to: str) -> None:
        text = save_to.strip()
        if "://" not in text and not text.startswith("/"):
            raise InvalidRequestError(
                f"save_to {save_to!r} is no storage URL: give one such as file:///data/images or s3://conn@bucket/images."
            )
        try:
            self._base = ObjectStoragePath(text)
            self._fs = self._base.fs
            self._store = store_of(self._base)
            self._store.check(self._base.path)
        except Exception as error:
            raise DestinationError(
                f"save_to {text!r} cannot be opened: {_in_words(error)}",
                billed=None,
                on_retry=_NOTHING_SUBMITTED,
            ) from error

    def url(self, name: str) -> str:
        """Return the full URL of a file."""
        return str(self._base / name)

    def exists(self, name: str) -> bool:
        """Tell whether a file of this name is there."""
        try:
            return bool((self._base / name).exists())
        except Exception as error:
            raise self._failure(name, error) from error

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        try:
            return int((self._base / name).stat().st_size)
        except Exception as error:
            raise self._failure(name, error) from error

    def fetch(self, name: str, local: Path) -> None:
        """Copy a file of the storage to a local one."""
        try:
            self._fs.get_file((self._base / name).path, str(local))
        except Exception as error:
            raise self._failure(name, error) from error

    def publish(self, local: Path, name: str, content_type: str) -> str:
        """Bring a complete local file to its final name, where it appears at once or not at all.

        :returns: the URL of the file.
        """
        target = self._base / name
        try:
            self._store.publish(local, target.path, content_type)
        except Exception as error:
            raise self._failure(name, error) from error
        return str(target)

    @property
    def leaves_parts(self) -> bool:
        """Whether a killed save leaves a hidden part file."""
        return self._store.leaves_parts

    def remove_parts(self, name: str) -> None:
        """Remove part files that a killed save left beside a file."""
        try:
            self._store.remove_parts((self._base / name).path)
        except Exception as error:
            raise self._failure(name, error) from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            (self._base / name).unlink(missing_ok=True)
        except Exception as error:
            raise self._failure(name, error) from error

    def read_json(self, name: str) -> Any:
        """Read a JSON file; None where there is none that reads."""
        try:
            return json.loads((self._base / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        except Exception as error:  # The clients' own errors, such as a lost connection.
            raise self._failure(name, error) from error

    def read_text(self, name: str) -> str | None:
        """Read a text file; None where there is none.

        :raises DestinationError: when the storage fails, so that nobody takes that for an absent file.
        """
        try:
            return (self._base / name).read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure(name, error) from error

    def _failure(self, name: str, error: Exception) -> DestinationError:
        return DestinationError(f"{self.url(name)} cannot be written or read: {_in_words(error)}")


# Opened before anything is submitted, also by a try that goes on with a generation.
_NOTHING_SUBMITTED = "Nothing was submitted by this try; a retry tries again."


def _in_words(error: Exception) -> str:
    """Say what a store's error means to the one who set the connection up."""
    match error:
        case MissingContainerError():
            return f"{error}. Make it, or correct save_to."
        case RefusedCredentialsError():
            return f"its credentials are refused: {error}. Correct the connection that the URL names."
        case PermissionError():
            return f"permission is denied: {error}"
        case DamagedUploadError():
            return f"it arrived damaged and was removed: {error}"
        case _:
            # Some say nothing but their kind.
            return str(error) or type(error).__name__


def _safe(value: str) -> str:
    # Empty stays empty: the suffix of a task that is not mapped.
    return _UNSAFE.sub("_", value)


def _shortened(name: str) -> str:
    """Keep a name within what file systems take, by its middle, so that index and extension stay."""
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    head, tail = name, name[-40:]
    while len(f"{head}~{tail}".encode()) > _MAX_NAME_BYTES:
        head = head[:-1]
    return f"{head}~{tail}"
