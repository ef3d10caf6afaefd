"""EvoLink's API as methods: how often to try a call, how long to wait, which error to raise.

The calls themselves are described in ``evolink.protocol`` and ``evolink.files``. :class:`EvoLinkClient` has them all;
:class:`AsyncEvoLinkClient` has those that a trigger needs.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from airflow_provider_evoimage.defaults import DEFAULT_REQUEST_TIMEOUT, DEFAULT_SUBMIT_TIMEOUT
from airflow_provider_evoimage.evolink import files, protocol
from airflow_provider_evoimage.evolink.answers import Credits, Generation, GenerationPage, GenerationState
from airflow_provider_evoimage.evolink.errors import RETRY_RESUMES
from airflow_provider_evoimage.evolink.files import FilePage, FileQuota, UploadedFile
from airflow_provider_evoimage.evolink.outcome import after_no_answer, is_still_deciding
from airflow_provider_evoimage.evolink.protocol import Answer, Call, Submitted, redacted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.evolink.usage import MOST_PAGES, CreditsLeft, WeekOfUse
from airflow_provider_evoimage.exceptions import (
    TRANSIENT_ERRORS,
    AuthenticationError,
    EvoImageError,
    EvoLinkApiError,
    EvoLinkUnreachableError,
    GenerationNotFoundError,
    OutcomeUnknownError,
    RateLimitError,
    UnreadableAnswerError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.transport import (
    AsyncTransport,
    NoAnswerError,
    Outgoing,
    Transport,
)

Result = TypeVar("Result")

READ_ATTEMPTS = 4
# Total seconds that a read waits between its attempts; the caller outlasts longer outages.
READ_RETRY_SECONDS = 90.0

# Seconds that this machine's clock and EvoLink's may differ and count as equal.
_CLOCK_TOLERANCE = 60.0

# An answer to fifty ids has about 75 kB; a larger one is read in a thread.
_LARGE_BODY_BYTES = 256_000

_NO_SUCH_ENDPOINT = frozenset({404, 405, 501})


@dataclass(frozen=True, kw_only=True)
class Account:
    """How to reach EvoLink as one account.

    :param base_url: normalised, see ``evolink.hosts.api_base_url``.
    :param files_base_url: likewise, of the files API; empty for the same host.
    :param request_timeout: seconds that one exchange may take in all.
    :param max_requests_per_second: for this process; None for no limit.
    :param trust_idempotency: whether a repeated POST under the same key counts as free.
    """

    base_url: str
    files_base_url: str = ""
    api_key: str = field(repr=False)
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT
    max_requests_per_second: float | None = None
    trust_idempotency: bool = True


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
        retry_after = error.retry_after if isinstance(error, EvoImageError) else None
        return self._growing(retry_state) if retry_after is None else retry_after


class _SubmissionRules:
    """What to do after a failed POST: wait, ask once more under the same key, or stop.

    ``evolink.outcome`` says whether EvoLink refused the POST or may have accepted it. After a refusal that may pass
    (429, EvoLink's own 503, no connection): wait and ask again until the timeout. When it may have accepted (cut,
    silence, 5xx, unreadable answer): ask once more, if the idempotency key is trusted. A proxy's 503 and "still
    being worked on" are waited for like a refusal then, but the outcome stays unknown.
    """

    def __init__(self, *, trust_idempotency: bool) -> None:
        self._trusted = trust_idempotency
        self._outcome_unknown = False
        self._asked_again = False

    def asks_again(self, error: BaseException) -> bool:
        """Decide after each failure; tenacity's ``retry_if_exception``."""
        if not isinstance(error, TRANSIENT_ERRORS):
            return False
        if error.billed is False:
            return True
        self._outcome_unknown = True
        if not self._trusted:
            return False
        if error.http_status == 503 or is_still_deciding(error.code):
            return True
        is_first = not self._asked_again
        self._asked_again = True
        return is_first

    def verdict(self, error: EvoImageError) -> EvoImageError:
        """Return what to raise in the end: the error itself, or that the outcome is unknown."""
        if not self._outcome_unknown:
            return error
        kind = OutcomeUnknownError if self._trusted else UnrepeatableSubmissionError
        return kind(
            f"EvoLink may have accepted the request, but its answer was lost: {error.message}",
            retry_after=error.retry_after,
            request_id=error.request_id,
            code=error.code,
            http_status=error.http_status,
        )


