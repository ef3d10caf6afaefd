"""EvoLink's API on the wire. Only this module, ``deadlines`` and ``result_links`` import httpx.

:class:`Transport` and :class:`AsyncTransport` send one request to EvoLink and return its answer.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import os
import platform
import socket
import ssl
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.deadlines import Deadline, DeadlinePassedError, Exchange, shared_watch
from airflow_provider_evoimage.evolink.protocol import Answer, FileToUpload
from airflow_provider_evoimage.exceptions import EvoLinkUnreachableError

_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CONNECT_TIMEOUT = 10.0
#: An answer of the API to a worker: fifty generations with long prompts and many links have less than 2 MB.
MAX_ANSWER_BYTES = 10_000_000
#: To a triggerer, where reading a large one would hold up every other trigger.
MAX_STATE_BYTES = 500_000
#: An upload gets this much more time than a request without one.
SLOWEST_UPLOAD_BYTES_PER_SECOND = 100_000
_UNPACKED_BYTES = 64 * 1024

# No byte of the request was sent, so EvoLink cannot have accepted it.
_NOTHING_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@functools.cache
def shared_ssl_context() -> ssl.SSLContext:
    """Return the one TLS context of this process. Making it reads the CA bundle, which blocks for 25 ms.

    :raises EvoLinkUnreachableError: when ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` cannot be used.
    """
    named = {each: os.environ[each] for each in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(each)}
    try:
        if "SSL_CERT_FILE" in named:
            # httpx 0.27 takes its own certificates where there is no such file.
            Path(named["SSL_CERT_FILE"]).open("rb").close()
        return httpx.create_ssl_context()
    except OSError as error:
        given = ", ".join(f"{each}={value}" for each, value in named.items())
        raise _unusable_network(f"The CA certificates cannot be read ({given or error}): {error}.") from error


@functools.cache
def require_usable_proxies() -> None:
    """Check what this machine's environment says of proxies, before it fails in the middle of a request.

    :raises EvoLinkUnreachableError: when httpx cannot use it.
    """
    try:
        httpx.Client(verify=shared_ssl_context()).close()
    except ImportError as error:
        raise _unusable_network("A SOCKS proxy needs: pip install 'httpx[socks]'.") from error
    except (httpx.InvalidURL, ValueError) as error:
        # Without the text of the error: the URL of a proxy may hold a password.
        named = [each for each in _PROXY_VARIABLES if os.environ.get(each) or os.environ.get(each.lower())]
        hint = " There an IPv6 address has no brackets and no range." if named == ["NO_PROXY"] else ""
        raise _unusable_network(
            f"The proxy settings of this machine cannot be used: correct {' and '.join(named) or 'them'}.{hint}"
        ) from error


def _unusable_network(message: str) -> EvoLinkUnreachableError:
    return EvoLinkUnreachableError(
        message,
        on_retry="This try sent nothing; a retry may run on another machine, and resumes what was submitted.",
    )


@functools.cache
def user_agent() -> str:
    """Name this product: EvoLink's media hosts refuse the default names of HTTP libraries."""
    try:
        airflow = importlib.metadata.version("apache-airflow")
    except importlib.metadata.PackageNotFoundError:
        airflow = "unknown"
    python = platform.python_version()
    return f"airflow-provider-evoimage/{__version__} (Airflow/{airflow}; Python/{python})"


async def prepare_for_asyncio() -> None:
    """Read files (CA bundle, package metadata) in a thread instead of the event loop, once in a process."""
    if not (require_usable_proxies.cache_info().currsize and user_agent.cache_info().currsize):
        await asyncio.to_thread(lambda: (require_usable_proxies(), user_agent()))


class NoAnswerError(Exception):
    """No answer came. Internal: the clients turn it into an :class:`EvoImageError`.

    :param words: what went wrong on the wire.
    :param nothing_sent: whether it is certain that no byte of the request left.
    """

    def __init__(self, words: str, *, nothing_sent: bool) -> None:
        super().__init__(words)
        self.words = words
        self.nothing_sent = nothing_sent


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """One request as it goes over the wire.

    :param within: seconds that are left for it, where that is less than usual.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    json: Mapping[str, Any] | None = None
    upload: FileToUpload | None = None
    within: float | None = None

    def seconds(self, timeout: float) -> float:
        """Return how long the exchange may take in all."""
        if self.upload is None:
            return timeout if self.within is None else min(timeout, self.within)
        return timeout + self.upload.path.stat().st_size / SLOWEST_UPLOAD_BYTES_PER_SECOND

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any]]:
        """Yield httpx's arguments; a file to upload is open until the context ends."""
        arguments: dict[str, Any] = {
            "method": self.method,
            "url": self.url,
            "json": self.json,
            "headers": self.headers,
        }
        with ExitStack() as files:
            if self.upload is not None:
                file = files.enter_context(self.upload.path.open("rb"))
                arguments["files"] = {"file": (self.upload.name, file, self.upload.content_type)}
                arguments["data"] = self.upload.fields
            yield arguments


class _Lane:
    """One connection, so that it is known which socket carries an exchange."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.http = httpx.Client(**options, limits=httpx.Limits(max_connections=1))
        self.connected: socket.socket | None = None


class Transport:
    """Blocking HTTP with as many connections as exchanges at a time.

    :param timeout: seconds that one exchange may take in all; an upload gets more, by its size.
    """

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._options = http_options(timeout, accept="application/json")
        self._lanes: list[_Lane] = []
        self._free: deque[_Lane] = deque()

    def close(self) -> None:
        """Close the connections."""
        for lane in self._lanes:
            lane.http.close()

    def send(self, request: Outgoing) -> Answer:
        """Send a request, follow no redirect.

        :raises NoAnswerError: when no complete answer came in time, or one that is too large.
        """
        lane = self._lane()
        exchange = Exchange(Deadline.after(request.seconds(self._timeout)), connected=lane.connected)
        try:
            with shared_watch().over(exchange), request.opened() as arguments:
                return self._exchange(lane, exchange, arguments)
        except DeadlinePassedError:
            raise _too_slow(exchange.deadline.seconds) from None
        except httpx.HTTPError as error:
            if not exchange.deadline.left:
                raise _too_slow(exchange.deadline.seconds) from None
            # Our error holds its text; the tracebacks of httpx and httpcore would only push it out of sight.
            raise _no_answer(error) from None
        finally:
            lane.connected = exchange.connected
            self._free.append(lane)

    def _lane(self) -> _Lane:
        try:
            return self._free.pop()
        except IndexError:
            lane = _Lane(self._options)
            self._lanes.append(lane)
            return lane

    @staticmethod
    def _exchange(lane: _Lane, exchange: Exchange, arguments: dict[str, Any]) -> Answer:
        with lane.http.stream(**arguments, extensions={"trace": exchange.trace}) as response:
            body = AnswerBody(response.headers, MAX_ANSWER_BYTES)
            for piece in response.iter_raw():
                body.add(piece)
                exchange.check_time()
            return _answer(response, body.complete())


class AsyncTransport:
    """The same as :class:`Transport`, awaited."""

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._http = httpx.AsyncClient(**http_options(timeout, accept="application/json"))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, request: Outgoing) -> Answer:
        """Send a request; see :meth:`Transport.send`."""
        seconds = request.seconds(self._timeout)
        try:
            async with asyncio.timeout(seconds):
                with request.opened() as arguments:
                    return await self._exchange(arguments)
        except TimeoutError:
            raise _too_slow(seconds) from None
        except httpx.HTTPError as error:
            raise _no_answer(error) from None

    async def _exchange(self, arguments: dict[str, Any]) -> Answer:
        async with self._http.stream(**arguments) as response:
            body = AnswerBody(response.headers, MAX_STATE_BYTES)
            async for piece in response.aiter_raw():
                body.add(piece)
            return _answer(response, body.complete())


class AnswerBody:
    """The body of an answer as it comes, unpacked in small pieces: httpx unpacks a bomb whole.

    :param limit: bytes on the wire, and bytes unpacked.
    :raises NoAnswerError: for an encoding that was not requested.
    """

    def __init__(self, headers: httpx.Headers, limit: int) -> None:
        self._limit = limit
        self._received = self._size = 0
        self._pieces: list[bytes] = []
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise NoAnswerError(
                f"The answer is encoded as {encoding[:40]!r}, which was not requested", nothing_sent=False
            )
        is_plain = encoding in {"", "identity"}
        self._unpacker = None if is_plain else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    def add(self, piece: bytes) -> None:
        """Take bytes as they came.

        :raises NoAnswerError: when there are too many, or they cannot be unpacked.
        """
        self._received += len(piece)
        self._check(self._received)
        if self._unpacker is None:
            self._pieces.append(piece)
            return
        rest = piece
        while rest and not self._unpacker.eof:
            try:
                unpacked = self._unpacker.decompress(rest, _UNPACKED_BYTES)
            except zlib.error as error:
                raise NoAnswerError(f"The answer cannot be unpacked ({error})", nothing_sent=False) from None
            self._size += len(unpacked)
            self._check(self._size)
            self._pieces.append(unpacked)
            rest = self._unpacker.unconsumed_tail

    def complete(self) -> bytes:
        """Return the whole body.

        :raises NoAnswerError: when the packed body ends too early.
        """
        if self._unpacker is not None and self._received and not self._unpacker.eof:
            raise NoAnswerError("The packed answer ends too early", nothing_sent=False)
        return b"".join(self._pieces)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise NoAnswerError(
                f"The answer is larger than {self._limit / 1_000_000:g} MB", nothing_sent=False
            )


def http_options(timeout: float, *, accept: str) -> dict[str, Any]:
    """Return the options that all HTTP clients share."""
    require_usable_proxies()
    return {
        # Not what httpx could unpack: only what we unpack in small pieces.
        "headers": {"User-Agent": user_agent(), "Accept": accept, "Accept-Encoding": "gzip, deflate"},
        "timeout": httpx.Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout)),
        "verify": shared_ssl_context(),
        "follow_redirects": False,
    }


def _answer(response: httpx.Response, body: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=body)


def _too_slow(seconds: float) -> NoAnswerError:
    return NoAnswerError(f"The exchange was not done within {seconds:g} s", nothing_sent=False)


def _no_answer(error: httpx.HTTPError) -> NoAnswerError:
    return NoAnswerError(wire_error_in_words(error), nothing_sent=isinstance(error, _NOTHING_SENT))


def wire_error_in_words(error: Exception) -> str:
    """Say what went wrong on the wire, in words that help to fix it."""
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return _connect_error_in_words(text)
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words.format(text)
    return f"The exchange failed ({type(error).__name__}: {text})"


def _connect_error_in_words(text: str) -> str:
    if "CERTIFICATE" in text.upper() or "SSL" in text.upper():
        return f"No trusted TLS connection ({text})"
    if any(sign in text for sign in _NAME_NOT_KNOWN):
        return f"The host name is not known ({text})"
    return f"No connection ({text})"


# What the resolver says on Linux, macOS and musl.
_NAME_NOT_KNOWN = (
    "Name or service not known",
    "nodename nor servname",
    "Name does not resolve",
    "name resolution",
)
_WORDS: dict[type[Exception], str] = {
    httpx.ConnectTimeout: "No connection within the timeout ({})",
    httpx.TimeoutException: "Silence for longer than the timeout ({})",
    httpx.ProxyError: "The proxy refused ({})",
    httpx.NetworkError: "The connection was cut ({})",
    httpx.RemoteProtocolError: "The connection was cut, or the answer is not valid HTTP ({})",
}
