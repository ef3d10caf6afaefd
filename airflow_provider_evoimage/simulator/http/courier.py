"""Sends the webhooks that are due, to receivers on this machine only."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_evoimage.simulator.service.callbacks import Delivery
from airflow_provider_evoimage.simulator.service.state import SimulatorState

if TYPE_CHECKING:
    import httpx

TICK_SECONDS = 0.05
TIMEOUT_SECONDS = 10.0
USER_AGENT = "EvoLink-Simulator"


class Courier:
    """Looks at the clock again and again, ends generations in time, and delivers their webhooks."""

    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self._client: httpx.AsyncClient | None = None
        self._attempts: set[asyncio.Task[None]] = set()

    async def run(self, closing: asyncio.Event) -> None:
        """Deliver until the server goes down."""
        try:
            while not closing.is_set():
                self._set_off()
                with suppress(TimeoutError):
                    await asyncio.wait_for(closing.wait(), TICK_SECONDS)
        finally:
            for attempt in self._attempts:
                attempt.cancel()
            await asyncio.gather(*self._attempts, return_exceptions=True)
            if self._client is not None:
                await self._client.aclose()

    def _set_off(self) -> None:
        if self.state.callback_awaited:
            self.state.settle()
        for delivery in self.state.callbacks.due(self.state.clock.now()):
            delivery.under_way = True
            attempt = asyncio.create_task(self._attempt(delivery))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)

    async def _attempt(self, delivery: Delivery) -> None:
        answer = await self._post(delivery)
        delivery.answered(answer, self.state.clock.now())

    async def _post(self, delivery: Delivery) -> int | str:
        # Loaded here: most simulators never send a webhook.
        import httpx  # noqa: PLC0415 - only who has callbacks needs it

        if self._client is None:
            self._client = httpx.AsyncClient(
                headers={"user-agent": USER_AGENT},
                follow_redirects=False,
                trust_env=False,
                timeout=TIMEOUT_SECONDS,
            )
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._client.stream("POST", delivery.url, json=delivery.body) as answer,
            ):
                return answer.status_code
        except (TimeoutError, httpx.TimeoutException):
            return f"no answer in {TIMEOUT_SECONDS:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__
