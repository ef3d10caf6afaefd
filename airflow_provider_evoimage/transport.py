"""EvoLink's API on the wire. Only this module and ``result_links`` import httpx.

:class:`Transport` and :class:`AsyncTransport` send one request to EvoLink and return its answer.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import platform
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.evolink.protocol import Answer, FileToUpload

_CONNECT_TIMEOUT = 10.0

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
    """Return the one TLS context of this process. Making it reads the CA bundle, which blocks for 25 ms."""
    return httpx.create_ssl_context()


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
    if not (shared_ssl_context.cache_info().currsize and user_agent.cache_info().currsize):
        await asyncio.to_thread(lambda: (shared_ssl_context(), user_agent()))


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
    """One request as it goes over the wire."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    json: Mapping[str, Any] | None = None
    upload: FileToUpload | None = None

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


class Transport:
    """Blocking HTTP with one pool of connections.

    :param timeout: seconds an exchange may stay silent.
    """

    def __init__(self, *, timeout: float) -> None:
        self._http = httpx.Client(**http_options(timeout, accept="application/json"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, request: Outgoing) -> Answer:
        """Send a request, follow no redirect.

        :raises NoAnswerError: when no answer came.
        """
        try:
            with request.opened() as arguments:
                return _answer(self._http.request(**arguments))
        except httpx.HTTPError as error:
            # Our error holds its text; the tracebacks of httpx and httpcore would only push it out of sight.
            raise _no_answer(error) from None


class AsyncTransport:
    """The same as :class:`Transport`, awaited."""

    def __init__(self, *, timeout: float) -> None:
        self._http = httpx.AsyncClient(**http_options(timeout, accept="application/json"))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, request: Outgoing) -> Answer:
        """Send a request; see :meth:`Transport.send`."""
        try:
            with request.opened() as arguments:
                return _answer(await self._http.request(**arguments))
        except httpx.HTTPError as error:
            raise _no_answer(error) from None


def http_options(timeout: float, *, accept: str) -> dict[str, Any]:
    """Return the options that all HTTP clients share."""
    return {
        "headers": {"User-Agent": user_agent(), "Accept": accept},
        "timeout": httpx.Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout)),
        "verify": shared_ssl_context(),
        "follow_redirects": False,
    }


def _answer(response: httpx.Response) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=response.content)


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
