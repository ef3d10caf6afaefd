"""One poller for each account in a triggerer: it reads the generations of all its triggers together.

``waiting.polling`` decides when to poll each generation. A trigger takes part through ``triggers.watch.Watch``.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.client import Account, AsyncEvoLinkClient
from airflow_provider_evoimage.evolink.answers import GenerationState
from airflow_provider_evoimage.evolink.protocol import MAX_IDS_PER_BATCH
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    EvoLinkUnavailableError,
    GenerationNotFoundError,
    RateLimitError,
    UnreadableAnswerError,
)
from airflow_provider_evoimage.waiting.polling import (
    JITTER_SHARE,
    LONGEST_INTERVAL,
    LONGEST_PAUSE_SECONDS,
    End,
    NextPoll,
    Wait,
)

# One httpx client keeps up with this many requests in flight; from about 60 on its pool costs more than it sends.
MAX_REQUESTS_IN_FLIGHT = 24
# Free places in a request go to generations that are due soon: early by at most this share of their interval.
EARLY_SHARE = 0.5
# If the user fixed the interval: early by at most what the jitter added.
EARLY_SHARE_OF_FIXED = 1 - 1 / (1 + JITTER_SHARE)
# Without a Retry-After, a 429 stops the account's requests for this many seconds.
RATE_LIMIT_PAUSE_SECONDS = 15.0
# Read one by one for this long when the batch endpoint is missing or fails.
SINGLE_READS_SECONDS = 600.0
# After this many unusable batch answers in a row, a single read tells whether only the batch endpoint fails.
UNUSABLE_BATCH_ANSWERS = 3
# So many single reads in turn with failing batch reads prove it: one alone may only have come as an outage ended.
PROOFS_AGAINST_BATCH = 2

Found = GenerationState | EvoImageError


class Alarm:
    """Sleeps until a time has passed or :meth:`ring` is called, whichever comes first."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._sleeping: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """End the sleep; if nobody sleeps, the next one."""
        self._rung.set()
        if self._sleeping is not None:
            self._sleeping.cancel()

    async def sleep(self, seconds: float | None) -> None:
        """Sleep for this many seconds; None sleeps until the ring."""
        if seconds is None:
            await self._rung.wait()
        elif not self._rung.is_set():
            self._sleeping = asyncio.ensure_future(asyncio.sleep(seconds))
            try:
                # Unlike awaiting the future itself, this tells a ring from a cancellation of the sleeping task.
                await asyncio.wait({self._sleeping})
            finally:
                self._sleeping.cancel()
                self._sleeping = None
        self._rung.clear()


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchChange:
    """What is new about a generation.

    :param wait: the wait as it stands now.
    :param end: how it ended; None while it goes on.
    :param trouble: why it cannot be read; set only when the reads have just begun to fail.
    """

    wait: Wait
    end: End | None
    trouble: str = ""

    @property
    def evolink_task_id(self) -> str:
        """Id of the generation."""
        return self.wait.evolink_task_id


class Listener(Protocol):
    """Receives what the poller finds. The poller's task calls it, so it only takes note."""

    def changed(self, change: WatchChange) -> None:
        """Take a change."""

    def refused(self) -> None:
        """EvoLink refused the key for the first time: read the connection again and join with that key."""

    def failed(self, error: BaseException) -> None:
        """Take the error with which the poller stopped."""


class Watched:
    """One generation that one listener waits for.

    :param was_refused: whether EvoLink refused the key at the last poll; a second refusal is final.
    """

    __slots__ = ("at", "earliest", "is_open", "listener", "turn", "wait", "was_refused")

    def __init__(self, wait: Wait, listener: Listener, *, was_refused: bool = False) -> None:
        self.wait = wait
        self.listener = listener
        self.was_refused = was_refused
        self.is_open = True
        self.at = self.earliest = 0.0
        self.turn = -1


