"""HTTP to EvoLink and to the hosts of its results: the only module that imports httpx.

:class:`EvoLinkClient` and :class:`AsyncEvoLinkClient` carry out the calls that ``evolink.protocol`` describes;
they differ only in who awaits. :class:`ResultClient` fetches result links and knows no API key.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import platform
import ssl
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
import tenacity

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.evolink import protocol
from airflow_provider_evoimage.evolink.hosts import is_internal_host, is_public_address, literal_address
from airflow_provider_evoimage.evolink.models import Credits, Generation
from airflow_provider_evoimage.evolink.protocol import Answer, Call, Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    DownloadError,
    EvoImageError,
    EvoLinkApiError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    GenerationNotFoundError,
    OutcomeUnknownError,
    RateLimitError,
    UnreadableAnswerError,
    UnrepeatableSubmissionError,
)

Result = TypeVar("Result")
# Calls to carry out one after the other, each with how to repeat it; the client sends back what came of it.
Plan = Generator[tuple[Call[Any], dict[str, Any]], Any, Result]

DEFAULT_REQUEST_TIMEOUT = 60.0
DEFAULT_SUBMIT_TIMEOUT = 300.0
READ_ATTEMPTS = 4
# A read waits this long in all between its attempts; longer troubles are the caller's to outlast.
READ_RETRY_SECONDS = 90.0
MAX_REDIRECTS = 5

_NO_SUCH_ENDPOINT = frozenset({404, 405, 501})

# No byte of the request has left: nothing can have been accepted.
_NOTHING_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """How to reach EvoLink as one account.

    :param base_url: normalised, see ``evolink.hosts.api_base_url``.
    :param request_timeout: seconds one exchange may stay silent.
    :param max_requests_per_second: for this process; None for no limit.
    :param trust_idempotency: whether a repeated POST under the same key is taken to be free.
    """

    base_url: str
    api_key: str = field(repr=False)
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT
    max_requests_per_second: float | None = None
    trust_idempotency: bool = True


@functools.cache
def shared_ssl_context() -> ssl.SSLContext:
    """Return the one TLS context of this process: making one reads the CA bundle, 25 ms of blocked loop."""
    return httpx.create_ssl_context()


@functools.cache
def user_agent() -> str:
    """Name the product, as EvoLink's media hosts refuse the libraries' own names."""
    try:
        airflow = importlib.metadata.version("apache-airflow")
    except importlib.metadata.PackageNotFoundError:
        airflow = "unknown"
    python = platform.python_version()
    return f"airflow-provider-evoimage/{__version__} (Airflow/{airflow}; Python/{python})"


async def prepare_for_asyncio() -> None:
    """Do what reads files (CA bundle, package metadata) in a thread, once a process, not in the event loop."""
    if not (shared_ssl_context.cache_info().currsize and user_agent.cache_info().currsize):
        await asyncio.to_thread(lambda: (shared_ssl_context(), user_agent()))


class _Pacer:
    """Spaces the requests of one account within this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_slot = 0.0

    def reserve(self, per_second: float, now: float) -> float:
        """Take the next slot; return the seconds to wait for it."""
        with self._lock:
            slot = max(now, self._next_slot)
            self._next_slot = slot + 1 / per_second
            return slot - now


@functools.lru_cache(maxsize=256)
def _pacer(base_url: str, key_hash: int) -> _Pacer:
    return _Pacer()


class _Backoff(tenacity.wait.wait_base):
    """Waits as long as EvoLink asks, else a jittered, growing time."""

    def __init__(self, first: float, longest: float) -> None:
        self._growing = tenacity.wait_random_exponential(multiplier=first, max=longest)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        wished = error.retry_after if isinstance(error, EvoImageError) else None
        return self._growing(retry_state) if wished is None else wished


def _is_passing(error: BaseException) -> bool:
    """Tell whether reading again may go better."""
    return isinstance(
        error, (EvoLinkUnreachableError, EvoLinkUnavailableError, RateLimitError, UnreadableAnswerError)
    )


