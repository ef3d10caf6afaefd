"""Where files go: their names, and writing them complete or not at all through ObjectStoragePath."""

from __future__ import annotations

import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.storage.stores import (
    DamagedUploadError,
    MissingContainerError,
    RefusedCredentialsError,
    store_of,
)

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

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

_EXTENSION = ".{ext}"
#: As long as EvoLink's ids are, for names that are looked at before there is one.
SOME_ID = "task-unified-0000000000-{:08}"

# Most file systems end at 255 bytes; extensions, and the names of part files and records, need some of them.
_MAX_NAME_BYTES = 194
_PLAIN = frozenset("_.+=@-")
# By Windows shares, or as the beginning of something else in a URL.
_FORBIDDEN = frozenset('\\:*?"<>|#')


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
        if not self.template.endswith(_EXTENSION):
            raise self._wrong(
                "it must end with .{ext}, as the type of an image is known from its bytes alone"
            )
        # A format that does not fit a field shows now, not after the images are paid for.
        filled = self.name(
            {field: 0 if field in _NUMBERS else field for field in NAME_FIELDS} | {"map_suffix": ""}
        )
        if forbidden := _FORBIDDEN.intersection(filled):
            raise self._wrong(f"some stores forbid {' '.join(sorted(forbidden))} in names")

    def name(self, fields: Mapping[str, str | int]) -> str:
        """Fill in the template; return a relative path with ``/``."""
        safe = {key: value if isinstance(value, int) else _safe(value) for key, value in fields.items()}
        try:
            filled = self.template.removesuffix(_EXTENSION).format_map(safe)
        except (ValueError, TypeError) as error:
            raise self._wrong(str(error)) from error
        *folders, stem = filled.split("/")
        # A leading dot hides a file, and "." and ".." are places, not names.
        parts = [_shortened(part.lstrip(".") or "_") for part in (*filter(None, folders), stem)]
        return f"{'/'.join(parts)}.{safe['ext']}"

    @property
    def with_index(self) -> FileNames:
        """The same names with the index of the image, where they lack it."""
        if "index" in self.fields:
            return self
        return FileNames(f"{self.template.removesuffix(_EXTENSION)}-{{index}}{_EXTENSION}")

    def _wrong(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(f"filename_template {self.template!r} cannot be used: {why}.")


class Destination:
    """A folder of the user's storage, by any URL that Airflow's ObjectStoragePath knows.

    Opens the connection of the URL at once, so it is made when a task runs, never when a DAG file is read.

    :param evolink_task_id: the generation whose images are to be saved, where it is paid for already.
    :raises InvalidRequestError: when it is no URL, or one of a local folder that is not absolute.
    :raises DestinationError: when the URL is of no storage that this Airflow is configured for.
    """

    def __init__(self, save_to: str, *, evolink_task_id: str | None = None) -> None:
        text = save_to.strip()
        scheme, separator, rest = text.partition("://")
        if not separator and not text.startswith("/"):
            raise InvalidRequestError(
                f"save_to {save_to!r} is no storage URL: give one such as file:///data/images or s3://conn@bucket/images."
            )
        # fsspec would take what follows two slashes for a folder below the worker's current one.
        if scheme.lower() in {"file", "local"} and rest.partition("/")[0].rpartition("@")[2]:
            raise InvalidRequestError(
                f"save_to {save_to!r} is no absolute path: a local folder's URL has three slashes, as file:///data/images."
            )
        try:
            self._base = ObjectStoragePath(text)
            self._fs = _connected(self._base)
            self._store = store_of(self._base)
            self._store.check(self._base.path)
        except Exception as error:
            raise DestinationError(
                f"save_to {text!r} cannot be opened: {_in_words(error)}",
                evolink_task_id=evolink_task_id,
                billed=True if evolink_task_id else None,
                on_retry=None if evolink_task_id else _NOTHING_SUBMITTED,
            ) from error

    def url(self, name: str) -> str:
        """Return the full URL of a file."""
        return str(self._base / name)

    def check_length(self, name: str, *, is_paid: bool) -> None:
        """Check that the store takes a name as long as this, with the folder that it lies in.

        :param is_paid: whether the image was paid for already.
        :raises InvalidRequestError: when it does not.
        """
        longest = self._store.longest_path
        # The bucket is no part of the name. A hidden record beside the file has a longer one.
        path = (self._base / name).path.partition("/")[2]
        if longest is not None and len(path.encode()) > longest - _LONGER_BY:
            raise InvalidRequestError(
                f"{self.url(name)} is too long a name: this store takes {longest - _LONGER_BY} bytes. "
                "Shorten save_to or filename_template.",
                billed=is_paid,
                on_retry="No retry follows: correct it and clear the task; the links live 24 hours."
                if is_paid
                else None,
            )

    def exists(self, name: str) -> bool:
        """Tell whether a file of this name is there."""
        try:
            return bool((self._base / name).exists())
        except Exception as error:
            raise self._failure(name, error) from error

    def holds(self, url: str) -> bool:
        """Tell whether a file that was saved here is still there; never so for one of another folder."""
        prefix = self.url("x").removesuffix("x")
        return url.startswith(prefix) and self.exists(url.removeprefix(prefix))

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

    def remove_parts(self, names: Iterable[str], log: Logger) -> None:
        """Remove part files that a killed save left beside files; where that fails they stay, with a warning."""
        try:
            self._store.remove_parts((self._base / name).path for name in names)
        except Exception as error:  # noqa: BLE001 (a part file harms nobody)
            log.warning(
                "What an earlier try may have left in %s stays there: %s", self._base, _in_words(error)
            )

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            # Not the path's own removal, which takes a [ in a name for the beginning of a pattern.
            self._fs.rm_file((self._base / name).path)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failure(name, error) from error

    def read_json(self, name: str) -> Any:
        """Read a JSON file; None where there is none, or none that reads.

        :raises DestinationError: when the storage fails, so that nobody takes that for an absent file.
        """
        try:
            content = (self._base / name).read_bytes()
        except Exception as error:
            if _may_mean_absent(error):
                return None
            raise self._failure(name, error) from error
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return None

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


# ".", and "saving.json" in place of "png".
_LONGER_BY = 16
# Opened before anything is submitted, also by a try that goes on with a generation.
_NOTHING_SUBMITTED = "Nothing was submitted by this try; a retry tries again."


def _may_mean_absent(error: Exception) -> bool:
    """Tell whether a store may answer so for an absent file: to a role that may not list, S3 does not say which."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return True
    # gcsfs has no kind of its own for 403.
    return isinstance(error, OSError) and str(error).startswith("Forbidden")


def _connected(path: ObjectStoragePath) -> Any:
    try:
        return path.fs
    except PermissionError as error:  # SFTP logs in at once.
        raise RefusedCredentialsError(str(error)) from error


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
    """Keep letters, marks and digits of any script; each run of others becomes one ``_``."""
    composed = unicodedata.normalize("NFC", value)
    kept = (
        letter if letter in _PLAIN or unicodedata.category(letter)[0] in "LMN" else " " for letter in composed
    )
    # Empty stays empty: the suffix of a task that is not mapped.
    return re.sub(" +", "_", "".join(kept))


def _shortened(name: str) -> str:
    """Keep a name, without its extension, within what file systems take; by its middle, so that an index stays.

    A hash of the whole stands there, so that two long names stay apart.
    """
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    head, tail = name, name[-40:]
    while len(f"{head}~{digest}~{tail}".encode()) > _MAX_NAME_BYTES:
        head = head[:-1]
    return f"{head}~{digest}~{tail}"
