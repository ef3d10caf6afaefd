"""The trigger: waits for one or many generations without holding a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_evoimage.client import AsyncEvoLinkClient
from airflow_provider_evoimage.evolink.models import Generation
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    GenerationNotFoundError,
    InvalidRequestError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.polling import End, Ending, Wait

# Looks that are due within this many seconds share one request.
SHARED_LOOK_SECONDS = 0.5

# A worker may report the process that deferred up to [workers] min_heartbeat_interval (5 s) late. When the event
# has queued the task again by then, the scheduler takes the report for the new leg and fails the task ("finished
# with state success, but the task instance's state attribute is queued"; seen with LocalExecutor on 3.3.2).
EARLIEST_EVENT_SECONDS = 6.0


class EvoImageGenerationTrigger(BaseTrigger):
    """Waits until every generation has ended, then sends one event, see ``waiting.event``.

    It only reads: nothing is ever submitted from a trigger, so running twice, or again after a restart of the
    triggerer, is harmless. Its arguments are stored as plain text by Airflow and hold nothing secret.

    :param evolink_task_ids: the generations.
    :param evoimage_conn_id: id of the Airflow connection.
    :param deadline: Unix seconds at which the wait ends; fixed by the task, so a restart does not extend it.
    :param poll_interval: seconds between looks; None adapts to each generation.
    :param estimated_time: seconds that EvoLink expected when the generation was submitted.
    """

    def __init__(
        self,
        *,
        evolink_task_ids: Sequence[str],
        evoimage_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
        estimated_time: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        if not evolink_task_ids:
            raise InvalidRequestError("There is no generation to wait for.")
        self.evolink_task_ids = list(evolink_task_ids)
        self.evoimage_conn_id = evoimage_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.estimated_time = estimated_time
        self._waits: dict[str, Wait] = {}
        self._endings: dict[str, Ending] = {}
        self._has_ended = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "evolink_task_ids": self.evolink_task_ids,
                "evoimage_conn_id": self.evoimage_conn_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "estimated_time": self.estimated_time,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield exactly one event, whatever happens."""
        started = time.time()
        try:
            event = await self._wait()
        except Exception as error:
            # A trigger that raises loses the exception's type, and the task the id; the task reads for itself.
            self.log.exception("The wait for EvoLink task %s broke off", ", ".join(self.evolink_task_ids))
            reason = type(error).__name__
            event = WaitEvent(
                endings={task: self._endings.get(task, "lost") for task in self.evolink_task_ids},
                reason=reason,
            )
        if self.task_instance is not None:  # It is None where no worker reports: in dag.test().
            await asyncio.sleep(max(0.0, started + EARLIEST_EVENT_SECONDS - time.time()))
        # After the event Airflow cancels the trigger, which must not look like a user's action in on_kill.
        self._has_ended = True
        yield TriggerEvent(event.to_json())

    async def on_kill(self) -> None:
        """Say what goes on being billed when somebody clears or marks the waiting task (Airflow 3.3 and later).

        There is no cancel endpoint. Nothing is awaited here: Airflow 3.3 cancels this method after a second.
        """
        if self._has_ended:
            return
        for evolink_task_id in self.evolink_task_ids:
            if evolink_task_id not in self._endings:
                wait = self._waits.get(evolink_task_id)
                self.log.warning(
                    "No longer waiting for EvoLink task %s, last seen %s%s. EvoLink cannot cancel it: it goes on "
                    "and is billed when it completes. If the task was cleared, the next try goes on with it "
                    "(on_clear='auto'); else collect its images with EvoImageSaveOperator within 24 hours.",
                    evolink_task_id,
                    "pending" if wait is None else wait.status,
                    "" if wait is None or wait.progress is None else f" at {wait.progress:.0f} %",
                )

    async def _wait(self) -> WaitEvent:
        hook = EvoImageHook(self.evoimage_conn_id)
        # The client tries once: how to go on after a failure is the wait's decision.
        client = await hook.aget_conn(read_attempts=1)
        try:
            looks = self._begin()
            reason = ""
            while looks:
                await asyncio.sleep(max(0.0, min(looks.values()) - time.time()))
                due = [task for task, at in looks.items() if at <= time.time() + SHARED_LOOK_SECONDS]
                seen = await self._look(client, due)
                if _is_key_refused(seen):
                    await client.aclose()
                    client = await hook.aget_conn(read_attempts=1)
                    seen = await self._look(client, due)
                for task, found in seen.items():
                    outcome = self._take(task, found)
                    if isinstance(outcome, End):
                        self._endings[task] = outcome.ending
                        reason = outcome.reason or reason
                        del looks[task]
                    else:
                        looks[task] = outcome.at
            return WaitEvent(endings=self._endings, reason=reason)
        finally:
            await client.aclose()

    def _begin(self) -> dict[str, float]:
        looks = {}
        for evolink_task_id in self.evolink_task_ids:
            wait = Wait(
                evolink_task_id=evolink_task_id,
                deadline=self.deadline,
                poll_interval=self.poll_interval,
                estimated_time=self.estimated_time,
            )
            self._waits[evolink_task_id], first = wait.begin(time.time())
            looks[evolink_task_id] = first.at
        return looks

    async def _look(
        self, client: AsyncEvoLinkClient, due: Sequence[str]
    ) -> dict[str, Generation | EvoImageError]:
        try:
            if len(due) == 1:
                return {due[0]: await client.get_generation(due[0])}
            found = await client.get_generations(due)
        except EvoImageError as error:
            return dict.fromkeys(due, error)
        return {
            task: found.get(task)
            or GenerationNotFoundError("EvoLink does not know it.", evolink_task_id=task)
            for task in due
        }

    def _take(self, evolink_task_id: str, found: Generation | EvoImageError) -> Any:
        wait = self._waits[evolink_task_id]
        if isinstance(found, EvoImageError):
            after, outcome = wait.missed(found, time.time())
            # One line when the trouble begins, not one for every look.
            if wait.failing_since is None:
                self.log.warning("EvoLink task %s could not be read: %s", evolink_task_id, found.message)
        else:
            after, outcome = wait.seen(found, time.time())
            if found.status != wait.status or wait.failing_since is not None:
                self.log.info("EvoLink task %s: %s.", evolink_task_id, found.status)
        self._waits[evolink_task_id] = after
        return outcome


def _is_key_refused(seen: dict[str, Generation | EvoImageError]) -> bool:
    return any(isinstance(found, AuthenticationError) for found in seen.values())