class _SubmissionRules:
    """What to do after a failed POST: wait, ask once more under the same key, or stop.

    Certainly not accepted (429, 503, no connection): wait and ask again, for as long as the time-out allows.
    Perhaps accepted (cut, silence, 5xx, unreadable): once more if the idempotency key is trusted.
    """

    def __init__(self, *, trust_idempotency: bool) -> None:
        self._trusted = trust_idempotency
        self._perhaps_accepted = False
        self._asked_again = False

    def asks_again(self, error: BaseException) -> bool:
        """Decide after each failure; tenacity's ``retry_if_exception``."""
        if not isinstance(error, EvoImageError) or not _is_passing(error):
            return False
        if self._is_not_accepted(error):
            return True
        self._perhaps_accepted = True
        if not self._trusted or self._asked_again:
            return False
        self._asked_again = True
        return True

    def _is_not_accepted(self, error: EvoImageError) -> bool:
        if isinstance(error, RateLimitError) or error.billed is False:
            return True
        # The first POST under this key is still being worked on; it will be replayed when it is done.
        if error.code == "paid_outcome_unknown":
            self._perhaps_accepted = True
            return self._trusted
        return error.http_status == 503 and (self._trusted or error.code is not None)  # noqa: PLR2004

    def verdict(self, error: EvoImageError) -> EvoImageError:
        """Return what to raise in the end: the error itself, or that the outcome is unknown."""
        if not self._perhaps_accepted:
            if error.billed is None and isinstance(error, EvoLinkUnavailableError):
                error.billed = False
            return error
        kind = OutcomeUnknownError if self._trusted else UnrepeatableSubmissionError
        return kind(
            f"EvoLink may have accepted the request, but its answer was lost: {error.message}",
            retry_after=error.retry_after,
            request_id=error.request_id,
            code=error.code,
            http_status=error.http_status,
        )


class _Exchange:
    """What the sync and the async client share: preparing a request, reading an answer, naming a failure."""

    def __init__(self, account: Account, *, read_attempts: int = READ_ATTEMPTS) -> None:
        self.account = account
        self._read_attempts = read_attempts
        self._batch_endpoint_missing = False

    def _client_options(self) -> dict[str, Any]:
        return {
            "base_url": self.account.base_url,
            "headers": {"User-Agent": user_agent(), "Accept": "application/json"},
            "timeout": httpx.Timeout(
                self.account.request_timeout, connect=min(10, self.account.request_timeout)
            ),
            "verify": shared_ssl_context(),
            "follow_redirects": False,
        }

    def _options(self, call: Call[Any]) -> dict[str, Any]:
        return {
            "method": call.method,
            "url": call.path,
            "json": call.json,
            "headers": {**call.headers, "Authorization": f"Bearer {self.account.api_key}"},
        }

    def _delay(self) -> float:
        per_second = self.account.max_requests_per_second
        if per_second is None:
            return 0.0
        pacer = _pacer(self.account.base_url, hash(self.account.api_key))
        return pacer.reserve(per_second, time.monotonic())

    def _result(self, call: Call[Result], response: httpx.Response) -> Result:
        headers = {name.lower(): value for name, value in response.headers.items()}
        answer = Answer(status=response.status_code, headers=headers, body=response.content)
        # Whoever quotes the key in a refusal, or in a page with status 200, must not bring it into our logs.
        redacted = replace(answer, body=answer.body.replace(self.account.api_key.encode(), b"***"))
        if not response.is_success:
            return call.result(redacted)
        try:
            return call.result(answer)
        except UnreadableAnswerError:
            if redacted.body == answer.body:
                raise
        return call.result(redacted)

    def _unreachable(self, call: Call[Any], error: httpx.HTTPError) -> EvoLinkUnreachableError:
        nothing_sent = isinstance(error, _NOTHING_SENT)
        return EvoLinkUnreachableError(
            f"{_in_words(error)} when asking {self.account.base_url} {call.asking}.",
            evolink_task_id=call.evolink_task_id,
            billed=False if call.pays and nothing_sent else None,
            on_retry="A retry goes on with this generation and submits nothing."
            if call.evolink_task_id
            else None,
        )

    def _reading(self) -> dict[str, Any]:
        return {
            "retry": tenacity.retry_if_exception(_is_passing),
            "wait": _Backoff(first=0.5, longest=10),
            "stop": tenacity.stop_after_attempt(self._read_attempts)
            | tenacity.stop_before_delay(READ_RETRY_SECONDS),
            "reraise": True,
        }

    def _submission(
        self, request: ImageRequest, idempotency_key: str, submit_timeout: float
    ) -> Plan[Submitted]:
        rules = _SubmissionRules(trust_idempotency=self.account.trust_idempotency)
        retrying = {
            "retry": tenacity.retry_if_exception(rules.asks_again),
            "wait": _Backoff(first=1, longest=30),
            "stop": tenacity.stop_before_delay(submit_timeout),
            "reraise": True,
        }
        try:
            submitted: Submitted = yield protocol.submit_generation(request, idempotency_key), retrying
        except EvoImageError as error:
            verdict = rules.verdict(error)
            if verdict is error:
                raise
            raise verdict from None
        return submitted

    def _generations(self, evolink_task_ids: Sequence[str]) -> Plan[dict[str, Generation]]:
        found: dict[str, Generation] = {}
        ids = list(dict.fromkeys(evolink_task_ids))
        while ids and not self._batch_endpoint_missing:
            try:
                found |= yield protocol.get_generations(ids[: protocol.MAX_IDS_PER_BATCH]), self._reading()
            except EvoLinkApiError as error:
                self._batch_endpoint_missing = error.http_status in _NO_SUCH_ENDPOINT
                if not self._batch_endpoint_missing:
                    raise
            else:
                ids = ids[protocol.MAX_IDS_PER_BATCH :]
        for evolink_task_id in ids:
            try:
                found[evolink_task_id] = yield protocol.get_generation(evolink_task_id), self._reading()
            except GenerationNotFoundError:
                continue
        return found


