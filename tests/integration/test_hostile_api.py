"""What a broken or hostile API host can do: no time, memory, key or paid image is lost, and nobody else is held up."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socketserver
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_evoimage.client import Account, AsyncEvoLinkClient, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    OutcomeUnknownError,
    UnreadableAnswerError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
from airflow_provider_evoimage.waiting.blocking import wait_on_worker
from airflow_provider_evoimage.waiting.polling import Wait
from tests.integration.task_driver import API_KEY, CONNECTION, connection, events_of
from tests.integration.test_hostile_results import peak_memory

# Far above what any of it may take: a hang is a failure, and nothing is measured by the clock.
pytestmark = pytest.mark.timeout(60)

TASK = "task-unified-1757156400-hostile0"
TIMEOUT = 1.0
MEMORY_BYTES = 48_000_000
MEGABYTE = b" " * 1_000_000
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Line:
    """The bare connection to answer a request on."""

    def __init__(self, handler: socketserver.StreamRequestHandler, head: str) -> None:
        self.closing = handler.server.closing  # type: ignore[attr-defined]
        self.head = head
        self._file = handler.wfile

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._file.write(piece)
        self._file.flush()

    def answer(self, body: bytes, *headers: str, status: str = "200 OK") -> None:
        lines = "".join(f"{each}\r\n" for each in headers)
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode(), body)

    def pause(self, seconds: float = 0.1) -> bool:
        return not self.closing.wait(seconds)


def drips_its_body(line: Line) -> None:
    line.send(OK + b"Content-Length: 100000\r\n\r\n{")
    while line.pause():
        line.send(b" ")


def drips_its_headers(line: Line) -> None:
    line.send(OK)
    while line.pause():
        line.send(b"X-More: 1\r\n")


def continues_for_ever(line: Line) -> None:
    while line.pause(0.02):
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def says_nothing(line: Line) -> None:
    while line.pause():
        pass


def never_ends(line: Line) -> None:
    line.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while line.pause(0):
        line.send(b"f4240\r\n", MEGABYTE, b"\r\n")


def announces_five_gigabytes(line: Line) -> None:
    line.send(OK + b"Content-Length: 5368709120\r\n\r\n")
    while line.pause(0):
        line.send(MEGABYTE)


def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    return b"".join([*(packer.compress(MEGABYTE) for _ in range(40)), packer.flush()])


BOMB = bomb()


def bombs_with_gzip(line: Line) -> None:
    line.answer(BOMB, "Content-Encoding: gzip")


def packs_thrice(line: Line) -> None:
    line.answer(gzip.compress(gzip.compress(BOMB)), "Content-Encoding: gzip, gzip, gzip")


def packs_unasked(line: Line) -> None:
    line.answer(b"\x0b\x02\x80{}\x03", "Content-Encoding: br")


def cuts_its_gzip_short(line: Line) -> None:
    line.answer(gzip.compress(b'{"id": 5}' * 100)[:-30], "Content-Encoding: gzip")


def says_gzip_and_sends_none(line: Line) -> None:
    line.answer(b"{}", "Content-Encoding: gzip")


def sends_huge_headers(line: Line) -> None:
    line.send(OK + b"X-Huge: " + b"x" * 2_000_000 + b"\r\n\r\n")


def is_no_http_server(line: Line) -> None:
    line.send(b"220 mail.example.com ESMTP\r\n")


def sends_a_page(line: Line) -> None:
    line.answer(b"<html><title>Just a moment...</title></html>")


def refuses_with_a_page(line: Line) -> None:
    line.answer(b"<html><title>Attention</title></html>", status="403 Forbidden")


def redirects(line: Line) -> None:
    line.answer(b"", "Location: https://login.example.com/", status="302 Found")


def nests_deeply(line: Line) -> None:
    line.answer(b"[" * 100_000)


READS: list[tuple[Callable[[Line], None], type[EvoImageError], str]] = [
    (drips_its_body, EvoLinkUnreachableError, "not done within 1 s"),
    (drips_its_headers, EvoLinkUnreachableError, "not done within 1 s"),
    (continues_for_ever, EvoLinkUnreachableError, "not done within 1 s"),
    (says_nothing, EvoLinkUnreachableError, "Silence|not done within 1 s"),
    (never_ends, EvoLinkUnreachableError, "larger than (0.5|10) MB"),
    (announces_five_gigabytes, EvoLinkUnreachableError, "larger than (0.5|10) MB"),
    (bombs_with_gzip, EvoLinkUnreachableError, "larger than (0.5|10) MB"),
    (packs_thrice, EvoLinkUnreachableError, "'gzip, gzip, gzip', which was not requested"),
    (packs_unasked, EvoLinkUnreachableError, "'br', which was not requested"),
    (cuts_its_gzip_short, EvoLinkUnreachableError, "ends too early"),
    (says_gzip_and_sends_none, EvoLinkUnreachableError, "cannot be unpacked"),
    (sends_huge_headers, EvoLinkUnreachableError, "cut|not valid HTTP"),
    (is_no_http_server, EvoLinkUnreachableError, "not valid HTTP|not done within 1 s"),
    (sends_a_page, UnreadableAnswerError, "Just a moment"),
    (refuses_with_a_page, EvoLinkUnavailableError, "not one of EvoLink's own errors"),
    (redirects, EvoLinkUnavailableError, "a redirect"),
    (nests_deeply, UnreadableAnswerError, "not JSON"),
]


class HostileApi(socketserver.ThreadingTCPServer):
    """An API host on loopback that answers everything as ``behave`` does."""

    allow_reuse_address = True
    daemon_threads = True
    behave: Callable[[Line], None] = staticmethod(says_nothing)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.closing = threading.Event()
        self.heads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what is tested here."""


