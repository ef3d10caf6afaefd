"""The base of the triggers: each sends exactly one event, none too early, and not thousands at once."""

from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.polling import Ending, Wait

# A worker may report the end of the process that deferred up to [workers] min_heartbeat_interval (5 s) late. If the
# event has queued the task again by then, the scheduler takes the report for the resumed task and fails it ("finished
# with state success, but the task instance's state attribute is queued"; seen with LocalExecutor on 3.3.2).
EARLIEST_EVENT_SECONDS = 6.0
# The triggerer's parent stores events one by one, up to 25 ms each on a busy machine, and sends no heartbeat until it
# has stored all that arrived together: 2,000 events took 24 s. After 30 s another triggerer takes all triggers.
EVENTS_PER_SECOND = 50.0
EVENTS_AT_ONCE = 50


class Pace:
    """Limits the rate of events: a burst of ``at_once``, then ``per_second``, in the order of the calls.

    :param at_once: how many events leave without a delay after a quiet time.
    """

    def __init__(self, *, per_second: float = EVENTS_PER_SECOND, at_once: int = EVENTS_AT_ONCE) -> None:
        self._between = 1 / per_second
        self._ahead = at_once * self._between
        self._until = float("-inf")

    def delay(self, now: float) -> float:
        """Return the seconds that the next event has to wait.

        :param now: monotonic seconds.
        """
        self._until = max(self._until, now - self._ahead) + self._between
        return max(0.0, self._until - now)


# One for each event loop: a triggerer has one.
_PACES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = weakref.WeakKeyDictionary()


class OneEventWait(BaseTrigger):
    """Waits for generations, then sends one event, see ``waiting.event``.

    A trigger logs with ``await self.log.ainfo(...)``, in a thread. The triggerer's parent process reads log lines from
    a socket between its transactions. When some 170 lines wait there, writing another one blocks. In the event loop
    that would block every trigger of the triggerer, and for ever if the parent is just then sending it new triggers,
    because the parent waits for the event loop to read.

    A trigger only reads and never submits, so it is harmless to run it twice, or again after a restart of the
    triggerer. Airflow stores its arguments as plain text; they hold nothing secret.

    :param evolink_task_ids: the generations.
    :param evoimage_conn_id: id of the Airflow connection.
    :param deadline: Unix seconds at which the wait ends; fixed by the task, so a restart does not extend it.
    :param poll_interval: seconds between polls; None adapts to each generation.
    :param estimated_time: seconds that EvoLink expects a generation to take.
    :param was_accepted: whether EvoLink gave these ids to a task of ours, so that a 404 is transient for longer.
    """

    def __init__(
        self,
        *,
        evolink_task_ids: Iterable[str],
        evoimage_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
        estimated_time: float | None = None,
        was_accepted: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.evolink_task_ids = list(evolink_task_ids)
        if not self.evolink_task_ids:
            raise InvalidRequestError("There is no generation to wait for.")
        self.evoimage_conn_id = evoimage_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.estimated_time = estimated_time
        self.was_accepted = was_accepted
        self._endings: dict[str, Ending] = {}
        self._earliest = 0.0
        self._has_ended = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the constructor's arguments, all plain JSON.

        Airflow keeps them in its database, beyond an upgrade of the provider: rename none.
        """
        _, *names = inspect.signature(type(self).__init__).parameters
        arguments = {name: getattr(self, name) for name in names}
        arguments["evolink_task_ids"] = self._stored_ids
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield exactly one event, whatever happens."""
        # dag.test() has no task instance, and no worker that could report late.
        guard = 0.0 if self.task_instance is None else EARLIEST_EVENT_SECONDS
        self._earliest = time.time() + guard
        try:
            event = await self._wait()
        except Exception as error:  # noqa: BLE001 (it is logged, with its frames)
            # If a trigger raises, the task learns neither the exception's type nor the id. So send an event: the task
            # then reads the generation itself.
            await self.log.aexception("The wait for %s broke off", self._subject)
            event = self._broken_off(type(error).__name__)
        if (early := self._earliest - time.time()) > 0:
            await asyncio.sleep(early)
        if (turn := _pace().delay(time.monotonic())) > 0:
            await asyncio.sleep(turn)
        # After the event Airflow cancels the trigger; on_kill must not take that for a user's action.
        self._has_ended = True
        yield TriggerEvent(event.to_json())

    async def on_kill(self) -> None:
        """Log what is still billed when a user clears or marks the waiting task (Airflow 3.3 and later).

        EvoLink has no cancel endpoint. This method awaits nothing: Airflow 3.3 cancels it after a second.
        """
        if not self._has_ended:
            self._log_abandoned()

    @property
    def _stored_ids(self) -> list[str] | str:
        """The ids as :meth:`serialize` stores them."""
        return self.evolink_task_ids

    def _waits(self) -> Iterator[Wait]:
        for evolink_task_id in self.evolink_task_ids:
            yield Wait(
                evolink_task_id=evolink_task_id,
                deadline=self.deadline,
                poll_interval=self.poll_interval,
                estimated_time=self.estimated_time,
                was_accepted=self.was_accepted,
            )

    @property
    @abstractmethod
    def _subject(self) -> str:
        """Which generations it waits for, in words."""

    @abstractmethod
    async def _wait(self) -> WaitEvent:
        """Wait; return the event."""

    @abstractmethod
    def _broken_off(self, reason: str) -> WaitEvent:
        """Return the event of a wait that ended with an error of ours."""

    @abstractmethod
    def _log_abandoned(self) -> None:
        """Log which generations go on although nobody waits for them any more."""


def _pace() -> Pace:
    return _PACES.setdefault(asyncio.get_running_loop(), Pace())