class _AccountClient:
    """What the sync and the async client share: prepare a request, read an answer, name a failure."""

    def __init__(self, account: Account, *, read_attempts: int) -> None:
        self.account = account
        self._read_attempts = read_attempts

    def _host(self, call: Call[Any]) -> str:
        return (
            self.account.base_url
            if call.service == "api"
            else self.account.files_base_url or self.account.base_url
        )

    def _outgoing(self, call: Call[Any], *, within: float | None = None) -> Outgoing:
        return Outgoing(
            method=call.method,
            url=f"{self._host(call)}{call.path}",
            headers={**call.headers, "Authorization": f"Bearer {self.account.api_key}"},
            json=call.json,
            upload=call.upload,
            within=within,
        )

    def _delay(self) -> float:
        per_second = self.account.max_requests_per_second
        if per_second is None:
            return 0.0
        pacer = _pacer(self.account.base_url, hash(self.account.api_key))
        return pacer.reserve(per_second, time.monotonic())

    def _result(self, call: Call[Result], answer: Answer) -> Result:
        # An answer may quote the key anywhere: keep it out of logs, results and file names.
        return call.result(redacted(answer, self.account.api_key))

    def _unreachable(self, call: Call[Any], error: NoAnswerError) -> EvoLinkUnreachableError:
        return EvoLinkUnreachableError(
            f"{error.words} when asking {self._host(call)} {call.asking}.",
            evolink_task_id=call.evolink_task_id,
            billed=call.billed_after(after_no_answer(nothing_sent=error.nothing_sent)),
            on_retry=RETRY_RESUMES if call.evolink_task_id else None,
        )

    def _reading(self, *, within: float = READ_RETRY_SECONDS) -> dict[str, Any]:
        return {
            "retry": tenacity.retry_if_exception_type(TRANSIENT_ERRORS),
            "wait": _Backoff(first=0.5, longest=10),
            "stop": tenacity.stop_after_attempt(self._read_attempts)
            | tenacity.stop_before_delay(min(within, READ_RETRY_SECONDS)),
            "reraise": True,
        }


