"""Answers beside plain JSON: refusals, proxy pages, unreadable bodies, cut connections, spoiled files."""

from asyncio import Transport
from collections.abc import Awaitable, Callable
from html import escape

from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from airflow_provider_evoimage.simulator.service.errors import Refusal

# Where the server's protocol leaves the connection's transport, and the middleware the request's id.
TRANSPORT = "simulator.transport"
REQUEST_ID = "simulator.request_id"

SLOW_PIECES = 20
BLOCKED_AGENTS = ("python-urllib/", "python-httpx/")


class CutConnection(Response):
    """No answer at all: the TCP connection is aborted.

    ASGI has no message for that, and an application which returns without an answer gets a 500 from
    uvicorn. So the server's protocol leaves its transport in the scope (see `server.py`); aborting it
    closes the socket at once and drops what was not sent. Waiting for the disconnect afterwards lets uvicorn
    notice it before this call returns.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Abort the connection."""
        transport: Transport = scope[TRANSPORT]
        transport.abort()
        await _disconnected(receive)


class ShortFile(Response):
    """A file that promises its whole length, and ends half-way with the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half of the file and close."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport: Transport = scope[TRANSPORT]
        # Unlike abort, close sends what is still buffered.
        transport.close()
        await _disconnected(receive)


class SlowFile(Response):
    """A file that comes in small pieces.

    :param seconds: how long it takes in all.
    :param hold: waits; tells whether to go on.
    """

    def __init__(
        self, content: bytes, media_type: str, seconds: float, hold: Callable[[float], Awaitable[bool]]
    ) -> None:
        super().__init__(content, media_type=media_type)
        self._pause = seconds / SLOW_PIECES
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send piece after piece."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = bytes(self.body)
        step = -(-len(content) // SLOW_PIECES)
        for start in range(0, len(content), step):
            piece = content[start : start + step]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if not await self._hold(self._pause):
                await CutConnection()(scope, receive, send)
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal_answer(refusal: Refusal, style: str, request_id: str) -> Response:
    """Put a refusal into the service's error body."""
    return JSONResponse(refusal.body(style, request_id), refusal.status, refusal.headers())


def upload_refusal_answer(refusal: Refusal, *, with_200: bool) -> Response:
    """Put a refusal into the error body of the files API.

    :param with_200: say so in the body only.
    """
    return JSONResponse(refusal.upload_body(), 200 if with_200 else refusal.status, refusal.headers())


def junk_answer() -> Response:
    """Return status 200 with a body that breaks off inside its JSON."""
    return Response(b'{"created": 17571564', media_type="application/json")


def proxy_page(status: int, retry_after: str | None = None) -> Response:
    """Return what a proxy in front of the service shows when it got no answer in time."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    page = f"<html><head><title>{status}</title></head><body><h1>Error {status}</h1></body></html>"
    return HTMLResponse(page, status, headers)


def storage_refusal(status: int, code: str, message: str) -> Response:
    """Refuse a file in the manner of an object store behind a CDN."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    )
    return Response(body, status, media_type="application/xml")


def blocked_agent(agent: str) -> Response | None:
    """Refuse the user agents which the service's media host refuses."""
    if agent.lower().startswith(BLOCKED_AGENTS):
        return Response("error code: 1010", 403, media_type="text/plain")
    return None