class _Handler(socketserver.StreamRequestHandler):
    server: HostileApi

    def handle(self) -> None:
        while line := self.rfile.readline().decode("latin-1"):
            head = line
            while (line := self.rfile.readline().decode("latin-1")).strip():
                head += line.lower()
            length = head.partition("content-length: ")[2].partition("\r")[0]
            self.rfile.read(int(length or 0))
            self.server.heads.append(head)
            self.server.behave(Line(self, head))


@pytest.fixture
def host() -> Iterator[HostileApi]:
    with HostileApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def account(host: HostileApi, **changes: Any) -> Account:
    return Account(**{"base_url": host.url, "api_key": API_KEY, "request_timeout": TIMEOUT, **changes})


def read_on_worker(host: HostileApi) -> Any:
    with EvoLinkClient(account(host)) as client:
        client._read_attempts = 1
        return client.get_generation(TASK)


def read_in_triggerer(host: HostileApi) -> Any:
    async def read() -> Any:
        async with AsyncEvoLinkClient(account(host), read_attempts=1) as client:
            return await client.get_state(TASK)

    return asyncio.run(read())


@pytest.mark.parametrize("read", [read_on_worker, read_in_triggerer])
@pytest.mark.parametrize(
    ("behaviour", "kind", "words"), READS, ids=[behaviour.__name__ for behaviour, _, _ in READS]
)
def test_bad_api_host_gives_an_error_that_a_retry_may_mend(
    host: HostileApi,
    read: Callable[[HostileApi], Any],
    behaviour: Callable[[Line], None],
    kind: type[EvoImageError],
    words: str,
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    peak_memory()
    before = peak_memory()
    with pytest.raises(EvoImageError, match=words) as caught:
        read(host)
    assert type(caught.value) is kind
    assert caught.value.retryable
    assert caught.value.evolink_task_id == TASK
    assert caught.value.billed is None
    assert peak_memory() - before < MEMORY_BYTES
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "behaviour",
    [drips_its_body, drips_its_headers, continues_for_ever, never_ends, bombs_with_gzip],
    ids=lambda behaviour: behaviour.__name__,
)
def test_submission_whose_answer_does_not_come_is_in_doubt_and_repeated_under_its_key(
    host: HostileApi, behaviour: Callable[[Line], None]
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    request = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox", quality="low")
    with EvoLinkClient(account(host)) as client, pytest.raises(OutcomeUnknownError):
        client.submit(request, "airflow-evoimage-hostile", submit_timeout=5)
    keys = {line for head in host.heads for line in head.splitlines() if line.startswith("idempotency-key")}
    assert len(host.heads) == 2
    assert len(keys) == 1


def test_connection_is_used_again_after_a_complete_answer_only(host: HostileApi) -> None:
    peers: list[int] = []

    def behave(line: Line) -> None:
        peers.append(id(line.closing))
        line.answer(b'{"data": {"user": {"remaining_credits": 5}}}')

    host.behave = behave  # type: ignore[method-assign]
    with EvoLinkClient(account(host)) as client:
        for _ in range(3):
            assert client.get_credits().account_remaining == 5
        assert len(client._transport._lanes) == 1
        host.behave = drips_its_body  # type: ignore[method-assign]
        client._read_attempts = 1
        with pytest.raises(EvoLinkUnreachableError):
            client.get_credits()
        host.behave = behave  # type: ignore[method-assign]
        assert client.get_credits().account_remaining == 5


@pytest.mark.parametrize(
    "behaviour",
    [drips_its_body, drips_its_headers, continues_for_ever, says_nothing],
    ids=lambda each: each.__name__,
)
async def test_wait_ends_at_its_deadline_while_a_request_is_under_way(
    host: HostileApi, monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[Line], None]
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    monkeypatch.setenv(CONNECTION, connection(host, request_timeout=40))  # type: ignore[arg-type]
    began = time.monotonic()
    triggers = [
        EvoImageGenerationTrigger(
            evolink_task_ids=[f"{TASK}{number}"],
            evoimage_conn_id="evoimage_default",
            deadline=time.time() + 2,
            poll_interval=1,
        )
        for number in range(3)
    ]
    events = await asyncio.gather(*(events_of(each) for each in triggers))
    assert [event.payload["status"] for (event,) in events] == ["timeout"] * 3
    # The deadline is after 2 s, and 3 s are for the last poll; the request could take 40.
    assert time.monotonic() - began < 20


async def test_large_answers_hold_up_no_other_trigger(host: HostileApi) -> None:
    task = b'{"id": "%s", "status": "processing", "junk": [%s1]}' % (TASK.encode(), b"1," * 240_000)
    host.behave = lambda line: line.answer(task)  # type: ignore[method-assign]
    late: list[float] = []
    async with AsyncEvoLinkClient(account(host, request_timeout=20), read_attempts=1) as client:

        async def tick() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.005)
                late.append(time.monotonic() - began - 0.005)

        ticking = asyncio.create_task(tick())
        for _ in range(5):
            assert (await client.get_state(TASK)).status == "processing"
        ticking.cancel()
    # Read on the loop, each would hold it up for ten times as long.
    assert sorted(late)[len(late) // 2] < 0.1


def test_pages_on_every_read_end_neither_wait_nor_task(
    host: HostileApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page does not end the lookup of many, nor the reads of single generations."""
    state = b'{"id": "%s", "status": "processing"}' % TASK.encode()
    pages = [redirects, refuses_with_a_page]

    def behave(line: Line) -> None:
        if pages:
            pages.pop()(line)
        else:
            many = b'{"data": [%s]}' % state
            line.answer(many if line.head.startswith("POST") else state)

    host.behave = behave  # type: ignore[method-assign]
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    with EvoLinkClient(account(host)) as client:
        assert set(client.get_generations([TASK, f"{TASK}x"])) == {TASK}
        assert not client._reads_one_by_one
        assert client.get_generation(TASK).status == "processing"


def test_clients_that_nobody_closes_leave_no_thread_each(host: HostileApi) -> None:
    host.behave = lambda line: line.answer(b'{"data": {"user": {"remaining_credits": 5}}}')  # type: ignore[method-assign]
    EvoLinkClient(account(host)).get_credits()
    before = threading.active_count()
    for _ in range(5):
        EvoLinkClient(account(host)).get_credits()
    # The host has a thread for each open connection.
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("evoimage-deadlines") == 1
    assert threading.active_count() - before <= 5


def test_forked_process_has_a_watch_of_its_own(host: HostileApi) -> None:
    host.behave = drips_its_body  # type: ignore[method-assign]
    with pytest.raises(EvoLinkUnreachableError):
        read_on_worker(host)
    pid = os.fork()
    if pid == 0:
        try:
            read_on_worker(host)
        except EvoLinkUnreachableError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.parametrize(
    "behaviour", [drips_its_body, says_nothing, never_ends, bombs_with_gzip], ids=lambda each: each.__name__
)
async def test_host_that_misbehaves_holds_up_no_trigger_of_another_account(
    host: HostileApi,
    evolink: SimulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Callable[[Line], None],
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    monkeypatch.setenv(CONNECTION, connection(host, request_timeout=40))  # type: ignore[arg-type]
    monkeypatch.setenv("AIRFLOW_CONN_EVOIMAGE_OTHER", connection(evolink))
    with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
        request = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox [[duration:1]]", quality="low")
        made = client.submit(request, "airflow-evoimage-other").generation.evolink_task_id
    bad = EvoImageGenerationTrigger(
        evolink_task_ids=[TASK],
        evoimage_conn_id="evoimage_default",
        deadline=time.time() + 600,
        poll_interval=1,
    )
    good = EvoImageGenerationTrigger(
        evolink_task_ids=[made],
        evoimage_conn_id="evoimage_other",
        deadline=time.time() + 600,
        poll_interval=1,
    )
    waiting = asyncio.create_task(events_of(bad))
    (event,) = await asyncio.wait_for(events_of(good), 30)
    assert event.payload["status"] == "completed"
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})


@pytest.mark.parametrize("behaviour", [drips_its_body, says_nothing], ids=lambda each: each.__name__)
def test_wait_on_a_worker_ends_at_its_deadline_while_a_request_is_under_way(
    host: HostileApi, monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[Line], None]
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    monkeypatch.setenv(CONNECTION, connection(host, request_timeout=40))  # type: ignore[arg-type]
    wait = Wait(evolink_task_id=TASK, deadline=time.time() + 2, poll_interval=1)
    began = time.monotonic()
    event = wait_on_worker(EvoImageHook(), [wait], logging.getLogger(__name__))  # type: ignore[arg-type]
    assert event.endings == {TASK: "timeout"}
    assert time.monotonic() - began < 20


def test_handshake_that_never_ends_is_cut(host: HostileApi) -> None:
    with EvoLinkClient(account(host, base_url=host.url.replace("http:", "https:"))) as client:
        client._read_attempts = 1
        with pytest.raises(EvoLinkUnreachableError) as caught:
            client.get_generation(TASK)
    assert caught.value.retryable
