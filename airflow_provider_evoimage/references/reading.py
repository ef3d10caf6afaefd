"""Opens a reference on any storage and reads it piece by piece."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from airflow_provider_evoimage.arguments import absolute_url
from airflow_provider_evoimage.exceptions import InvalidRequestError, ReferenceUnreadableError
from airflow_provider_evoimage.storage.opening import (
    StoreNotInstalledError,
    UnknownConnectionError,
    storage_path,
)
from airflow_provider_evoimage.version_compat import AirflowNotFoundException

_CHUNK_BYTES = 1024 * 1024
# Some stores read a block of this size ahead; s3fs would take 50 MB.
_BLOCK_BYTES = 4 * 1024 * 1024


def opened(source: str, field: str) -> Any:
    """Open a file of any storage that Airflow knows.

    :raises InvalidRequestError: when it does not exist, or can never be opened.
    :raises ReferenceUnreadableError: when a retry may succeed.
    """
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in source and not source.startswith("/"):
        raise InvalidRequestError(
            f"{field}: {source[:200]!r} is not an http(s) URL, nor a storage URL such as s3://conn@bucket/image.png, "
            "nor an absolute path."
        )
    absolute_url(field, source)
    try:
        path = storage_path(source)
        if isinstance(path.fs, LocalFileSystem):
            _check_regular(Path(path.path))
        # Some stores open a folder as "rb", and fail when it is read.
        return path.open("rb", block_size=_BLOCK_BYTES)
    except Exception as error:
        raise _unread(source, field, error) from error


def _check_regular(path: Path) -> None:
    """Refuse pipes and devices: reading them may never end, or wait for a writer."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is a pipe, socket or device, and no regular file")


def printable(source: str) -> str:
    """Return a source as text that can be written: names of local files may hold any bytes."""
    return source.encode(errors="backslashreplace").decode()


def chunks_of(file: IO[bytes], source: str, field: str) -> Iterator[bytes]:
    """Read a file piece by piece; raises what :func:`opened` does."""
    while True:
        try:
            chunk = file.read(_CHUNK_BYTES)
        except Exception as error:
            raise _unread(source, field, error) from error
        if not chunk:
            return
        yield chunk


def _unread(source: str, field: str, error: Exception) -> InvalidRequestError | ReferenceUnreadableError:
    """Return the error of a failed read: final, or one that a retry may fix."""
    source = printable(source)
    if isinstance(error, FileNotFoundError):
        return InvalidRequestError(f"{field}: there is no reference file {source}.")
    if isinstance(error, IsADirectoryError):
        return InvalidRequestError(f"{field}: {source} is a folder, not an image.")
    if isinstance(error, UnknownConnectionError):
        return ReferenceUnreadableError(f"{field}: {source} cannot be opened: {error}.")
    if isinstance(error, (StoreNotInstalledError, AirflowNotFoundException, ImportError, ValueError)):
        return InvalidRequestError(f"{field}: {source} cannot be opened: {str(error).rstrip('.')}.")
    return ReferenceUnreadableError(
        f"{field}: {source} cannot be read: {type(error).__name__}: {str(error).rstrip('.')}."
    )
