"""Serves a simulator over real HTTP: `SimulatorServer` inside a test, `serve` for the command line."""

import asyncio
import contextlib
import http.client
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_evoimage.simulator.http.answers import TRANSPORT
from airflow_provider_evoimage.simulator.http.app import build_app
from airflow_provider_evoimage.simulator.http.control import CONTROL_PATH
from airflow_provider_evoimage.simulator.http.courier import Courier
from airflow_provider_evoimage.simulator.http.file_routes import OWN_BASE_PATH
from airflow_provider_evoimage.simulator.http.loopback import is_loopback
from airflow_provider_evoimage.simulator.http.request_log import RequestLog
from airflow_provider_evoimage.simulator.service.settings import Settings
from airflow_provider_evoimage.simulator.service.state import SimulatorState

BACKLOG = 2048
# Seconds an idle connection stays open: longer than clients keep theirs, so that none is closed under them.
KEEP_ALIVE = 120
SHUTDOWN_SECONDS = 2
RESET_SECONDS = 10.0
START_SECONDS = 30.0


class CuttableProtocol(H11Protocol):
    """HTTP on one connection, which the application may cut.

    An ASGI application cannot reach its connection. This protocol wraps the application for the connection it
    serves and leaves the transport in the scope of each request.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base
        """Remember the transport for the requests to come."""
        super().connection_made(transport)
        # asyncio does this only for sockets that were made with IPPROTO_TCP. Without it the body of an answer
        # waits some 40 ms for the acknowledgement of its headers.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        application = cast("ASGIApp", self.app)

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await application(scope, receive, send)

        self.app = cast("Any", with_transport)


class LoopServer(uvicorn.Server):
    """Uvicorn without its own signal handlers: a simulator may run in any thread.

    :param closing: set when the server goes down.
    :param started: called once connections are answered.
    :param request_log: file that gets a line for every request.
    """

    def __init__(
        self, state: SimulatorState, started: Callable[[], None], request_log: Path | None = None
    ) -> None:
        self.closing = asyncio.Event()
        self._log = None if request_log is None else RequestLog(request_log)
        config = uvicorn.Config(
            build_app(state, self.closing, self._log),
            http=CuttableProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        super().__init__(config)
        self._announce = started
        self._state = state
        self._delivering: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller that runs the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, and say so."""
        self._state.begin()
        await super().startup(sockets)
        self._delivering = asyncio.create_task(Courier(self._state).run(self.closing))
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Release everything that waits, then close the connections."""
        self.closing.set()
        if self._delivering is not None:
            await self._delivering
        await super().shutdown(sockets)
        if self._log is not None:
            self._log.close()

    def stop(self) -> None:
        """Ask the server to go down; it does within a few tenths of a second."""
        self.should_exit = True


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Open the listening socket; return it with the base URL of the service on it.

    :raises ValueError: for a host that others could reach.
    :raises OSError: when the port is taken.
    """
    if not is_loopback(host):
        raise ValueError(f"The simulator listens on loopback addresses only, not on {host}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    shown = f"[{host}]" if ":" in host else host
    return sock, f"http://{shown}:{sock.getsockname()[1]}"


def serve(
    state: SimulatorState,
    host: str,
    port: int,
    announce: Callable[[str], None],
    request_log: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    :param announce: gets the base URL once connections are answered.
    :param request_log: file that gets a line for every request.
    """
    sock, state.base_url = listen(host, port)
    server = LoopServer(state, lambda: announce(state.base_url), request_log)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        await server.serve([sock])

    asyncio.run(run())


class SimulatorServer:
    """A local EvoLink in a thread of this process; a context manager.

    ```python
    with SimulatorServer(speed=100) as evolink:
        httpx.get(f"{evolink.url}/v1/credits", headers={"Authorization": "Bearer any"})
        evolink.state.clock.advance(60)
        assert evolink.state.counters.paid == 0
    ```

    :param port: TCP port; 0 takes a free one.
    :param host: loopback address to listen on.
    :param speed: generations run this many times faster than the real ones.
    :param api_key: the only accepted key; None accepts any.
    :param credits: balance with which every account starts.
    :param link_lifetime: real seconds for which result links work.
    :param seed: makes ids repeatable.
    :param loopback_callbacks: accept callback URLs on this machine, and send to them.
    :param request_log: file that gets a line of JSON for every request.
    :param report: gets one line for every accepted generation.

    A stopped server can be started again: on the same port, with all it knew, as after an outage.

    `url` is the base URL, `files_url` that of the files API alone. `state` is the `SimulatorState`: meant for
    reading, and for `configure`, `clock.advance`, `end`, `faults.post` and `reset` between requests.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        speed: float = 20.0,
        api_key: str | None = None,
        credits: float = 1000,  # noqa: A002 - the service's own word
        link_lifetime: float = 86_400.0,
        seed: int | None = None,
        loopback_callbacks: bool = False,
        request_log: Path | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        settings = Settings(speed=speed, link_lifetime=link_lifetime, loopback_callbacks=loopback_callbacks)
        self.state = SimulatorState(settings, credits=credits, api_key=api_key, report=report, seed=seed)
        self._request_log = request_log
        self.url = ""
        self._host, self._port = host, port
        self._server: LoopServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Start to serve; return when connections are answered.

        :raises RuntimeError: when the server does not come up.
        """
        sock, self.url = listen(self._host, self._port)
        self._port = sock.getsockname()[1]
        self.state.base_url = self.url
        started = threading.Event()
        self._server = LoopServer(self.state, started.set, self._request_log)
        self._thread = threading.Thread(
            target=self._server.run, args=([sock],), name="evolink-simulator", daemon=True
        )
        self._thread.start()
        if not started.wait(START_SECONDS):
            raise RuntimeError("The simulator did not start.")
        return self

    def reset(self) -> None:
        """Reset, once all earlier requests are answered.

        :raises TimeoutError: when one goes on for more than ten seconds.
        """
        # What was sent before this request has come in once this one is answered.
        connection = http.client.HTTPConnection(self._host, self._port, timeout=RESET_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"{CONTROL_PATH}/counters")
            connection.getresponse().read()
        self.state.reset()
        deadline = time.monotonic() + RESET_SECONDS
        while self.state.counters.requests.now:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Requests from before the reset still run after {RESET_SECONDS} s.")
            time.sleep(0.01)

    @property
    def files_url(self) -> str:
        """Base URL which serves the files API and nothing else; `url` serves it as well."""
        return self.url + OWN_BASE_PATH

    def stop(self) -> None:
        """Stop serving; return when the port is free again. Without effect on a stopped server."""
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()
