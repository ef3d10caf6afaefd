"""Downloads one result link to a local temporary file: limited, complete, checked as an image, hashed and measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import tenacity

from airflow_provider_evoimage.deadlines import Deadline
from airflow_provider_evoimage.exceptions import DownloadError, TooLargeError
from airflow_provider_evoimage.images.result_file import IMAGE_TYPES, ImageFile, describe_image
from airflow_provider_evoimage.result_links import (
    DownloadLimits,
    ResultClient,
    ResultStream,
    host_of,
)

__all__ = [
    "IMAGE_TYPES",
    "ImageFile",
    "RefusedLinkError",
    "describe_image",
    "download_image",
]

# Statuses of a dead link, or of a host that denies this client access.
REFUSED_LINK_STATUSES = frozenset({401, 403, 404, 410})


class RefusedLinkError(DownloadError):
    """The host answered 401, 403, 404 or 410: a dead link, or one that must be read again from the task."""


def download_image(client: ResultClient, url: str, path: Path, limits: DownloadLimits) -> ImageFile:
    """Download a link to ``path``; retry on transient errors.

    :raises NotAnImageError: when the bytes are no image of a known kind.
    :raises TooLargeError: when there are more bytes than the limit.
    :raises UnsafeLinkError: when the link leads to an internal address.
    :raises RefusedLinkError: when the host refuses the link.
    :raises DownloadError: when no complete image came in time.
    """
    deadline = Deadline.after(limits.seconds)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: _may_pass(error) and deadline.left > 0),
        stop=tenacity.stop_after_attempt(limits.attempts),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=10),
        reraise=True,
    )
    image: ImageFile = attempts(_download_once, client, url, path, limits, deadline)
    return image


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, DownloadError) and error.retryable and not isinstance(error, RefusedLinkError)


def _download_once(
    client: ResultClient, url: str, path: Path, limits: DownloadLimits, deadline: Deadline
) -> ImageFile:
    with client.stream(url, deadline) as stream:
        _check_status(stream, url)
        if stream.length is not None and stream.length > limits.bytes:
            raise TooLargeError(
                f"{host_of(url)} announces {stream.length:,} bytes; the limit is {limits.bytes:,}."
            )
        size, sha256 = _written(_bounded(stream, limits), path)
    if stream.length is not None and size != stream.length:
        raise DownloadError(f"{host_of(url)} sent {size:,} of the {stream.length:,} bytes it had announced.")
    return describe_image(path, size=size, sha256=sha256)


def _check_status(stream: ResultStream, url: str) -> None:
    if stream.status == 200:
        return
    kind = RefusedLinkError if stream.status in REFUSED_LINK_STATUSES else DownloadError
    raise kind(f"{host_of(url)} answered HTTP {stream.status} for a result link.", http_status=stream.status)


def _bounded(stream: ResultStream, limits: DownloadLimits) -> Iterator[bytes]:
    size = 0
    for chunk in stream.chunks:
        size += len(chunk)
        if size > limits.bytes:
            raise TooLargeError(f"The result is longer than {limits.bytes:,} bytes, the limit.")
        yield chunk


def _written(chunks: Iterator[bytes], path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    except OSError as error:
        raise DownloadError(
            f"The temporary folder {path.parent} of this machine did not take the image: {error}."
        ) from error
    return size, digest.hexdigest()
