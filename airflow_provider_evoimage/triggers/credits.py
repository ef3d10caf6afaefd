"""The trigger of the credits sensor: waits until enough credits are left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_evoimage.client import AsyncEvoLinkClient
from airflow_provider_evoimage.evolink.usage import CreditsLeft
from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.triggers.one_event import EARLIEST_EVENT_SECONDS

EVENT_VERSION = 1


class EvoImageCreditsTrigger(BaseTrigger):
    """Looks at the balance until there is enough, then sends one event; the task reads the balance again.

    The event is ``{"v": 1, "status": "enough" | "timeout" | "failed", "deadline": …}``. ``failed``: EvoLink or the
    connection refuses in a way that no repetition changes; the task then meets the same error and reports it.

    :param min_credits: credits that must be left; None for any number.
    :param min_days: days that they must last; None for any number.
    :param deadline: Unix seconds at which the wait ends; fixed by the task, so a restart does not extend it.
    :param poll_interval: seconds between two looks.
    :param evoimage_conn_id: id of the Airflow connection.
    """

    def __init__(
        self,
        *,
        min_credits: float | None,
        min_days: float | None,
        deadline: float,
        poll_interval: float,
        evoimage_conn_id: str,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.min_credits = min_credits
        self.min_days = min_days
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.evoimage_conn_id = evoimage_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the constructor's arguments, all plain JSON."""
        names = ("min_credits", "min_days", "deadline", "poll_interval", "evoimage_conn_id")
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            name: getattr(self, name) for name in names
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield exactly one event."""
        # dag.test() has no task instance, and no worker that could report late.
        earliest = time.time() + (0.0 if self.task_instance is None else EARLIEST_EVENT_SECONDS)
        status = await self._wait()
        await asyncio.sleep(max(0.0, earliest - time.time()))
        yield TriggerEvent({"v": EVENT_VERSION, "status": status, "deadline": self.deadline})

    async def _wait(self) -> str:
        told = ""
        while True:
            # The task has just looked.
            await asyncio.sleep(max(0.0, min(self.poll_interval, self.deadline - time.time())))
            pause = 0.0
            try:
                lacking = (await self._left()).lacking(min_credits=self.min_credits, min_days=self.min_days)
            except EvoImageError as error:
                if not error.retryable:
                    return "failed"
                pause, lacking = error.retry_after or 0.0, f"the credits could not be read: {error.message}"
            if not lacking:
                return "enough"
            if lacking != told:
                told = lacking
                await self.log.ainfo("Waiting for credits: %s.", lacking)
            if time.time() >= self.deadline:
                return "timeout"
            await asyncio.sleep(max(0.0, min(pause, self.deadline - time.time())))

    async def _left(self) -> CreditsLeft:
        # Each look reads the connection again: looks are minutes apart, and the key may have been changed.
        client: AsyncEvoLinkClient
        async with await EvoImageHook(self.evoimage_conn_id).aget_conn() as client:
            return await client.get_credits_left(with_pace=self.min_days is not None)
