"""The routes of the simulated service: reads requests, asks the state, and lets go wrong what shall."""

import asyncio
import hashlib
import json
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_evoimage.simulator import images
from airflow_provider_evoimage.simulator.accounts import Caller
from airflow_provider_evoimage.simulator.answers import (
    REQUEST_ID,
    CutConnection,
    ShortFile,
    SlowFile,
    blocked_agent,
    junk_answer,
    proxy_page,
    refusal_answer,
    storage_refusal,
)
from airflow_provider_evoimage.simulator.control import CONTROL_PATH, control_routes
from airflow_provider_evoimage.simulator.errors import Refusal
from airflow_provider_evoimage.simulator.faults import FILE_KINDS, Fault, read_script
from airflow_provider_evoimage.simulator.generations import Generation
from airflow_provider_evoimage.simulator.orders import read_order
from airflow_provider_evoimage.simulator.state import MAX_BATCH, SimulatorState

CREDITS_PATH = "/v1/credits"
DRAWING_THREADS = 2


def build_app(state: SimulatorState, closing: asyncio.Event) -> ASGIApp:
    """Build the ASGI application.

    :param closing: set when the server goes down, so that nothing waits any longer.
    """
    endpoints = Endpoints(state, closing)
    routes = [
        Route("/v1/images/generations", endpoints.submit, methods=["POST"]),
        Route("/v1/tasks/batch", endpoints.batch, methods=["POST"]),
        Route("/v1/tasks/{task_id}", endpoints.task, methods=["GET"]),
        Route(CREDITS_PATH, endpoints.credits, methods=["GET"]),
        Route("/files/{path:path}", endpoints.download, methods=["GET"]),
        *control_routes(state),
    ]
    handlers = {
        Refusal: endpoints.refused,
        HTTPException: endpoints.not_served,
        ClientDisconnect: endpoints.client_gone,
    }
    return Envelope(Starlette(routes=routes, exception_handlers=handlers), state)


