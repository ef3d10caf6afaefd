"""What the triggers have in common: each sends exactly one event, none too early, and not thousands at once."""

from __future__ import annotations

import asyncio
import time
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_evoimage.waiting.event import WaitEvent

# A worker may report the process that deferred up to [workers] min_heartbeat_interval (5 s) late. When the event
# has queued the task again by then, the scheduler takes the report for the new leg and fails the task ("finished
# with state success, but the task instance's state attribute is queued"; seen with LocalExecutor on 3.3.2).
EARLIEST_EVENT_SECONDS = 6.0
# The triggerer's parent stores events one by one, up to 25 ms each on a busy machine, and sends no heartbeat between
# those that came together: 24 s without one were seen with 2,000. After 30 s another triggerer takes all triggers.
EVENTS_PER_SECOND = 50.0
EVENTS_AT_ONCE = 50


class Pace:
    """Who may go when: so many at once, and after those so many a second, in the order in which they ask.

    :param at_once: how many need not wait when nobody has come for a while.
    """

    def __init__(self, *, per_second: float = EVENTS_PER_SECOND, at_once: int = EVENTS_AT_ONCE) -> None:
        self._between = 1 / per_second
        self._ahead = at_once * self._between
        self._until = float("-inf")

    def delay(self, now: float) -> float:
        """Return the seconds that whoever asks now has to wait.

        :param now: monotonic seconds.
        """
        self._until = max(self._until, now - self._ahead) + self._between
        return max(0.0, self._until - now)


# By event loop, which stands for a triggerer.
_PACES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = weakref.WeakKeyDictionary()


class OneEventWait(BaseTrigger):
    """Waits, then sends the one event that it came to, see ``waiting.event``.

    Lines are logged with ``await self.log.ainfo(...)``, in a thread: the triggerer's parent process reads them from
    a socket between its transactions, and as soon as some 170 lines wait there, writing one stops whoever does it.
    In the event loop that holds up every trigger of the triggerer; and for ever if the parent is just then sending
    it new triggers, as that waits for the event loop to read.

    It only reads: nothing is ever submitted from a trigger, so running twice, or again after a restart of the
    triggerer, is harmless. Its arguments are stored as plain text by Airflow and hold nothing secret.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self._earliest = 0.0
        self._has_ended = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield exactly one event, whatever happens."""
        # Where no worker reports there is no task instance: in dag.test().
        guard = 0.0 if self.task_instance is None else EARLIEST_EVENT_SECONDS
        self._earliest = time.time() + guard
        try:
            event = await self._wait()
        except Exception as error:  # noqa: BLE001 (it is logged, with its frames)
            # A trigger that raises loses the exception's type, and the task the id; the task reads for itself.
            await self.log.aexception("The wait for %s broke off", self._subject)
            event = self._broken_off(type(error).__name__)
        if (early := self._earliest - time.time()) > 0:
            await asyncio.sleep(early)
        if (turn := _pace().delay(time.monotonic())) > 0:
            await asyncio.sleep(turn)
        # After the event Airflow cancels the trigger, which must not look like a user's action in on_kill.
        self._has_ended = True
        yield TriggerEvent(event.to_json())

    async def on_kill(self) -> None:
        """Say what goes on being billed when somebody clears or marks the waiting task (Airflow 3.3 and later).

        There is no cancel endpoint. Nothing is awaited here: Airflow 3.3 cancels this method after a second.
        """
        if not self._has_ended:
            self._log_abandoned()

    @property
    @abstractmethod
    def _subject(self) -> str:
        """What is waited for, in words."""

    @abstractmethod
    async def _wait(self) -> WaitEvent:
        """Wait; return the event."""

    @abstractmethod
    def _broken_off(self, reason: str) -> WaitEvent:
        """Return the event of a wait that an error of ours ended."""

    @abstractmethod
    def _log_abandoned(self) -> None:
        """Name the generations that go on without anybody waiting."""


def _pace() -> Pace:
    return _PACES.setdefault(asyncio.get_running_loop(), Pace())