class Poller:
    """Reads the generations of all listeners of one account: few requests, and those full.

    It sends a request when a generation is due; the free places go to those that are due next. Make it in a running
    event loop and close it there.

    :param account: the account that the generations belong to.
    :param without_batch: base URL → monotonic seconds until which its batch endpoint is not used; shared by
        the pollers of an event loop, and outlives each of them.
    """

    def __init__(self, account: Account, without_batch: dict[str, float]) -> None:
        self.account = account
        self.listeners: set[Listener] = set()
        self._without_batch = without_batch
        self._client = AsyncEvoLinkClient(account, read_attempts=1)
        self._alarm = Alarm()
        self._turns = itertools.count()
        self._queue: list[tuple[float, int, Watched]] = []
        self._in_flight = 0
        self._most_in_flight = _most_in_flight(account)
        self._allowed = float(self._most_in_flight)
        self._resume_at = 0.0
        self._unusable_answers = 0
        self._proofs = 0
        self._succeeded_at = 0.0
        # A task inherits the context of its maker, and with it the log file of one of the triggers: give it its own.
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="evoimage poller", context=contextvars.Context()
        )
        self._task.add_done_callback(self._ended)

    @property
    def is_over(self) -> bool:
        """Whether it has stopped."""
        return self._task.done()

    def add(self, watched: Watched, at: float) -> None:
        """Poll a generation from ``at`` (Unix seconds) on, until it has ended."""
        self.listeners.add(watched.listener)
        self._schedule(watched, at, time.time())
        self._alarm.ring()

    def leave(self, listener: Listener, watched: Sequence[Watched]) -> None:
        """Tell a listener nothing more."""
        self.listeners.discard(listener)
        for each in watched:
            each.is_open = False

    async def aclose(self) -> None:
        """Stop and close the connections, even if this call is cancelled."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as requests:
                while True:
                    now = time.time()
                    pause = self._pause(now)
                    if pause is None or pause > 0:
                        await self._alarm.sleep(pause)
                        continue
                    self._in_flight += 1
                    requests.create_task(self._poll(self._take(now)))
        finally:
            await self._client.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        for listener in self.listeners:
            listener.failed(error or EvoImageError("The poller of the triggerer was stopped."))

    def _pause(self, now: float) -> float | None:
        """Return the seconds until the next request; None when something else has to happen first."""
        while self._queue and not self._is_scheduled(self._queue[0]):
            heapq.heappop(self._queue)
        if not self._queue or self._in_flight >= int(self._allowed):
            return None
        return self._queue[0][0] - now

    def _take(self, now: float) -> dict[str, list[Watched]]:
        """Take the generations that are due, and fill the request with those that are due soon."""
        places = MAX_IDS_PER_BATCH if self._uses_batch() else 1
        taken: dict[str, list[Watched]] = {}
        not_yet: list[tuple[float, int, Watched]] = []
        while self._queue and len(taken) < places and len(not_yet) < places:
            if self._queue[0][0] > now + LONGEST_INTERVAL:
                break
            entry = heapq.heappop(self._queue)
            watched = entry[2]
            if not self._is_scheduled(entry):
                continue
            if entry[0] <= now or (watched.earliest <= now and places > 1):
                watched.turn = -1
                taken.setdefault(watched.wait.evolink_task_id, []).append(watched)
            else:
                not_yet.append(entry)
        for entry in not_yet:
            heapq.heappush(self._queue, entry)
        return taken

    def _schedule(self, watched: Watched, at: float, now: float) -> None:
        # While EvoLink asks the account to slow down, poll only at a deadline.
        at = max(at, min(self._resume_at, max(watched.wait.deadline, now)))
        share = EARLY_SHARE if watched.wait.poll_interval is None else EARLY_SHARE_OF_FIXED
        watched.at = at
        watched.earliest = max(at - (at - now) * share, min(self._resume_at, at))
        watched.turn = next(self._turns)
        heapq.heappush(self._queue, (at, watched.turn, watched))

    @staticmethod
    def _is_scheduled(entry: tuple[float, int, Watched]) -> bool:
        _, turn, watched = entry
        return watched.is_open and watched.turn == turn

    async def _poll(self, group: dict[str, list[Watched]]) -> None:
        try:
            found = await self._read(list(group))
            now = time.time()
            for evolink_task_id, all_watched in group.items():
                for watched in all_watched:
                    self._settle(watched, found.get(evolink_task_id), now, sharing=len(group))
        except Exception as error:  # noqa: BLE001 (it reaches the triggers concerned)
            # A bug of ours ends only the waits that it touches.
            for watched in itertools.chain.from_iterable(group.values()):
                watched.listener.failed(error)
        finally:
            self._in_flight -= 1
            self._alarm.ring()

    async def _read(self, evolink_task_ids: Sequence[str]) -> dict[str, Found]:
        """Read generations in one request; the caller reads ids without an answer one by one."""
        if len(evolink_task_ids) == 1:
            return await self._read_one(evolink_task_ids[0])
        began = time.monotonic()
        try:
            seen = await self._client.get_states(evolink_task_ids)
        except EvoImageError as error:
            if _is_of_the_batch(error):
                self._pause_batch()
                return {}
            self._note_failure(error)
            # One that began before the last success tells of an outage that is over.
            if (
                isinstance(error, (EvoLinkUnavailableError, UnreadableAnswerError))
                and began > self._succeeded_at
            ):
                self._unusable_answers += 1
            return dict.fromkeys(evolink_task_ids, error)
        self._unusable_answers = self._proofs = 0
        self._note_success(len(evolink_task_ids))
        return {
            each: seen.get(each) or GenerationNotFoundError("EvoLink does not know it.", evolink_task_id=each)
            for each in evolink_task_ids
        }

    async def _read_one(self, evolink_task_id: str) -> dict[str, Found]:
        was_doubtful = self._unusable_answers >= UNUSABLE_BATCH_ANSWERS
        self._unusable_answers = 0
        try:
            state = await self._client.get_state(evolink_task_id)
        except EvoImageError as error:
            self._note_failure(error)
            return {evolink_task_id: error}
        self._note_success(1)
        if was_doubtful:
            self._proofs += 1
            # The next batch read decides.
            self._unusable_answers = UNUSABLE_BATCH_ANSWERS - 1
        if self._proofs >= PROOFS_AGAINST_BATCH:
            self._pause_batch()
        return {evolink_task_id: state}

    def _uses_batch(self) -> bool:
        if self._unusable_answers >= UNUSABLE_BATCH_ANSWERS:
            return False
        return time.monotonic() >= self._without_batch.get(self.account.base_url, 0.0)

    def _pause_batch(self) -> None:
        self._unusable_answers = self._proofs = 0
        self._without_batch[self.account.base_url] = time.monotonic() + SINGLE_READS_SECONDS

    def _note_success(self, ids: int) -> None:
        self._succeeded_at = time.monotonic()
        metrics.ids_read(ids)
        self._allowed = min(self._allowed + 0.5, self._most_in_flight)

    def _note_failure(self, error: EvoImageError) -> None:
        """Slow the account down after a 429; further 429s of requests already in flight count as the same one."""
        if not isinstance(error, RateLimitError):
            return
        now = time.time()
        if now >= self._resume_at:
            self._allowed = max(1.0, self._allowed / 2)
        seconds = RATE_LIMIT_PAUSE_SECONDS if error.retry_after is None else error.retry_after
        pause = min(seconds, LONGEST_PAUSE_SECONDS)
        if now + pause <= self._resume_at:
            return
        self._resume_at = now + pause
        waiting = [entry[2] for entry in self._queue if self._is_scheduled(entry)]
        self._queue.clear()
        for watched in waiting:
            self._schedule(watched, watched.at, now)

    def _settle(self, watched: Watched, found: Found | None, now: float, *, sharing: int) -> None:
        if not watched.is_open:
            return
        if found is None:
            self._schedule(watched, now, now)
            return
        before = watched.wait
        trouble = ""
        if isinstance(found, EvoImageError):
            if isinstance(found, AuthenticationError) and not watched.was_refused:
                watched.listener.refused()
                return
            watched.wait, outcome = before.missed(found, now)
            trouble = found.message if before.failing_since is None else ""
            is_news = bool(trouble)
        else:
            watched.was_refused = False
            watched.wait, outcome = before.seen(found, now, sharing=sharing)
            is_news = found.status != before.status or before.failing_since is not None
        if isinstance(outcome, NextPoll):
            self._schedule(watched, outcome.at, now)
        end = outcome if isinstance(outcome, End) else None
        watched.is_open = end is None
        if is_news or end is not None:
            watched.listener.changed(WatchChange(wait=watched.wait, end=end, trouble=trouble))


def _is_of_the_batch(error: EvoImageError) -> bool:
    """Tell whether only the batch read may fail: the endpoint is missing, or one of the ids is refused."""
    return error.http_status == 501 or not (error.retryable or isinstance(error, AuthenticationError))


def _most_in_flight(account: Account) -> int:
    """Return how many requests may be in flight: with a rate limit, more would only queue, and be less full."""
    per_second = account.max_requests_per_second
    return (
        MAX_REQUESTS_IN_FLIGHT
        if per_second is None
        else max(1, min(MAX_REQUESTS_IN_FLIGHT, int(2 * per_second)))
    )