class Envelope:
    """Gives every answer its request id, and counts the requests being answered."""

    def __init__(self, app: ASGIApp, state: SimulatorState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = scope[REQUEST_ID] = f"req_{secrets.token_hex(12)}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        if scope["path"].startswith(CONTROL_PATH):
            await self.app(scope, receive, send_with_id)
            return
        self.state.counters.opened()
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self.state.counters.closed()


class Endpoints:
    """The service's endpoints over one state."""

    def __init__(self, state: SimulatorState, closing: asyncio.Event) -> None:
        self.state = state
        self._closing = closing
        self._drawing = anyio.CapacityLimiter(DRAWING_THREADS)

    # Endpoints

    async def submit(self, request: Request) -> Response:
        """`POST /v1/images/generations`."""
        state = self.state
        state.counters.submissions += 1
        fault = state.faults.draw("submit")
        if fault is not None and _refuses(fault):
            return await self._misbehave(fault, request) or CutConnection()
        caller = self._caller(request)
        state.counters.per_key[caller.key]["submissions"] += 1
        body = await _json(request)
        order = read_order(body)
        script = read_script(order.prompt)
        fault = fault or state.next_submit_fault(order, script)
        if fault is not None and _refuses(fault):
            return await self._misbehave(fault, request) or CutConnection()
        key = state.idempotency_key(request.headers.get("idempotency-key"))
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        earlier = state.recall(caller, key, digest)
        if earlier is not None:
            return await self._submitted(earlier, fault, request, {"idempotency-replayed": "true"})
        with state.undecided(caller, key, digest) as remembered:
            if fault is not None and not fault.after and not await self._hold(fault.seconds):
                return CutConnection()
            remembered.generation = state.accept(caller, order, script, key)
        return await self._submitted(remembered.generation, fault, request, {})

    async def _submitted(
        self, generation: Generation, fault: Fault | None, request: Request, headers: dict[str, str]
    ) -> Response:
        if fault is not None and fault.after:
            answer = await self._misbehave(fault, request)
            if answer is not None:
                return answer
        return JSONResponse(self.state.describe(generation, submitted=True), headers=headers)

    async def task(self, request: Request) -> Response:
        """`GET /v1/tasks/{task_id}`."""
        self.state.counters.reads["task"] += 1
        answer = await self._fault_on("task", request)
        if answer is not None:
            return answer
        caller = self._caller(request)
        self.state.counters.read("task", caller.key, ids=1)
        return JSONResponse(self.state.task(caller, request.path_params["task_id"]))

    async def batch(self, request: Request) -> Response:
        """`POST /v1/tasks/batch`."""
        self.state.counters.reads["batch"] += 1
        answer = await self._fault_on("batch", request)
        if answer is not None:
            return answer
        if not self.state.settings.batch:
            raise Refusal(404)
        caller = self._caller(request)
        task_ids = _task_ids(await _json(request))
        self.state.counters.read("batch", caller.key, ids=len(task_ids))
        return JSONResponse({"data": self.state.batch(caller, task_ids)})

    async def credits(self, request: Request) -> Response:
        """`GET /v1/credits`."""
        self.state.counters.reads["credits"] += 1
        answer = await self._fault_on("credits", request)
        if answer is not None:
            return answer
        caller = self._caller(request)
        self.state.counters.read("credits", caller.key)
        return JSONResponse(self.state.credits(caller))

    async def download(self, request: Request) -> Response:
        """`GET /files/...`: a result file."""
        counters = self.state.counters
        counters.downloads += 1
        counters.reads["download"] += 1
        if "authorization" in request.headers:
            counters.downloads_with_auth += 1
            return storage_refusal(400, "InvalidArgument", "An Authorization header must not be sent here.")
        blocked = blocked_agent(request.headers.get("user-agent", ""))
        if blocked is not None:
            return blocked
        fault = self.state.faults.draw("download")
        if fault is not None and fault.kind not in FILE_KINDS:
            answer = await self._misbehave(fault, request)
            if answer is not None:
                return answer
        found = self.state.file(request.path_params["path"])
        if found is None:
            return storage_refusal(404, "NoSuchKey", "The file does not exist.")
        return await self._file(*found, fault, request)

    async def _file(
        self, generation: Generation, index: int, fault: Fault | None, request: Request
    ) -> Response:
        if self.state.is_expired(generation):
            return storage_refusal(403, "AccessDenied", "The link has expired.")
        if fault is None or fault.kind not in FILE_KINDS:
            fault = self.state.download_fault(generation)
        if fault is not None and fault.kind not in FILE_KINDS:
            answer = await self._misbehave(fault, request)
            if answer is not None:
                return answer
        kind = None if fault is None else fault.kind
        if kind == "html":
            return HTMLResponse("<html><body><h1>One moment, please</h1></body></html>")
        picture = _picture(generation, index)
        media_type = images.MEDIA_TYPES[picture.file_format]
        if kind == "jpeg":
            picture = replace(picture, file_format="jpeg", transparent=False)
        content = await anyio.to_thread.run_sync(images.draw, picture, limiter=self._drawing)
        if kind == "short":
            return ShortFile(content, media_type=media_type)
        self.state.counters.downloads_served += 1
        if fault is not None and kind == "slow":
            return SlowFile(content, media_type, fault.seconds, self._hold)
        return Response(content, media_type="application/octet-stream" if kind == "octet" else media_type)

    # Refusals

    async def refused(self, request: Request, refusal: Exception) -> Response:
        """Answer what the service refuses."""
        if not isinstance(refusal, Refusal):
            raise refusal
        # The credits page still documents integer codes.
        style = "old" if request.url.path == CREDITS_PATH else self.state.settings.error_style
        return refusal_answer(refusal, style, request.scope[REQUEST_ID])

    async def not_served(self, request: Request, error: Exception) -> Response:
        """Answer an unknown path or method."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        return await self.refused(request, Refusal(status))

    async def client_gone(self, request: Request, error: Exception) -> Response:
        """Answer a client that hung up while it was still sending: nobody reads this."""
        del request, error
        return Response(status_code=400)

    # Faults

    async def _fault_on(self, route: str, request: Request) -> Response | None:
        fault = self.state.faults.draw(route)
        return None if fault is None else await self._misbehave(fault, request)

    async def _misbehave(self, fault: Fault, request: Request) -> Response | None:
        """Let a fault happen; None means that after it the right answer is due."""
        if fault.kind == "delay":
            return None if await self._hold(fault.seconds) else CutConnection()
        if fault.kind == "cut":
            return CutConnection()
        if fault.kind == "junk":
            return junk_answer()
        if fault.page:
            return proxy_page(fault.status, fault.retry_after)
        refusal = Refusal(fault.status, code=fault.code, retry_after=fault.retry_after)
        return await self.refused(request, refusal)

    async def _hold(self, seconds: float) -> bool:
        """Wait; return False when the server goes down meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        return not self._closing.is_set()

    def _caller(self, request: Request) -> Caller:
        return self.state.keys.caller(request.headers.get("authorization"))


def _refuses(fault: Fault) -> bool:
    """Whether this fault happens instead of accepting a submission."""
    return not fault.after and fault.kind != "delay"


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON.") from None


def _task_ids(body: Any) -> list[str]:
    task_ids = body.get("task_ids") if isinstance(body, dict) else None
    if not isinstance(task_ids, list) or not all(isinstance(task_id, str) for task_id in task_ids):
        raise Refusal(400, "task_ids must be an array of strings.", param="task_ids")
    if not 1 <= len(task_ids) <= MAX_BATCH:
        message = f"task_ids must hold 1 to {MAX_BATCH} ids."
        raise Refusal(400, message, code="invalid_parameters", param="task_ids")
    return task_ids


def _picture(generation: Generation, index: int) -> images.Picture:
    order = generation.order
    return images.Picture(
        prompt=order.prompt,
        model=order.model,
        quality=order.quality,
        width=order.pixels[0],
        height=order.pixels[1],
        index=index,
        count=order.images,
        file_format=order.output_format,
        transparent=order.transparent,
    )
