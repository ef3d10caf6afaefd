"""Writes files through ObjectStoragePath, each complete or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.arguments import absolute_url
from airflow_provider_evoimage.exceptions import (
    DestinationError,
    DestinationUnusableError,
    InvalidRequestError,
)
from airflow_provider_evoimage.lineage import folder_uri
from airflow_provider_evoimage.storage.opening import (
    StoreNotInstalledError,
    UnknownConnectionError,
    storage_path,
)
from airflow_provider_evoimage.storage.stores import (
    DamagedUploadError,
    MissingContainerError,
    RefusedCredentialsError,
    store_of,
)

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


class Destination:
    """A folder of the user's storage, by any URL that Airflow's ObjectStoragePath knows.

    Opens the connection of the URL at once, so it is made when a task runs, never when a DAG file is read.

    :param evolink_task_id: the generation whose images are to be saved, if it is already paid for.
    :param is_unpaid: whether it is certain that nothing was paid for yet.
    :raises InvalidRequestError: when it is no storage URL, or a local folder that is not absolute.
    :raises DestinationUnusableError: when it cannot be opened for a lasting reason and nothing was paid for.
    :raises DestinationError: when it cannot be opened otherwise; what was paid for is worth a retry.
    """

    def __init__(self, save_to: str, *, evolink_task_id: str | None = None, is_unpaid: bool = False) -> None:
        text = absolute_url("save_to", save_to)
        if "\0" in text:
            raise InvalidRequestError(f"save_to {save_to!r} holds a NUL character, which no storage takes.")
        try:
            self._base = storage_path(text)
            self._fs = self._base.fs
            self._store = store_of(self._base)
            self._store.check(self._base.path)
        except Exception as error:
            message = f"save_to {text!r} cannot be opened: {_in_words(error)}"
            if is_unpaid and isinstance(error, LASTING_PROBLEMS):
                raise DestinationUnusableError(message) from error
            if evolink_task_id:
                raise DestinationError(message, evolink_task_id=evolink_task_id) from error
            billed = False if is_unpaid else None
            raise DestinationError(message, billed=billed, on_retry=_NOTHING_SUBMITTED) from error

    def url(self, name: str) -> str:
        """Return the full URL of a file."""
        return str(self._base / name)

    def check_length(self, name: str, *, is_paid: bool) -> None:
        """Check that the store accepts a path of this length.

        :param is_paid: whether the image was paid for already.
        :raises InvalidRequestError: when it does not.
        """
        longest = self._store.longest_path
        # The bucket does not count. The hidden record beside the file has a longer name.
        path = (self._base / name).path.partition("/")[2]
        if longest is not None and len(path.encode()) > longest - _LONGER_BY:
            raise InvalidRequestError(
                f"{self.url(name)} is too long: this store takes {longest - _LONGER_BY} bytes. "
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
        """Tell whether a file that was saved here still exists; always False for a file of another folder."""
        name = self.name_of(url)
        return name is not None and self.exists(name)

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
        """Publish a complete local file under its final name; it appears whole or not at all.

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
        """Remove part files that a killed save left beside files; a failure only logs a warning."""
        try:
            self._store.remove_parts((self._base / name).path for name in names)
        except Exception as error:  # noqa: BLE001 (a part file does no harm)
            log.warning("Part files of an earlier try may remain in %s: %s", self._base, _in_words(error))

    def json_files(self, *, since: float, largest: int) -> Iterator[str]:
        """Name the JSON files anywhere below the folder, one folder after another, so that memory stays bounded.

        Hidden files and folders are left out. A store that does not say when or how large a file is gives it.

        :param since: Unix seconds; files that were not written since are left out.
        :param largest: bytes; larger files are left out.
        :raises DestinationError: when the folder cannot be listed; one that is absent has no files.
        """
        root = self._base.path.rstrip("/")
        folders = [root]
        while folders:
            folder = folders.pop()
            for info in self._listed(folder):
                path = str(info["name"]).rstrip("/")
                name = path.rpartition("/")[2]
                if name.startswith(".") or path == folder.rstrip("/"):
                    continue
                if info.get("type") == "directory":
                    folders.append(path)
                elif (
                    name.endswith(".json") and (info.get("size") or 0) <= largest and _written(info) >= since
                ):
                    yield path.removeprefix(root).lstrip("/")

    def _listed(self, folder: str) -> list[Mapping[str, Any]]:
        try:
            # Listings are cached for the life of the process; another worker may have written meanwhile.
            self._fs.invalidate_cache()
            return list(self._fs.ls(folder, detail=True))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failure("", error) from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            # Not the path's own unlink, which reads a [ in a name as the start of a pattern.
            self._fs.rm_file((self._base / name).path)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failure(name, error) from error

    def read_json(self, name: str) -> Any:
        """Read a JSON file; return None if it is absent or not valid JSON.

        :raises DestinationError: when the storage fails, which must not look like an absent file.
        """
        content = self.read_if_there(name)
        try:
            return None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            return None

    def read_if_there(self, name: str) -> bytes | None:
        """Read a file; return None if it is absent, or may be: some stores answer both cases alike.

        :raises DestinationError: when the storage fails.
        """
        try:
            return self._store.read((self._base / name).path)
        except Exception as error:
            if _may_mean_absent(error):
                return None
            raise self._failure(name, error) from error

    def size_if_there(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if it is absent, or may be."""
        path = (self._base / name).path
        try:
            self._fs.invalidate_cache()
            return int(self._fs.info(path)["size"])
        except Exception as error:
            if _may_mean_absent(error):
                return None
            raise self._failure(name, error) from error

    def sizes_in(self, folder: str) -> dict[str, int] | None:
        """List the files of one folder, in one pass: size in bytes by name, without the folder.

        :returns: nothing where there is no such folder; None where listing is not allowed.
        """
        path = (self._base / folder).path
        try:
            # A listing that fsspec has cached may be old; ours would be for the next reader.
            self._fs.invalidate_cache()
            listed = self._fs.ls(path, detail=True)
            self._fs.invalidate_cache()
        except FileNotFoundError:
            return {}
        except Exception as error:
            if _may_mean_absent(error):
                return None
            raise self._failure(folder, error) from error
        return {
            str(each["name"]).rstrip("/").rpartition("/")[2]: int(each["size"] or 0)
            for each in listed
            if each["type"] == "file"
        }

    def names_below(self, suffix: str) -> list[str]:
        """Return the names of all files below this folder that end so, at any depth."""
        root = self._base.path.rstrip("/")
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(root)
            self._fs.invalidate_cache()
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failure("", error) from error
        folder = f"{root.lstrip('/')}/"
        names = (str(path).lstrip("/") for path in found)
        return sorted(
            name.removeprefix(folder) for name in names if name.startswith(folder) and name.endswith(suffix)
        )

    def name_of(self, url: str) -> str | None:
        """Return the name of a file that was saved here, whatever connection its URL names; None for any other file."""
        folder, file = f"{folder_uri(str(self._base))}/", folder_uri(url)
        return file.removeprefix(folder) if file.startswith(folder) else None

    def read_text(self, name: str) -> str | None:
        """Read a text file; return None if it is absent.

        :raises DestinationError: when the storage fails, which must not look like an absent file.
        """
        try:
            return (self._base / name).read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure(name, error) from error

    def _failure(self, name: str, error: Exception) -> DestinationError:
        return DestinationError(f"{self.url(name)} cannot be written or read: {_in_words(error)}")


#: What only a person can change. A connection is not among them: Airflow reports one as missing also when its secrets
#: backend fails for a moment.
LASTING_PROBLEMS = (StoreNotInstalledError, MissingContainerError, RefusedCredentialsError)
# ".", and "saving.json" in place of "png".
_LONGER_BY = 16
# The folder is opened before anything is submitted, also in a try that resumes a generation.
_NOTHING_SUBMITTED = "Nothing was submitted by this try; a retry tries again."


def _may_mean_absent(error: Exception) -> bool:
    """Tell whether this error may mean an absent file: without the right to list, S3 answers both cases alike."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return True
    # gcsfs has no exception class for 403.
    return isinstance(error, OSError) and str(error).startswith("Forbidden")


def _written(info: Mapping[str, Any]) -> float:
    """Return the Unix seconds at which a file was written, by the words of the stores; the future if none says."""
    for name in ("mtime", "LastModified", "last_modified", "updated"):
        value = info.get(name)
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime):
                return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            continue
        if isinstance(value, (int, float)):
            return float(value)
    return math.inf


def _in_words(error: Exception) -> str:
    """Explain a store's error to the person who set up the connection."""
    match error:
        case StoreNotInstalledError() | UnknownConnectionError():
            return f"{error}."
        case MissingContainerError():
            return f"{error}. Correct save_to, or create it."
        case RefusedCredentialsError():
            return f"its credentials are refused: {error}. Correct the connection that the URL names."
        case PermissionError():
            return f"permission is denied: {error}"
        case DamagedUploadError():
            return f"it arrived damaged and was removed: {error}"
        case _:
            # Some exceptions have no text.
            return str(error) or type(error).__name__