class EvoLinkClient(_Exchange):
    """EvoLink over blocking HTTP, for workers. Use as a context manager, or call :meth:`close`.

    :param account: where, as whom, how patiently.
    :param read_attempts: how often one read is tried when the failure is a passing one.
    """

    def __init__(self, account: Account, *, read_attempts: int = READ_ATTEMPTS) -> None:
        super().__init__(account, read_attempts=read_attempts)
        self._http = httpx.Client(**self._client_options())

    def __enter__(self) -> EvoLinkClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self, request: ImageRequest, idempotency_key: str, *, submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT
    ) -> Submitted:
        """Ask for images, once.

        :param submit_timeout: seconds to wait in all while EvoLink certainly accepts nothing.
        :raises OutcomeUnknownError: when the request may have been accepted and the answer is lost.
        :raises EvoImageError: when it was certainly not accepted.
        """
        return self._carry_out(self._submission(request, idempotency_key, submit_timeout))

    def get_generation(self, evolink_task_id: str) -> Generation:
        """Read one generation."""
        return self._attempt(protocol.get_generation(evolink_task_id), self._reading())

    def get_generations(self, evolink_task_ids: Sequence[str]) -> dict[str, Generation]:
        """Read many generations, 50 in one request; those that EvoLink does not know are missing."""
        return self._carry_out(self._generations(evolink_task_ids))

    def get_credits(self) -> Credits:
        """Read the balance of account and key; free of charge."""
        return self._attempt(protocol.get_credits(), self._reading())

    def _carry_out(self, plan: Plan[Result]) -> Result:
        try:
            step = next(plan)
            while True:
                try:
                    answer = self._attempt(*step)
                except EvoImageError as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _attempt(self, call: Call[Result], retrying: dict[str, Any]) -> Result:
        result: Result = tenacity.Retrying(**retrying)(self._once, call)
        return result

    def _once(self, call: Call[Result]) -> Result:
        if delay := self._delay():
            time.sleep(delay)
        try:
            response = self._http.request(**self._options(call))
        except httpx.HTTPError as error:
            # Its text is in ours; httpx's and httpcore's own traces only push the message out of sight.
            raise self._unreachable(call, error) from None
        return self._result(call, response)


class AsyncEvoLinkClient(_Exchange):
    """EvoLink over asyncio, for triggers. The same calls as :class:`EvoLinkClient`, awaited."""

    def __init__(self, account: Account, *, read_attempts: int = READ_ATTEMPTS) -> None:
        super().__init__(account, read_attempts=read_attempts)
        self._http = httpx.AsyncClient(**self._client_options())

    async def __aenter__(self) -> AsyncEvoLinkClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(
        self, request: ImageRequest, idempotency_key: str, *, submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT
    ) -> Submitted:
        """Ask for images, once; see :meth:`EvoLinkClient.submit`."""
        return await self._carry_out(self._submission(request, idempotency_key, submit_timeout))

    async def get_generation(self, evolink_task_id: str) -> Generation:
        """Read one generation."""
        return await self._attempt(protocol.get_generation(evolink_task_id), self._reading())

    async def get_generations(self, evolink_task_ids: Sequence[str]) -> dict[str, Generation]:
        """Read many generations, 50 in one request; those that EvoLink does not know are missing."""
        return await self._carry_out(self._generations(evolink_task_ids))

    async def get_credits(self) -> Credits:
        """Read the balance of account and key; free of charge."""
        return await self._attempt(protocol.get_credits(), self._reading())

    async def _carry_out(self, plan: Plan[Result]) -> Result:
        try:
            step = next(plan)
            while True:
                try:
                    answer = await self._attempt(*step)
                except EvoImageError as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _attempt(self, call: Call[Result], retrying: dict[str, Any]) -> Result:
        once: Callable[[Call[Result]], Awaitable[Result]] = self._once
        return await tenacity.AsyncRetrying(**retrying)(once, call)

    async def _once(self, call: Call[Result]) -> Result:
        if delay := self._delay():
            await asyncio.sleep(delay)
        try:
            response = await self._http.request(**self._options(call))
        except httpx.HTTPError as error:
            # Its text is in ours; httpx's and httpcore's own traces only push the message out of sight.
            raise self._unreachable(call, error) from None
        return self._result(call, response)


