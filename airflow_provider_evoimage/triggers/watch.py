"""A trigger's part in the shared poller: give it a connection id and some waits, and it reports their changes."""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.client import Account
from airflow_provider_evoimage.evolink.protocol import checked_id
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.transport import prepare_for_asyncio
from airflow_provider_evoimage.triggers.poller import Alarm, Poller, WatchChange, Watched
from airflow_provider_evoimage.waiting.polling import LAST_POLL_SECONDS, End, Wait

# Connection lookups share one thread in a triggerer, so one lookup serves all triggers that start within this time.
CONNECTION_LIFE_SECONDS = 60.0


class Watch:
    """The generations of one trigger, watched until each has ended; an asynchronous context manager.

    :meth:`changes` returns what happened in the trigger's own task, so the log lines go to the trigger's own log.
    Leaving ends the watch at once, even with requests in flight.

    :param evoimage_conn_id: id of the Airflow connection. When EvoLink refuses the key, it is read again, once.
    :param waits: one for each generation, not begun.
    :raises InvalidRequestError: for a text that cannot be an id, as it would spoil the requests of other triggers.
    """

    def __init__(self, evoimage_conn_id: str, waits: Iterable[Wait]) -> None:
        self._conn_id = evoimage_conn_id
        self._watched: dict[str, Watched] = {}
        now = time.time()
        for each in waits:
            checked_id(each.evolink_task_id)
            wait, first = each.begin(now)
            watched = self._watched[wait.evolink_task_id] = Watched(wait, self)
            watched.at = first.at
        self._joined_at = now
        self._overdue: asyncio.TimerHandle | None = None
        self._changes: deque[WatchChange] = deque()
        self._alarm = Alarm()
        self._poller: Poller | None = None
        self._refused_at: float | None = None
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        """Join the poller of the account.

        :raises ConnectionNotFoundError: when Airflow does not find the connection.
        :raises ConnectionSettingsError: when it cannot be used.
        """
        account = await _shared().account(self._conn_id)
        self._poller = _shared().poller(account)
        for watched in self._watched.values():
            self._poller.add(watched, watched.at)
        self._joined_at = time.time()
        self._watch_deadlines()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the poller; the last to leave closes it."""
        await self._leave()

    @property
    def is_over(self) -> bool:
        """Whether all generations have ended and :meth:`changes` has returned their ends."""
        return not self._watched

    @property
    def waits(self) -> Mapping[str, Wait]:
        """The waits that go on, as last seen, by ``evolink_task_id``."""
        return {each: watched.wait for each, watched in self._watched.items()}

    async def changes(self, *, until: float | None = None) -> list[WatchChange]:
        """Return the changes since the last call; if there are none, wait for one.

        :param until: Unix seconds at which to stop waiting.
        :returns: an empty list at ``until``, or when everything has ended.
        :raises EvoImageError: when the connection can no longer be read, or the poller failed.
        """
        while not self._changes and self._watched:
            if self._failure is not None:
                raise self._failure
            if self._refused_at is not None:
                await self._join_again(self._refused_at)
            seconds = None if until is None else until - time.time()
            if seconds is not None and seconds <= 0:
                break
            await self._alarm.sleep(seconds)
        changes = list(self._changes)
        self._changes.clear()
        for change in changes:
            if change.end is not None:
                self._watched.pop(change.evolink_task_id, None)
        return changes

    def _watch_deadlines(self) -> None:
        overdue = [self._overdue_at(each) for each in self._watched.values() if each.is_open]
        if overdue:
            seconds = max(0.0, min(overdue) - time.time())
            self._overdue = asyncio.get_running_loop().call_later(seconds, self._end_overdue)

    def _overdue_at(self, watched: Watched) -> float:
        # A triggerer that was down past the deadline still polls once.
        return max(watched.wait.deadline, self._joined_at) + LAST_POLL_SECONDS

    def _end_overdue(self) -> None:
        """End the waits whose last poll is not answered: a slow service holds up no task."""
        now = time.time()
        for watched in self._watched.values():
            if watched.is_open and self._overdue_at(watched) <= now:
                watched.is_open = False
                self.changed(WatchChange(wait=watched.wait, end=End(ending="timeout")))
        self._watch_deadlines()

    def changed(self, change: WatchChange) -> None:
        """Take a change from the poller."""
        self._changes.append(change)
        self._alarm.ring()

    def refused(self) -> None:
        """Remember to read the connection again; called by the poller."""
        if self._refused_at is None:
            self._refused_at = time.monotonic()
            self._alarm.ring()

    def failed(self, error: BaseException) -> None:
        """End the watch with an error; called by the poller."""
        self._failure = error
        self._alarm.ring()

    async def _join_again(self, refused_at: float) -> None:
        """Go on with the key that the connection holds now; poll every generation again at once."""
        account = await _shared().account(self._conn_id, newer_than=refused_at)
        still_open = [each.wait for each in self._watched.values() if each.is_open]
        left = self._poller
        if left is not None:
            # Ignore what requests under the old key still return.
            left.leave(self, list(self._watched.values()))
        self._poller, self._refused_at = _shared().poller(account), None
        now = time.time()
        for wait in still_open:
            watched = self._watched[wait.evolink_task_id] = Watched(wait, self, was_refused=True)
            self._poller.add(watched, now)
        if left is not None:
            await _shared().close_unused(left)

    async def _leave(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.leave(self, list(self._watched.values()))
            await _shared().close_unused(poller)


@dataclass(frozen=True, slots=True)
class _Lookup:
    began: float
    task: asyncio.Task[Account]


class _Shared:
    """What the triggers of one event loop share: accounts, and a poller for each account in use."""

    def __init__(self) -> None:
        self._accounts: dict[str, tuple[float, Account]] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._pollers: dict[Account, Poller] = {}
        self._without_batch: dict[str, float] = {}

    async def account(self, conn_id: str, *, newer_than: float = 0.0) -> Account:
        """Read a connection; triggers that ask at the same time, or soon after, share one lookup.

        :param newer_than: monotonic seconds; ignore what was read before.
        """
        known = self._accounts.get(conn_id)
        if known is not None and known[0] > max(newer_than, time.monotonic() - CONNECTION_LIFE_SECONDS):
            return known[1]
        lookup = self._lookups.get(conn_id)
        if lookup is None or lookup.began < newer_than:
            # In a task of its own: the first trigger to ask may be cancelled while others still wait for the answer.
            task = asyncio.get_running_loop().create_task(
                self._look_up(conn_id), name="evoimage connection", context=contextvars.Context()
            )
            lookup = self._lookups[conn_id] = _Lookup(time.monotonic(), task)
            task.add_done_callback(lambda done: self._looked_up(conn_id, done))
        await asyncio.wait({lookup.task})
        error = lookup.task.exception()
        if error is not None:
            # Every waiting trigger raises this same error: drop the frames that the others added.
            raise error.with_traceback(None)
        return lookup.task.result()

    async def _look_up(self, conn_id: str) -> Account:
        began = time.monotonic()
        settings = await EvoImageHook(conn_id).aget_settings()
        await prepare_for_asyncio()
        await metrics.prepare_for_asyncio()
        self._accounts[conn_id] = (began, settings.account)
        return settings.account

    def _looked_up(self, conn_id: str, task: asyncio.Task[Account]) -> None:
        lookup = self._lookups.get(conn_id)
        if lookup is not None and lookup.task is task:
            del self._lookups[conn_id]
        if not task.cancelled():
            # Mark the error as seen: there may be nobody left to take it.
            task.exception()

    def poller(self, account: Account) -> Poller:
        """Return the account's poller; a new one when there is none."""
        poller = self._pollers.get(account)
        if poller is None or poller.is_over:
            poller = self._pollers[account] = Poller(account, self._without_batch)
        return poller

    async def close_unused(self, poller: Poller) -> None:
        """Close a poller that nobody uses any more."""
        if poller.listeners:
            return
        if self._pollers.get(poller.account) is poller:
            del self._pollers[poller.account]
        await poller.aclose()


# One for each event loop, as tasks and connections belong to one; dag.test() runs each trigger in its own.
_SHARED: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


def _shared() -> _Shared:
    loop = asyncio.get_running_loop()
    if loop not in _SHARED:
        for each in [each for each in _SHARED if each.is_closed()]:
            del _SHARED[each]
        _SHARED[loop] = _Shared()
    return _SHARED[loop]
