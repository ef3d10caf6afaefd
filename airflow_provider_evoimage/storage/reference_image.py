"""One reference image as a file: opened wherever it lies, and told by its bytes."""

from __future__ import annotations

import re
import secrets
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.evolink.uploads import MAX_UPLOAD_BYTES, UPLOAD_TYPES
from airflow_provider_evoimage.exceptions import InvalidRequestError, ReferenceUnreadableError
from airflow_provider_evoimage.version_compat import AirflowNotFoundException

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
_MAX_STEM_CHARACTERS = 60
_CHUNK_BYTES = 1024 * 1024
# Some stores read a block of this size ahead; s3fs would take 50 MB.
_BLOCK_BYTES = 4 * 1024 * 1024
# Larger images are not decoded, as that takes gigabytes; their header and checksums tell what they can.
_MAX_DECODED_PIXELS = 25_000_000
# All that is ever opened: other kinds have readers that run programs (EPS: Ghostscript). A JPEG with a second
# picture, as phones write it, opens as JPEG and is then called MPO.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
_TYPES = {"MPO": "image/jpeg"} | {kind: f"image/{kind.lower()}" for kind in _FORMATS}


def opened(source: str, field: str) -> Any:
    """Open a file of any storage that Airflow knows.

    :raises InvalidRequestError: when it is not there, or can never be opened.
    :raises ReferenceUnreadableError: when a retry may go better.
    """
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in source and not source.startswith("/"):
        raise InvalidRequestError(
            f"{field}: {source[:200]!r} is not an http(s) URL, nor a storage URL such as s3://conn@bucket/image.png, "
            "nor an absolute path."
        )
    try:
        path = ObjectStoragePath(source)
        if isinstance(path.fs, LocalFileSystem):
            _check_regular(Path(path.path))
        # As "rb" also a folder of some stores opens; it fails when it is read.
        return path.open("rb", block_size=_BLOCK_BYTES)
    except Exception as error:
        raise _unread(source, field, error) from error


def _check_regular(path: Path) -> None:
    """Refuse what never ends, or waits until somebody writes."""
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
    """Tell what no retry mends from what one may."""
    source = printable(source)
    if isinstance(error, FileNotFoundError):
        return InvalidRequestError(f"{field}: there is no reference file {source}.")
    if isinstance(error, IsADirectoryError):
        return InvalidRequestError(f"{field}: {source} is a folder, not an image.")
    if isinstance(error, ValueError) and "scheme" in str(error):
        return InvalidRequestError(
            f"{field}: {source} cannot be opened: {error}. Is the Airflow provider of this storage installed?"
        )
    if isinstance(error, (AirflowNotFoundException, ImportError, ValueError)):
        return InvalidRequestError(f"{field}: {source} cannot be opened: {str(error).rstrip('.')}.")
    return ReferenceUnreadableError(
        f"{field}: {source} cannot be read: {type(error).__name__}: {str(error).rstrip('.')}."
    )


def look_at(path: Path, source: str, field: str) -> tuple[str, int, int]:
    """Return Content-Type, width and height of an image by its bytes.

    :raises InvalidRequestError: when it is none, or damaged.
    """
    from PIL import Image

    if not path.stat().st_size:
        raise InvalidRequestError(f"{field}: {source} is empty.")
    try:
        with warnings.catch_warnings():
            # Large, and not decoded here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                facts = (_TYPES[image.format or ""], image.width, image.height)
                image.verify()
            if facts[1] * facts[2] <= _MAX_DECODED_PIXELS:
                # JPEG, GIF and WebP show only when decoded that they end too early.
                with Image.open(path, formats=_FORMATS) as image:
                    image.load()
    except Image.DecompressionBombError as error:
        raise InvalidRequestError(f"{field}: {source} has too many pixels: {error}") from error
    except Exception as error:
        raise InvalidRequestError(
            f"{field}: {source} is no image of an accepted type by its bytes, or a damaged one; "
            f"EvoLink takes {', '.join(UPLOAD_TYPES)}."
        ) from error
    return facts


def has_alpha(path: Path) -> bool:
    """Tell whether an image can be transparent."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as image:
        return image.has_transparency_data


def reference_type(path: Path) -> str:
    """Return the Content-Type of a local image by its bytes, checked against what EvoLink takes.

    :raises InvalidRequestError: when there is no such file, it is of another type, or larger than 100 MB.
    """
    if not path.is_file():
        raise InvalidRequestError(f"There is no reference file {path}.")
    size = path.stat().st_size
    if size > MAX_UPLOAD_BYTES:
        raise InvalidRequestError(
            f"The reference {path} has {size:,} bytes; EvoLink takes up to {MAX_UPLOAD_BYTES:,}."
        )
    return look_at(path, str(path), "The reference")[0]


def unique_name(name: str, content_type: str) -> str:
    """Return a file name that nothing else has: EvoLink overwrites a file of the same name."""
    stem = re.sub(r"[^\w.-]+", "-", Path(name).stem)[:_MAX_STEM_CHARACTERS].strip("-.") or "reference"
    return f"{stem}-{secrets.token_hex(8)}.{EXTENSIONS[content_type]}"
