"""Fetches result links: limits hosts, redirects, size and time.

:class:`ResultClient` knows no API key. With ``transport`` and ``deadlines`` the only module that imports httpx.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpcore
import httpx

from airflow_provider_evoimage.deadlines import Deadline, DeadlinePassedError, DeadlineWatch, Exchange
from airflow_provider_evoimage.defaults import (
    DEFAULT_DOWNLOAD_TIMEOUT,
    DEFAULT_MAX_IMAGE_MEGABYTES,
    DEFAULT_REQUEST_TIMEOUT,
)
from airflow_provider_evoimage.evolink.hosts import literal_address, network_of_address, network_of_host
from airflow_provider_evoimage.exceptions import DownloadError, UnsafeLinkError
from airflow_provider_evoimage.transport import http_options, wire_error_in_words

MAX_REDIRECTS = 5
_NO_LIMIT_BYTES = 2**62


@dataclass(frozen=True, kw_only=True)
class ResultStream:
    """An open answer of a result host.

    :param length: bytes announced; None where the host does not say.
    :param chunks: the body, unpacked, read from the network as it is consumed; no chunk is above 256 KiB.
    """

    status: int
    content_type: str
    length: int | None
    chunks: Iterator[bytes] = field(repr=False)


class ResultClient:
    """Fetches result links. It holds no API key and follows links to public hosts only.

    :param evolink_host: host of the EvoLink that gave the links. If that is this machine (the simulator) or
        on a private network, links may lead there as well; never to another kind of internal address.
    :param timeout: seconds a host may stay silent.
    """

    def __init__(self, *, evolink_host: str = "", timeout: float = DEFAULT_REQUEST_TIMEOUT) -> None:
        self._networks = {"public", network_of_host(evolink_host)} - {"special"}
        options = http_options(timeout, accept="image/*, application/octet-stream;q=0.9")
        # Images are compressed already, and an uncompressed body cannot be a decompression bomb.
        options["headers"]["Accept-Encoding"] = "identity"
        # A new connection for each link, so that its peer can be checked and its time limited.
        self._http = httpx.Client(**options, limits=httpx.Limits(max_keepalive_connections=0))
        self._watch = DeadlineWatch()

    def __enter__(self) -> ResultClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._http.close()

    def abandon(self) -> None:
        """Cut the downloads of other threads, and open no new ones."""
        self._watch.end_all()

    @contextmanager
    def stream(self, url: str, deadline: Deadline) -> Iterator[ResultStream]:
        """Open a link, and cut the connection when the deadline passes, also while nothing is read.

        :raises UnsafeLinkError: when it is no http(s) address, or it or a redirect leads to an internal host.
        :raises DownloadError: when the host is not reachable, redirects without end, or takes too long.
        :raises CancelledError: when the downloads are abandoned.
        """
        for _ in range(MAX_REDIRECTS + 1):
            self._check_target(url)
            exchange = Exchange(deadline, check_peer=functools.partial(self._check_peer, url))
            try:
                with (
                    self._watch.over(exchange),
                    self._http.stream("GET", url, extensions={"trace": exchange.trace}) as response,
                ):
                    if response.next_request is None:
                        yield _opened(response)
                        exchange.check_time()
                        return
                    url = str(response.next_request.url)
            except DeadlinePassedError:
                raise _took_too_long(deadline) from None
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError, zlib.error) as error:
                if not deadline.left:
                    raise _took_too_long(deadline) from None
                raise DownloadError(
                    f"{wire_error_in_words(error)} when downloading from {host_of(url)}."
                ) from None
        raise DownloadError(f"The result link redirects more than {MAX_REDIRECTS} times.")

    def _check_target(self, url: str) -> None:
        host = host_of(url)
        if not url.startswith(("https://", "http://")) or not host:
            raise UnsafeLinkError("The result link, or what it redirects to, is not an http(s) address.")
        if network_of_host(host) not in self._networks:
            raise UnsafeLinkError(
                f"The result link points, or redirects, to {host}, which is not a public host."
            )

    def _check_peer(self, url: str, asked_of: str, peer: str) -> None:
        """Refuse an internal address under a public name, as it was really connected to.

        Behind a proxy the peer is the proxy. It may be internal, and it resolves the names.

        :param asked_of: the host that is connected to.
        """
        if asked_of != httpx.URL(url).raw_host.decode("ascii"):
            return
        address = literal_address(peer)
        if address is not None and network_of_address(address) not in self._networks:
            raise UnsafeLinkError(
                f"The result link's host {host_of(url)} resolves to {peer}, which is not a public address."
            )


def _took_too_long(deadline: Deadline) -> DownloadError:
    return DownloadError(f"The download was not done within {deadline.seconds:g} s.")


def _opened(response: httpx.Response) -> ResultStream:
    length = response.headers.get("content-length", "")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    is_plain = encoding in {"", "identity"}
    sent = int(length) if length.isdigit() and "transfer-encoding" not in response.headers else None
    return ResultStream(
        status=response.status_code,
        content_type=response.headers.get("content-type", ""),
        # A compressed body is shorter on the wire than what it unpacks to.
        length=sent if is_plain else None,
        chunks=_plain(response, sent) if is_plain else _unpacked(response, encoding),
    )


_CHUNK_BYTES = 64 * 1024
_READ_BYTES = 256 * 1024
# Packing makes a body longer by less than a hundredth, so more than this and nothing behind it are endless blocks.
_PACKED_OVERHEAD_BYTES = 1_000_000


def _plain(response: httpx.Response, length: int | None) -> Iterator[bytes]:
    """Give a body as it comes.

    Where its length is known it is read from the connection itself after the first piece: that takes half of
    the processor's time, as httpcore reads 64 kB at a time, and each is copied thrice.
    """
    pieces = response.iter_raw()
    if length is None:
        yield from pieces
        return
    # All that came along with the headers.
    first = next(pieces, b"")
    yield first
    missing = length - len(first)
    while missing > 0:
        piece = _read(response, min(missing, _READ_BYTES))
        if not piece:
            raise httpx.RemoteProtocolError(
                f"peer closed connection without sending complete message body "
                f"(received {length - missing} bytes, expected {length})"
            )
        missing -= len(piece)
        yield piece


def _read(response: httpx.Response, count: int) -> bytes:
    """Read from the connection of an answer; this is below httpx, which has the errors in words of its own."""
    connection: httpcore.NetworkStream = response.extensions["network_stream"]
    try:
        return connection.read(count, timeout=response.request.extensions["timeout"]["read"])
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(str(error), request=response.request) from error
    except httpcore.NetworkError as error:
        raise httpx.ReadError(str(error), request=response.request) from error


def _unpacked(response: httpx.Response, encoding: str) -> Iterator[bytes]:
    """Unpack a body in small pieces: httpx unpacks a whole network chunk at once, a thousandfold for a bomb.

    It should not come compressed, as we ask for that; some object stores keep objects so and send them as
    they are.
    """
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise DownloadError(
            f"{host_of(str(response.url))} sent a body in {encoding[:40]!r}, which was not requested."
        )
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its header says.
    received = size = 0
    for packed in response.iter_raw():
        received += len(packed)
        if received > size * 1.01 + _PACKED_OVERHEAD_BYTES:
            raise DownloadError(
                f"{host_of(str(response.url))} sends a compressed body that unpacks to less than it has."
            )
        rest = packed
        while rest:
            if unpacker.eof:  # Another member follows, as gzip allows.
                unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            piece = unpacker.decompress(rest, _CHUNK_BYTES)
            size += len(piece)
            yield piece
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    yield unpacker.flush()
    if not unpacker.eof:
        raise DownloadError(f"The compressed body from {host_of(str(response.url))} ends too early.")


def host_of(url: str) -> str:
    """Name the host of a link for a message, as the rest of a link may be signed; empty where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, kw_only=True)
class DownloadLimits:
    """The limits of a download.

    :param bytes: size of an image.
    :param seconds: time for an image in all: redirects, silences and repeated attempts among it.
    :param attempts: attempts for a link, on transient errors.
    """

    bytes: int = int(DEFAULT_MAX_IMAGE_MEGABYTES * 1_000_000)
    seconds: float = DEFAULT_DOWNLOAD_TIMEOUT
    attempts: int = 3

    @classmethod
    def of(cls, *, megabytes: float | None, seconds: float | None) -> DownloadLimits:
        """Return the given limits, and defaults for the others."""
        return cls(
            # A number too large to multiply means no limit.
            bytes=cls.bytes if megabytes is None else int(min(megabytes * 1_000_000, _NO_LIMIT_BYTES)),
            seconds=cls.seconds if seconds is None else seconds,
        )