@dataclass(frozen=True, kw_only=True)
class ResultStream:
    """An open answer of a result host.

    :param length: bytes announced; None where the host does not say.
    :param chunks: the body, read from the network as it is consumed.
    """

    status: int
    content_type: str
    length: int | None
    chunks: Iterator[bytes] = field(repr=False)


class ResultClient:
    """Fetches result links. It holds no API key and follows links to public hosts only.

    :param allow_internal: take links to private and loopback addresses too; for an EvoLink that is itself
        at such an address (the simulator).
    """

    def __init__(self, *, allow_internal: bool = False, timeout: float = DEFAULT_REQUEST_TIMEOUT) -> None:
        self._allow_internal = allow_internal
        self._http = httpx.Client(
            headers={"User-Agent": user_agent(), "Accept": "image/*, application/octet-stream;q=0.9"},
            timeout=httpx.Timeout(timeout, connect=min(10, timeout)),
            verify=shared_ssl_context(),
            follow_redirects=False,
        )

    def __enter__(self) -> ResultClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @contextmanager
    def stream(self, url: str) -> Iterator[ResultStream]:
        """Open a link.

        :raises DownloadError: when the host is not public, not reachable, or redirects without end.
        """
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._check_target(url)
                with self._http.stream("GET", url) as response:
                    if response.has_redirect_location:
                        url = urljoin(url, response.headers["location"])
                        continue
                    self._check_peer(response)
                    yield _opened(response)
                    return
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:
            raise DownloadError(f"{_in_words(error)} when downloading from {host_of(url)}.") from None
        raise DownloadError(f"The result link redirects more than {MAX_REDIRECTS} times.")

    def _check_target(self, url: str) -> None:
        host = host_of(url)
        if not url.startswith(("https://", "http://")) or not host:
            raise DownloadError("The result link is not an http(s) address.")
        if not self._allow_internal and is_internal_host(host):
            raise DownloadError(f"The result link points to {host}, which is not a public host.")

    def _check_peer(self, response: httpx.Response) -> None:
        """Refuse an answer that came from an internal address under a public name.

        Behind a proxy the peer is the proxy, which may well be internal, and resolving names is its part.
        """
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if self._allow_internal or peer is None or _is_proxied(str(response.url)):
            return
        address = literal_address(str(peer[0]))
        if address is not None and not is_public_address(address):
            raise DownloadError(
                f"The result link's host resolves to {peer[0]}, which is not a public address."
            )


def _opened(response: httpx.Response) -> ResultStream:
    length = response.headers.get("content-length", "")
    # A compressed body is shorter on the wire than what it unpacks to.
    known = length.isdigit() and "content-encoding" not in response.headers
    return ResultStream(
        status=response.status_code,
        content_type=response.headers.get("content-type", ""),
        length=int(length) if known else None,
        chunks=response.iter_bytes(),
    )


def host_of(url: str) -> str:
    """Name the host of a link for a message, as the rest of a link may be signed; empty where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_proxied(url: str) -> bool:
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    return (parts.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(
        parts.hostname or ""
    )


def _in_words(error: Exception) -> str:
    """Say what went wrong on the wire, in the words of somebody who has to mend it."""
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


# The resolver's words on Linux, macOS and musl.
_NAME_NOT_KNOWN = (
    "Name or service not known",
    "nodename nor servname",
    "Name does not resolve",
    "name resolution",
)
_WORDS: dict[type[Exception], str] = {
    httpx.ConnectTimeout: "No connection within the time-out ({})",
    httpx.TimeoutException: "Silence for longer than the time-out ({})",
    httpx.ProxyError: "The proxy refused ({})",
    httpx.NetworkError: "The connection was cut ({})",
    httpx.RemoteProtocolError: "The connection was cut ({})",
}
