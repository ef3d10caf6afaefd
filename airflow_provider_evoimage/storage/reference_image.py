"""One reference image as a file: opened wherever it lies, and told by its bytes."""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.evolink.uploads import MAX_UPLOAD_BYTES, UPLOAD_TYPES
from airflow_provider_evoimage.exceptions import InvalidRequestError, ReferenceUnreadableError
from airflow_provider_evoimage.version_compat import AirflowNotFoundException

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
_MAX_STEM_CHARACTERS = 60
_CHUNK_BYTES = 1024 * 1024
# Some stores read a block of this size ahead; s3fs would take 50 MB.
_BLOCK_BYTES = 4 * 1024 * 1024
# Larger images are not decoded, as that takes gigabytes; their header and checksums tell what they can.
_MAX_DECODED_PIXELS = 25_000_000


def opened(source: str, field: str) -> Any:
    """Open a file of any storage that Airflow knows.

    :raises InvalidRequestError: when it is not there, or can never be opened.
    :raises ReferenceUnreadableError: when a retry may go better.
    """
    if "://" not in source and not source.startswith("/"):
        raise InvalidRequestError(
            f"{field}: {source[:200]!r} is not an http(s) URL, nor a storage URL such as s3://conn@bucket/image.png, "
            "nor an absolute path."
        )
    try:
        # As "rb" also a folder of some stores opens; it fails when it is read.
        return ObjectStoragePath(source).open("rb", block_size=_BLOCK_BYTES)
    except Exception as error:
        raise _unread(source, field, error) from error


def chunks_of(file: IO[bytes], source: str) -> Iterator[bytes]:
    """Read a file piece by piece; raises what :func:`opened` does."""
    while True:
        try:
            chunk = file.read(_CHUNK_BYTES)
        except Exception as error:
            raise _unread(source, "image_urls", error) from error
        if not chunk:
            return
        yield chunk


def _unread(source: str, field: str, error: Exception) -> InvalidRequestError | ReferenceUnreadableError:
    """Tell what no retry mends from what one may."""
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
            with Image.open(path) as image:
                facts = (Image.MIME.get(_kind(image), ""), image.width, image.height)
                image.verify()
            if facts[1] * facts[2] <= _MAX_DECODED_PIXELS:
                # JPEG, GIF and WebP show only when decoded that they end too early.
                with Image.open(path) as image:
                    image.load()
    except Image.DecompressionBombError as error:
        raise InvalidRequestError(f"{field}: {source} has too many pixels: {error}") from error
    except Exception as error:
        raise InvalidRequestError(
            f"{field}: {source} is no image by its bytes, or a damaged one; EvoLink takes {', '.join(UPLOAD_TYPES)}."
        ) from error
    if facts[0] not in UPLOAD_TYPES:
        raise InvalidRequestError(
            f"{field}: {source} is {facts[0] or 'of unknown kind'} by its bytes; EvoLink's upload takes "
            f"{', '.join(UPLOAD_TYPES)}."
        )
    return facts


def _kind(image: Image) -> str:
    # A JPEG with a second picture, as phones write it.
    return "JPEG" if image.format == "MPO" else image.format or ""


def has_alpha(path: Path) -> bool:
    """Tell whether an image can be transparent."""
    from PIL import Image

    with Image.open(path) as image:
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