class EvoLinkClient(_AccountClient):
    """EvoLink over blocking HTTP, for workers. Use as a context manager, or call :meth:`close`.

    :param account: how to reach EvoLink, and as whom.
    """

    def __init__(self, account: Account) -> None:
        super().__init__(account, read_attempts=READ_ATTEMPTS)
        self._transport = Transport(timeout=account.request_timeout)
        self._reads_one_by_one = False
        self._clock_is_ahead = 0.0
        self._read_until: float | None = None

    def __enter__(self) -> EvoLinkClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def now(self) -> float:
        """Return the Unix seconds by EvoLink's clock, as its last answer told it; before one, by this machine's.

        Result links live by EvoLink's clock. A worker whose clock is hours ahead must not take them for dead.
        """
        return time.time() - self._clock_is_ahead

    @contextmanager
    def reading_within(self, seconds: float) -> Iterator[None]:
        """Let the reads of this block take no longer in all, with their repetitions; for one thread."""
        self._read_until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._read_until = None

    def submit(
        self, request: ImageRequest, idempotency_key: str, *, submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT
    ) -> Submitted:
        """Ask for images, once.

        :param submit_timeout: seconds to wait in all while EvoLink certainly accepts nothing.
        :raises OutcomeUnknownError: when the request may have been accepted and the answer is lost.
        :raises EvoImageError: when EvoLink refused it.
        """
        rules = _SubmissionRules(trust_idempotency=self.account.trust_idempotency)
        retrying = {
            "retry": tenacity.retry_if_exception(rules.asks_again),
            "wait": _Backoff(first=1, longest=30),
            "stop": tenacity.stop_before_delay(submit_timeout),
            "reraise": True,
        }
        try:
            return self._attempt(protocol.submit_generation(request, idempotency_key), retrying)
        except EvoImageError as error:
            verdict = rules.verdict(error)
            if verdict is error:
                raise
            raise verdict from None

    def get_generation(self, evolink_task_id: str) -> Generation:
        """Read one generation."""
        return self._attempt(protocol.get_generation(evolink_task_id), self._reading())

    def get_generations(self, evolink_task_ids: Sequence[str]) -> dict[str, Generation]:
        """Read many generations, 50 in one request; those that EvoLink does not know are missing."""
        found: dict[str, Generation] = {}
        ids = list(dict.fromkeys(evolink_task_ids))
        is_in_doubt = False
        while len(ids) > 1 and not self._reads_one_by_one:
            call = protocol.get_generations(ids[: protocol.MAX_IDS_PER_BATCH])
            try:
                some: dict[str, Generation] = self._attempt(call, self._reading())
            except (AuthenticationError, RateLimitError):
                raise
            except (EvoLinkApiError, UnreadableAnswerError) as error:
                # The endpoint is missing or fails: each generation can be read by itself.
                self._reads_one_by_one = not isinstance(error, TRANSIENT_ERRORS)
                is_in_doubt = error.http_status in _NO_SUCH_ENDPOINT
                break
            found |= some
            ids = ids[protocol.MAX_IDS_PER_BATCH :]
        for evolink_task_id in ids:
            try:
                found[evolink_task_id] = self.get_generation(evolink_task_id)
            except GenerationNotFoundError:
                continue
            # Somebody else's page refused the one endpoint and not the other: it is missing.
            self._reads_one_by_one = self._reads_one_by_one or is_in_doubt
        return found

    def list_generations(self, **query: Any) -> GenerationPage:
        """Read one page of the account's generations, newest first; see ``protocol.list_generations``."""
        return self._attempt(protocol.list_generations(**query), self._reading())

    def get_credits(self) -> Credits:
        """Read the balance of account and key; free of charge."""
        return self._attempt(protocol.get_credits(), self._reading())

    def get_credits_left(self, *, with_pace: bool) -> CreditsLeft:
        """Read the balance and, on request, from the list of tasks how much the account spends a day."""
        balance = self.get_credits()
        if not with_pace:
            return CreditsLeft(balance=balance)
        week = WeekOfUse(self.now())
        for page in range(1, MOST_PAGES + 1):
            if not week.add(
                self.list_generations(kind=None, page=page, page_size=protocol.MAX_IDS_PER_BATCH)
            ):
                break
        return CreditsLeft(balance=balance, per_day=week.per_day)

    def upload_file(
        self,
        path: Path,
        *,
        name: str,
        content_type: str,
        folder: str | None = None,
        upload_id: str | None = None,
    ) -> UploadedFile:
        """Send a local file to EvoLink's files, where it lives for 72 hours.

        A repeated attempt overwrites its own file, so give a name that nothing else uses.
        """
        call = files.upload_stream(
            path, name=name, content_type=content_type, folder=folder, upload_id=upload_id
        )
        return self._attempt(call, self._reading())

    def upload_base64(self, data: bytes, *, name: str, folder: str | None = None) -> UploadedFile:
        """Send bytes to EvoLink's files; for small ones."""
        return self._attempt(files.upload_base64(data, name=name, folder=folder), self._reading())

    def upload_url(self, url: str, *, name: str | None = None, folder: str | None = None) -> UploadedFile:
        """Have EvoLink fetch a file into its files."""
        return self._attempt(files.upload_url(url, name=name, folder=folder), self._reading())

    def get_upload_receipt(self, upload_id: str) -> UploadedFile | None:
        """Read the answer to an earlier upload again; None where EvoLink has none, or lacks receipts."""
        try:
            return self._attempt(files.get_upload_receipt(upload_id), self._reading())
        except EvoLinkApiError as error:
            if error.http_status not in _NO_SUCH_ENDPOINT:
                raise
            return None

    def list_files(self, page: int = 1, page_size: int = 20) -> FilePage:
        """Read one page of the account's files, 1 to 100 of them."""
        return self._attempt(files.list_files(page, page_size), self._reading())

    def get_file_quota(self) -> FileQuota:
        """Read how many files the account holds and may hold."""
        return self._attempt(files.get_file_quota(), self._reading())

    def delete_file(self, file_id: str) -> None:
        """Delete an uploaded file."""
        self._attempt(files.delete_file(file_id), self._reading())

    def _attempt(self, call: Call[Result], retrying: dict[str, Any]) -> Result:
        if self._read_until is not None and not call.pays:
            retrying = self._reading(within=self._read_until - time.monotonic())
        result: Result = tenacity.Retrying(**retrying)(self._once, call)
        return result

    def _once(self, call: Call[Result]) -> Result:
        if delay := self._delay():
            time.sleep(delay)
        left = (
            None if self._read_until is None or call.pays else max(self._read_until - time.monotonic(), 0.1)
        )
        try:
            answer = self._transport.send(self._outgoing(call, within=left))
        except NoAnswerError as error:
            raise self._unreachable(call, error) from None
        if call.service == "api" and answer.sent_at is not None:
            ahead = time.time() - answer.sent_at
            # A Date has whole seconds, and the answer was under way.
            self._clock_is_ahead = ahead if abs(ahead) > _CLOCK_TOLERANCE else 0.0
        return self._result(call, answer)


