"""Lets go wrong what shall, and puts refusals into the service's words."""

import asyncio
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_evoimage.simulator.http.answers import (
    REQUEST_ID,
    CutConnection,
    junk_answer,
    proxy_page,
    refusal_answer,
    upload_refusal_answer,
)
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.simulator.service.state import SimulatorState

CREDITS_PATH = "/v1/credits"
FILES_API_PATH = "/api/v1/files"
# Seconds between two checks whether the simulator was reset.
_LOOK_EVERY = 0.1


class Misbehaviour:
    """What the routes of one simulator do in place of the right answer.

    :param closing: set when the server goes down, so that nothing waits any longer.
    """

    def __init__(self, state: SimulatorState, closing: asyncio.Event) -> None:
        self.state = state
        self._closing = closing

    async def on(self, route: str, request: Request) -> Response | None:
        """Let a fault posted on a route happen; None means that the right answer is due."""
        fault = self.state.faults.draw(route)
        return None if fault is None else await self.happen(fault, request)

    async def happen(self, fault: Fault, request: Request) -> Response | None:
        """Let a fault happen; None means that after it the right answer is due."""
        if fault.kind == "delay":
            return None if await self.hold(fault.seconds) else CutConnection()
        if fault.kind == "cut":
            return CutConnection()
        if fault.kind == "junk":
            return junk_answer()
        if fault.page:
            return proxy_page(fault.status, fault.retry_after)
        return self.refused(request, Refusal(fault.status, code=fault.code, retry_after=fault.retry_after))

    async def hold(self, seconds: float) -> bool:
        """Wait; return False when the server stops or is reset meanwhile."""
        board, left = self.state.faults, seconds
        while left > 0 and not self._closing.is_set() and board is self.state.faults:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_EVERY)):
                    await self._closing.wait()
            left -= _LOOK_EVERY
        return not self._closing.is_set() and board is self.state.faults

    def refused(self, request: Request, refusal: Refusal) -> Response:
        """Answer what the service refuses."""
        path = request.url.path
        settings = self.state.settings
        if refusal.status == 429:
            self.state.counters.rate_limited += 1
        if FILES_API_PATH in path:
            return upload_refusal_answer(refusal, with_200=settings.files_errors_with_200)
        # The credits page still documents integer codes.
        style = "old" if path == CREDITS_PATH else settings.error_style
        return refusal_answer(refusal, style, request.scope[REQUEST_ID])


def refuses(fault: Fault) -> bool:
    """Whether this fault happens instead of accepting what was sent."""
    return not fault.after and fault.kind != "delay"
