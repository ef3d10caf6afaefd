"""Fetches one result link into a local temporary file: bounded, complete, an image, hashed and measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tenacity

from airflow_provider_evoimage.exceptions import DownloadError, NotAnImageError
from airflow_provider_evoimage.transport import ResultClient, ResultStream, host_of

MAX_IMAGE_BYTES = 200 * 1024 * 1024
MAX_DOWNLOAD_SECONDS = 600.0
DOWNLOAD_ATTEMPTS = 3
# A page of a proxy or a CDN is far shorter than an image; this much of it is enough to recognise one.
_CHUNK_BYTES = 256 * 1024
# Answers of a host whose link is dead, or which does not let this client in.
REFUSED_LINK_STATUSES = frozenset({401, 403, 404, 410})

#: Extension and Content-Type of each kind of image that is taken, by Pillow's name of it.
IMAGE_TYPES: dict[str, tuple[str, str]] = {
    "PNG": ("png", "image/png"),
    "JPEG": ("jpg", "image/jpeg"),
    "MPO": ("jpg", "image/jpeg"),
    "WEBP": ("webp", "image/webp"),
    "GIF": ("gif", "image/gif"),
    "BMP": ("bmp", "image/bmp"),
    "TIFF": ("tiff", "image/tiff"),
    "AVIF": ("avif", "image/avif"),
}


class RefusedLinkError(DownloadError):
    """The host answered 401, 403, 404 or 410: a dead link, or one that must be read again from the task."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image in a local file, as its bytes tell.

    :param extension: without the dot.
    """

    path: Path
    bytes: int
    sha256: str
    content_type: str
    extension: str
    width: int
    height: int


def download_image(client: ResultClient, url: str, path: Path) -> ImageFile:
    """Fetch a link into ``path``; try again on passing troubles.

    :raises NotAnImageError: when the bytes are no image of a known kind.
    :raises RefusedLinkError: when the host does not give the link out.
    :raises DownloadError: when no complete body came.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, DownloadError) and not isinstance(error, _FINAL)
        ),
        stop=tenacity.stop_after_attempt(DOWNLOAD_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=10),
        reraise=True,
    )
    image: ImageFile = attempts(_download_once, client, url, path)
    return image


_FINAL = (RefusedLinkError, NotAnImageError)


def _download_once(client: ResultClient, url: str, path: Path) -> ImageFile:
    with client.stream(url) as stream:
        _check_status(stream, url)
        digest = hashlib.sha256()
        size = 0
        with path.open("wb") as file:
            for chunk in _bounded(stream):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    if stream.length is not None and size != stream.length:
        raise DownloadError(f"{host_of(url)} sent {size:,} of the {stream.length:,} bytes it had announced.")
    return describe_image(path, size=size, sha256=digest.hexdigest())


def _check_status(stream: ResultStream, url: str) -> None:
    if stream.status in REFUSED_LINK_STATUSES:
        raise RefusedLinkError(
            f"{host_of(url)} answered HTTP {stream.status} for a result link.", http_status=stream.status
        )
    if stream.status != 200:
        raise DownloadError(
            f"{host_of(url)} answered HTTP {stream.status} for a result link.", http_status=stream.status
        )
    if stream.length is not None and stream.length > MAX_IMAGE_BYTES:
        raise DownloadError(
            f"{host_of(url)} announces {stream.length:,} bytes; more than {MAX_IMAGE_BYTES:,} are not taken."
        )


def _bounded(stream: ResultStream) -> Iterator[bytes]:
    started = time.monotonic()
    size = 0
    for chunk in stream.chunks:
        size += len(chunk)
        if size > MAX_IMAGE_BYTES:
            raise DownloadError(f"The result is larger than {MAX_IMAGE_BYTES:,} bytes.")
        if time.monotonic() - started > MAX_DOWNLOAD_SECONDS:
            raise DownloadError(f"The download was not done within {MAX_DOWNLOAD_SECONDS:.0f} s.")
        yield chunk


def describe_image(path: Path, *, size: int | None = None, sha256: str | None = None) -> ImageFile:
    """Tell what an image file is from its bytes: kind, pixel size, hash.

    :raises NotAnImageError: when it is no image of a known kind, or a decompression bomb.
    :raises DownloadError: when it is damaged or ends too early.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            kind, (width, height) = image.format or "", image.size
            _check_pixels(width, height)
    except Image.DecompressionBombError as error:
        raise NotAnImageError(f"The result is refused as a decompression bomb: {error}.") from error
    except Exception as error:  # Damaged bytes make Pillow's readers raise anything.
        raise NotAnImageError(f"The result is not an image: {_beginning_of(path)}.") from error
    if kind not in IMAGE_TYPES:
        raise NotAnImageError(f"The result is an image of a kind that is not taken: {kind or 'unknown'}.")
    _check_whole(path)
    extension, content_type = IMAGE_TYPES[kind]
    return ImageFile(
        path=path,
        bytes=path.stat().st_size if size is None else size,
        sha256=_sha256(path) if sha256 is None else sha256,
        content_type=content_type,
        extension=extension,
        width=width,
        height=height,
    )


def _check_whole(path: Path) -> None:
    """Check that the image is there to its end; another download may mend one that is not."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()
        # What is verified differs by kind: JPEG, GIF and TIFF show only when decoded that they end too early.
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # As above.
        raise DownloadError(
            f"The image is damaged or ends too early ({path.stat().st_size:,} bytes): {error}."
        ) from error


def _check_pixels(width: int, height: int) -> None:
    """Refuse as a bomb what Pillow only warns of: turning warnings into errors is nothing for several threads."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"it claims {width:,} × {height:,} pixels")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beginning_of(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(60)
    if not start:
        return "it is empty"
    if start.lstrip()[:1] in {b"<", b"{", b"["}:
        return "it begins like a web page or JSON"
    return f"its bytes match no known kind, or end too early ({path.stat().st_size:,} bytes)"
