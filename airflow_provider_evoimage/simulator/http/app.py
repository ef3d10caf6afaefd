"""The ASGI application: all routes of the simulated service, and what every request has in common."""

import asyncio
import time
from email.utils import formatdate

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_evoimage.simulator.http.answers import REQUEST_ID
from airflow_provider_evoimage.simulator.http.control import CONTROL_PATH, control_routes
from airflow_provider_evoimage.simulator.http.downloads import Downloads
from airflow_provider_evoimage.simulator.http.endpoints import Endpoints
from airflow_provider_evoimage.simulator.http.file_routes import FilesApi
from airflow_provider_evoimage.simulator.http.loopback import host_name, is_loopback
from airflow_provider_evoimage.simulator.http.misbehaviour import Misbehaviour
from airflow_provider_evoimage.simulator.http.page import page_routes
from airflow_provider_evoimage.simulator.http.request_log import RequestLog
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.state import SimulatorState
from airflow_provider_evoimage.simulator.service.uploads import UploadRefusal

WORKING_THREADS = 2


def build_app(
    state: SimulatorState, closing: asyncio.Event, request_log: RequestLog | None = None
) -> ASGIApp:
    """Build the ASGI application.

    :param closing: set when the server goes down, so that nothing waits any longer.
    :param request_log: gets a line for every request to the service.
    """
    misbehaviour = Misbehaviour(state, closing)
    working = anyio.CapacityLimiter(WORKING_THREADS)
    routes = [
        *Endpoints(state, misbehaviour, working).routes(),
        *Downloads(state, misbehaviour, working).routes(),
        *FilesApi(state, misbehaviour, working).routes(),
        *page_routes(state, working),
        *control_routes(state),
    ]
    refusals = Refusals(misbehaviour)
    handlers = {
        Refusal: refusals.refused,
        UploadRefusal: refusals.upload_refused,
        HTTPException: refusals.not_served,
        ClientDisconnect: refusals.client_gone,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    # A path with a slash too many is an unknown path, as everywhere else.
    app.router.redirect_slashes = False
    return Envelope(app, state, misbehaviour, request_log)


def refusal_of_foreign_pages(scope: Scope) -> Response | None:
    """Refuse what a web page from elsewhere can send to this machine without asking; None where nothing is wrong.

    A name that leads to 127.0.0.1 makes the browser take this server for the page's own. And any page may post a
    form, but not one of type JSON.
    """
    headers = Headers(scope=scope)
    if not is_loopback(host_name(headers.get("host", ""))):
        return PlainTextResponse("The simulator answers to 127.0.0.1, ::1 and localhost only.\n", 403)
    is_change = scope["path"].startswith(CONTROL_PATH) and scope["method"] == "POST"
    if is_change and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return PlainTextResponse("Control requests need the header Content-Type: application/json.\n", 415)
    return None


class Envelope:
    """Gives every answer its request id, counts and logs the requests, and keeps a slow start."""

    def __init__(
        self, app: ASGIApp, state: SimulatorState, misbehaviour: Misbehaviour, log: RequestLog | None
    ) -> None:
        self.app = app
        self.state = state
        self.misbehaviour = misbehaviour
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = scope[REQUEST_ID] = self.state.names.request_id()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                # Of the service's own clock, which a test may move.
                headers["date"] = formatdate(self.state.clock.now(), usegmt=True)
            await send(message)

        refusal = refusal_of_foreign_pages(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_id)
            return
        if scope["path"] == "/" or scope["path"].startswith(CONTROL_PATH):
            await self.app(scope, receive, send_with_id)
            return
        self.state.counters.requests.opened()
        began = time.monotonic()
        try:
            await self._serve(scope, receive, send_with_id)
        finally:
            self.state.counters.requests.closed()
            if self.log is not None:
                self.log.write(scope, status, time.monotonic() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        missing = self.state.ready_at - self.state.clock.now()
        if missing <= 0:
            await self.app(scope, receive, send)
            return
        refusal = Refusal(503, "The service is starting.", retry_after=str(max(round(missing), 1)))
        await self.misbehaviour.refused(Request(scope), refusal)(scope, receive, send)


class Refusals:
    """Puts what the routes raise into answers."""

    def __init__(self, misbehaviour: Misbehaviour) -> None:
        self.misbehaviour = misbehaviour

    async def refused(self, request: Request, refusal: Exception) -> Response:
        """Answer what the service refuses."""
        if not isinstance(refusal, Refusal):
            raise refusal
        return self.misbehaviour.refused(request, refusal)

    async def upload_refused(self, request: Request, refusal: Exception) -> Response:
        """Answer what the files API refuses."""
        if not isinstance(refusal, UploadRefusal):
            raise refusal
        as_others = Refusal(refusal.status, refusal.message, upload_code=refusal.code)
        return self.misbehaviour.refused(request, as_others)

    async def not_served(self, request: Request, error: Exception) -> Response:
        """Answer an unknown path or method."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self.misbehaviour.refused(request, Refusal(status))

    async def client_gone(self, request: Request, error: Exception) -> Response:
        """Answer a client that hung up while it was still sending: nobody reads this."""
        del request, error
        return Response(status_code=400)