class AsyncEvoLinkClient(_AccountClient):
    """EvoLink over asyncio, for triggers: reads how far generations have come, their list and the balance.

    Use as an asynchronous context manager, or await :meth:`aclose`.

    :param account: how to reach EvoLink, and as whom.
    :param read_attempts: how often to try a read that fails with a transient error.
    """

    def __init__(self, account: Account, *, read_attempts: int = READ_ATTEMPTS) -> None:
        super().__init__(account, read_attempts=read_attempts)
        self._transport = AsyncTransport(timeout=account.request_timeout)

    async def __aenter__(self) -> AsyncEvoLinkClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def list_generations(self, **query: Any) -> GenerationPage:
        """Read one page of the account's generations, newest first; see ``protocol.list_generations``."""
        return await self._attempt(protocol.list_generations(**query))

    async def get_credits_left(self, *, with_pace: bool) -> CreditsLeft:
        """Read the balance and, on request, from the list of tasks how much the account spends a day."""
        balance = await self._attempt(protocol.get_credits())
        if not with_pace:
            return CreditsLeft(balance=balance)
        week = WeekOfUse(time.time())
        for page in range(1, MOST_PAGES + 1):
            if not week.add(
                await self.list_generations(kind=None, page=page, page_size=protocol.MAX_IDS_PER_BATCH)
            ):
                break
        return CreditsLeft(balance=balance, per_day=week.per_day)

    async def get_state(self, evolink_task_id: str) -> GenerationState:
        """Read how far one generation has come."""
        return await self._attempt(protocol.get_state(evolink_task_id))

    async def get_states(self, evolink_task_ids: Sequence[str]) -> dict[str, GenerationState]:
        """Read how far up to 50 generations have come, in one request; unknown ones are missing.

        :raises EvoLinkApiError: with ``http_status`` 404 or 405 where EvoLink has no such endpoint.
        """
        return await self._attempt(protocol.get_states(evolink_task_ids))

    async def _attempt(self, call: Call[Result]) -> Result:
        if self._read_attempts == 1:
            # Nothing to repeat: the thousands of reads of a poller need no machinery for it.
            return await self._once(call)
        once: Callable[[Call[Result]], Awaitable[Result]] = self._once
        return await tenacity.AsyncRetrying(**self._reading())(once, call)

    async def _once(self, call: Call[Result]) -> Result:
        if delay := self._delay():
            await asyncio.sleep(delay)
        try:
            answer = await self._transport.send(self._outgoing(call))
        except NoAnswerError as error:
            raise self._unreachable(call, error) from None
        if len(answer.body) > _LARGE_BODY_BYTES:
            # Reading it would hold up every other trigger of this process.
            return await asyncio.to_thread(self._result, call, answer)
        return self._result(call, answer)
