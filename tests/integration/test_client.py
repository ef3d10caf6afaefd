"""The clients over real HTTP: what is asked again, under which key, and what is never asked twice."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_evoimage.client import READ_ATTEMPTS, Account, AsyncEvoLinkClient, EvoLinkClient
from airflow_provider_evoimage.evolink.answers import Generation, GenerationState
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    ConnectionSettingsError,
    DownloadError,
    EvoImageError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    GenerationNotFoundError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    OutcomeUnknownError,
    RateLimitError,
    RequestRefusedError,
    UnrepeatableSubmissionError,
    UnsafeLinkError,
)
from airflow_provider_evoimage.result_links import MAX_REDIRECTS, Deadline, ResultClient
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.transport import prepare_for_asyncio
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import API_KEY

KEY = "airflow-evoimage-test-0001"
TASK = "task-unified-1-abcdefgh"

pytestmark = pytest.mark.usefixtures("fake_time")


@pytest.fixture
def connect(evolink: SimulatorServer) -> Iterator[Callable[..., EvoLinkClient]]:
    """Make clients for the simulated account."""
    clients = []

    def make(**settings: Any) -> EvoLinkClient:
        account = Account(**{"base_url": evolink.url, "api_key": API_KEY} | settings)
        clients.append(EvoLinkClient(account))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


Read = Callable[[str], Generation | GenerationState]


@pytest.fixture(params=["sync", "async"])
def reader(request: pytest.FixtureRequest, connect: Any, evolink: SimulatorServer) -> Iterator[Any]:
    """Make what reads one generation of the simulated account: as a worker does, or as a trigger does."""
    with asyncio.Runner() as runner:
        made: list[AsyncEvoLinkClient] = []

        def make(**settings: Any) -> Read:
            if request.param == "sync":
                return connect(**settings).get_generation
            runner.run(prepare_for_asyncio())
            account = Account(**{"base_url": evolink.url, "api_key": API_KEY} | settings)
            client = AsyncEvoLinkClient(account)
            made.append(client)
            return lambda task: runner.run(client.get_state(task))

        yield make
        for client in made:
            runner.run(client.aclose())


def asking(prompt: str = "a red fox", **fields: Any) -> ImageRequest:
    return ImageRequest.build(model="gpt-image-1.5", prompt=prompt, quality="low", **fields)


# Submitting


def test_accepted_request_is_paid_once_under_its_key(connect: Any, evolink: SimulatorServer) -> None:
    submitted = connect().submit(asking(), KEY)
    (generation,) = evolink.state.generations.values()
    assert submitted.generation.evolink_task_id == generation.id
    assert generation.idempotency_key == KEY
    assert not submitted.replayed


def test_same_key_again_returns_the_same_generation(connect: Any, evolink: SimulatorServer) -> None:
    client = connect()
    first, second = client.submit(asking(), KEY), client.submit(asking(), KEY)
    assert second.replayed
    assert second.generation.evolink_task_id == first.generation.evolink_task_id
    assert evolink.state.counters.paid == 1


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "ignored"])
@pytest.mark.parametrize("word", ["[[http:429 times=3]]", "[[http:503 times=3]]"])
def test_busy_service_is_waited_for_and_paid_once(
    connect: Any, evolink: SimulatorServer, fake_time: FakeTime, word: str, trusted: bool
) -> None:
    client = connect(trust_idempotency=trusted)
    submitted = client.submit(asking(f"a red fox {word}"), KEY)
    assert submitted.generation.evolink_task_id in evolink.state.generations
    assert evolink.state.counters.submissions == 4
    assert evolink.state.counters.paid == 1
    assert len(fake_time.slept) == 3


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "ignored"])
def test_service_that_is_down_is_waited_for_and_paid_once(
    connect: Any, fake_time: FakeTime, trusted: bool
) -> None:
    with SimulatorServer() as other:
        client = connect(base_url=other.url, trust_idempotency=trusted)
        other.stop()
        fake_time.on_sleep = lambda _: other.start() if len(fake_time.slept) == 3 else None
        client.submit(asking(), KEY)
        assert other.state.counters.submissions == other.state.counters.paid == 1


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_to_the_second(
    connect: Any, evolink: SimulatorServer, fake_time: FakeTime, status: int
) -> None:
    connect().submit(asking(f"a red fox [[http:{status} times=2 retry_after=17]]"), KEY)
    assert fake_time.slept == [17, 17]
    assert evolink.state.counters.paid == 1


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "ignored"])
@pytest.mark.parametrize(
    ("word", "kind"),
    [("[[http:429]]", RateLimitError), ("[[http:503]]", EvoLinkUnavailableError)],
)
def test_submit_timeout_bounds_the_wait_and_says_not_billed(
    connect: Any,
    evolink: SimulatorServer,
    fake_time: FakeTime,
    word: str,
    kind: type[EvoImageError],
    trusted: bool,
) -> None:
    with pytest.raises(kind, match=r"Billed: no\.") as failed:
        connect(trust_idempotency=trusted).submit(asking(f"a fox {word}"), KEY, submit_timeout=60)
    assert failed.value.billed is False
    assert failed.value.retryable
    assert evolink.state.counters.submissions > 1
    assert evolink.state.counters.paid == 0
    assert fake_time.passed <= 60


def test_retry_after_beyond_the_submit_timeout_is_not_waited_for(connect: Any, fake_time: FakeTime) -> None:
    with pytest.raises(RateLimitError) as failed:
        connect().submit(asking("a fox [[http:429 retry_after=3600]]"), KEY, submit_timeout=60)
    assert failed.value.retry_after == 3600
    assert fake_time.slept == []


def test_service_that_stays_down_is_an_error_that_says_not_billed(connect: Any, fake_time: FakeTime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = connect(base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(EvoLinkUnreachableError, match=r"Billed: no\."):
        client.submit(asking(), KEY, submit_timeout=30)
    assert fake_time.slept
    assert fake_time.passed <= 30


LOST_ANSWERS = [
    "[[cut:after]]",
    "[[status-after:502]]",
    "[[status-after:504]]",
    "[[status-after:500]]",
    "[[junk-after]]",
]


@pytest.mark.parametrize("word", LOST_ANSWERS)
def test_lost_answer_is_asked_for_once_more_and_paid_once(
    connect: Any, evolink: SimulatorServer, word: str
) -> None:
    submitted = connect().submit(asking(f"a red fox {word}"), KEY)
    assert submitted.replayed
    assert list(evolink.state.generations) == [submitted.generation.evolink_task_id]
    assert evolink.state.counters.submissions == 2
    assert evolink.state.counters.paid == 1


def test_connection_cut_before_acceptance_is_asked_again_and_paid_once(
    connect: Any, evolink: SimulatorServer
) -> None:
    submitted = connect().submit(asking("a red fox [[cut:before]]"), KEY)
    assert not submitted.replayed
    assert evolink.state.counters.submissions == 2
    assert evolink.state.counters.paid == 1


def test_silence_after_acceptance_is_asked_once_more_and_paid_once(
    connect: Any, evolink: SimulatorServer
) -> None:
    submitted = connect(request_timeout=1.5).submit(asking("a red fox [[silence:90]]"), KEY)
    assert submitted.replayed
    assert evolink.state.counters.paid == 1


@pytest.mark.parametrize("word", [*LOST_ANSWERS, "[[cut:before]]"])
def test_ignored_keys_make_a_lost_answer_final_after_one_post(
    connect: Any, evolink: SimulatorServer, word: str
) -> None:
    client = connect(trust_idempotency=False)
    with pytest.raises(UnrepeatableSubmissionError, match=r"Billed: unknown\.") as failed:
        client.submit(asking(f"a red fox {word}"), KEY)
    assert not failed.value.retryable
    assert failed.value.billed is None
    assert evolink.state.counters.submissions == 1


def test_ignored_keys_make_the_503_of_a_proxy_final_after_one_post(
    connect: Any, evolink: SimulatorServer
) -> None:
    """A proxy's page proves nothing: EvoLink behind it may have accepted. EvoLink's own 503 refuses."""
    evolink.state.faults.post("submit", Fault("status", 503, page=True))
    with pytest.raises(UnrepeatableSubmissionError, match=r"Billed: unknown\.") as failed:
        connect(trust_idempotency=False).submit(asking(), KEY)
    assert not failed.value.retryable
    assert evolink.state.counters.submissions == 1


@pytest.mark.parametrize(
    "word", ["[[cut:after times=2]]", "[[status-after:502 times=2]]", "[[cut:before times=2]]"]
)
def test_answer_lost_twice_is_an_unknown_outcome_that_a_retry_can_settle(
    connect: Any, evolink: SimulatorServer, word: str
) -> None:
    client = connect()
    with pytest.raises(OutcomeUnknownError, match="same idempotency key") as failed:
        client.submit(asking(f"a red fox {word}"), KEY)
    assert type(failed.value) is OutcomeUnknownError
    assert failed.value.billed is None
    assert evolink.state.counters.submissions == 2
    client.submit(asking(f"a red fox {word}"), KEY)
    assert evolink.state.counters.paid == 1


def test_lost_answer_followed_by_a_busy_service_stays_an_unknown_outcome(
    connect: Any, evolink: SimulatorServer
) -> None:
    prompt = "a red fox [[cut:after]][[http:429]]"
    with pytest.raises(OutcomeUnknownError) as failed:
        connect().submit(asking(prompt), KEY, submit_timeout=20)
    assert failed.value.billed is None
    assert evolink.state.counters.paid == 1


def test_other_body_under_the_same_key_is_a_conflict_and_pays_nothing(
    connect: Any, evolink: SimulatorServer
) -> None:
    client = connect()
    client.submit(asking(), KEY)
    with pytest.raises(IdempotencyConflictError) as refused:
        client.submit(asking("a blue fox"), KEY)
    assert not refused.value.retryable
    assert evolink.state.counters.paid == 1


def test_first_post_still_undecided_is_waited_for_and_never_called_unbilled(
    connect: Any, evolink: SimulatorServer
) -> None:
    busy = Fault("status", 409, code="paid_outcome_unknown")
    evolink.state.faults.post("submit", busy)
    with pytest.raises(OutcomeUnknownError) as failed:
        connect().submit(asking(), KEY, submit_timeout=20)
    assert failed.value.billed is None
    assert evolink.state.counters.submissions > 2


def test_first_post_undecided_for_a_while_is_returned_when_it_is_done(
    connect: Any, evolink: SimulatorServer
) -> None:
    evolink.state.faults.post("submit", Fault("status", 409, code="paid_outcome_unknown", times=4))
    connect().submit(asking(), KEY)
    assert evolink.state.counters.paid == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, RequestRefusedError),
        (401, None, AuthenticationError),
        (402, None, InsufficientCreditsError),
        (413, None, RequestRefusedError),
    ],
)
def test_refusal_is_final_at_once_and_not_billed(
    connect: Any,
    evolink: SimulatorServer,
    fake_time: FakeTime,
    status: int,
    code: str | None,
    kind: type[EvoImageError],
) -> None:
    evolink.state.faults.post("submit", Fault("status", status, code=code))
    with pytest.raises(kind) as refused:
        connect().submit(asking(), KEY)
    assert refused.value.billed is False
    assert not refused.value.retryable
    assert evolink.state.counters.submissions == 1
    assert fake_time.slept == []


# Reading


def test_reads_are_tried_again(reader: Any, evolink: SimulatorServer, submitted: Callable[..., str]) -> None:
    task = submitted()
    for fault in (Fault("status", 502, page=True, times=1), Fault("cut", times=1), Fault("junk", times=1)):
        evolink.state.faults.post("task", fault)
    assert reader()(task).evolink_task_id == task
    assert evolink.state.counters.reads["task"] == READ_ATTEMPTS


def test_reads_are_tried_a_bounded_number_of_times(
    reader: Any, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    evolink.state.faults.post("task", Fault("status", 503))
    with pytest.raises(EvoLinkUnavailableError):
        reader()(TASK)
    assert evolink.state.counters.reads["task"] == READ_ATTEMPTS
    assert fake_time.passed <= 60


def test_retry_after_of_a_read_is_honoured(
    reader: Any, evolink: SimulatorServer, fake_time: FakeTime, submitted: Callable[..., str]
) -> None:
    task = submitted()
    evolink.state.faults.post("task", Fault("status", 429, retry_after="9", times=1))
    assert reader()(task).evolink_task_id == task
    assert fake_time.slept == [9]


def test_unknown_generation_is_not_asked_for_again(reader: Any, evolink: SimulatorServer) -> None:
    with pytest.raises(GenerationNotFoundError, match=TASK):
        reader()(TASK)
    assert evolink.state.counters.reads["task"] == 1


def test_many_generations_are_read_fifty_in_one_request(connect: Any, evolink: SimulatorServer) -> None:
    client = connect()
    tasks = [client.submit(asking(f"fox {n}"), f"{KEY}-{n}").generation.evolink_task_id for n in range(60)]
    found = client.get_generations([*tasks, tasks[0], "task-unified-1-abcdefgh"])
    assert list(found) == tasks
    assert evolink.state.counters.reads["batch"] == 2
    assert evolink.state.counters.reads["task"] == 0


def test_missing_batch_endpoint_is_remembered(connect: Any, evolink: SimulatorServer) -> None:
    evolink.state.configure({"batch": False})
    client = connect()
    tasks = [client.submit(asking(f"fox {n}"), f"{KEY}-{n}").generation.evolink_task_id for n in range(3)]
    for _ in range(2):
        assert list(client.get_generations([*tasks, "task-unified-1-abcdefgh"])) == tasks
    assert evolink.state.counters.reads["batch"] == 1
    assert evolink.state.counters.reads["task"] == 8


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 403, code="permission_denied"),
        Fault("status", 400),
        Fault("status", 500),
        Fault("junk"),
    ],
    ids=["403", "400", "500", "junk"],
)
def test_batch_endpoint_that_does_not_work_is_done_without(
    connect: Any, evolink: SimulatorServer, fault: Fault
) -> None:
    client = connect()
    tasks = [client.submit(asking(f"fox {n}"), f"{KEY}-{n}").generation.evolink_task_id for n in range(3)]
    evolink.state.faults.post("batch", fault)
    assert list(client.get_generations(tasks)) == tasks
    evolink.state.faults.post("task", Fault("status", 502))
    with pytest.raises(EvoLinkUnavailableError):
        client.get_generations(tasks)


def test_batch_endpoint_that_fails_for_a_while_is_used_again(connect: Any, evolink: SimulatorServer) -> None:
    client = connect()
    tasks = [client.submit(asking(f"fox {n}"), f"{KEY}-{n}").generation.evolink_task_id for n in range(3)]
    evolink.state.faults.post("batch", Fault("status", 500))
    assert list(client.get_generations(tasks)) == tasks
    evolink.state.faults.clear()
    before = evolink.state.counters.reads["task"]
    assert list(client.get_generations(tasks)) == tasks
    assert evolink.state.counters.reads["task"] == before


def test_one_generation_needs_no_batch_endpoint(connect: Any, evolink: SimulatorServer) -> None:
    client = connect()
    task = client.submit(asking(), KEY).generation.evolink_task_id
    assert list(client.get_generations([task, task])) == [task]
    assert evolink.state.counters.reads["batch"] == 0


def test_requests_are_spaced_within_a_process(
    reader: Any, evolink: SimulatorServer, fake_time: FakeTime, submitted: Callable[..., str]
) -> None:
    task = submitted()
    # Two clients of one account, as two tasks on one worker.
    api_key = f"sk-evo-{secrets.token_hex(8)}"
    reads = [reader(max_requests_per_second=0.5, api_key=api_key) for _ in range(2)]
    before = fake_time.monotonic()
    for number in range(6):
        with suppress(GenerationNotFoundError):
            reads[number % 2](task)
    assert fake_time.monotonic() - before >= 10
    assert fake_time.passed == pytest.approx(10, abs=3)
    assert evolink.state.counters.reads["task"] == 6


# Redirects and other hosts


class Host:
    """A web server that answers by path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requested: list[tuple[str, dict[str, str]]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requested.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                length = int(self.headers.get("content-length") or 0)
                self.rfile.read(length)
                status, headers, body = host.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 (http.server's name)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        self.answers[path] = (status, {"location": to}, b"")

    def serve(self, path: str, body: bytes = b"image") -> None:
        self.answers[path] = (200, {"content-type": "image/png"}, body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_of_the_api_is_never_followed_with_the_key(
    connect: Any, reader: Any, evolink: SimulatorServer, host: Host, status: int
) -> None:
    host.redirect("/v1/images/generations", f"{evolink.url}/v1/images/generations", status)
    host.redirect(f"/v1/tasks/{TASK}", f"{evolink.url}/v1/tasks/{TASK}", status)
    with pytest.raises(ConnectionSettingsError, match="redirect"):
        connect(base_url=host.url).submit(asking(), KEY)
    # What stands before EvoLink cannot end the wait for a paid generation.
    with pytest.raises(EvoLinkUnavailableError, match="redirect"):
        reader(base_url=host.url)(TASK)
    assert evolink.state.counters.submissions == 0
    assert evolink.state.counters.reads["task"] == 0
    assert len(host.requested) == 1 + READ_ATTEMPTS


def test_key_quoted_by_the_service_is_not_in_the_error(reader: Any, host: Host) -> None:
    host.answers[f"/v1/tasks/{TASK}"] = (400, {}, f'{{"error": {{"message": "bad key {API_KEY}"}}}}'.encode())
    with pytest.raises(RequestRefusedError) as refused:
        reader(base_url=host.url)(TASK)
    assert API_KEY not in str(refused.value)


ESCAPED_KEY = "".join(f"\\u{ord(each):04x}" for each in API_KEY)


@pytest.mark.parametrize("key", [API_KEY, ESCAPED_KEY], ids=["plain", "escaped"])
def test_key_quoted_in_any_field_or_header_is_not_read(connect: Any, host: Host, key: str) -> None:
    task = f'{{"id": "{TASK}", "status": "completed {key}", "model": "gpt-{key}", "{key}": "{key}"}}'
    host.answers[f"/v1/tasks/{TASK}"] = (200, {}, task.encode())
    found = connect(base_url=host.url).get_generation(TASK)
    assert API_KEY not in repr(found.model_dump())
    assert found.model == "gpt-***"
    refusal = f'{{"error": {{"code": "{key}", "message": "{key}", "param": "{key}", "request_id": "{key}"}}}}'
    host.answers[f"/v1/tasks/{TASK}"] = (400, {"X-Request-Id": API_KEY}, refusal.encode())
    with pytest.raises(EvoImageError) as caught:
        connect(base_url=host.url).get_generation(TASK)
    assert API_KEY not in f"{caught.value!s}{vars(caught.value)}"


def test_key_is_in_no_representation_of_the_account() -> None:
    assert API_KEY not in repr(Account(base_url="https://api.evolink.ai", api_key=API_KEY))


def fetched(url: str, *, evolink_host: str = "") -> bytes:
    with (
        ResultClient(evolink_host=evolink_host) as client,
        client.stream(url, Deadline.after(20)) as stream,
    ):
        return b"".join(stream.chunks)


def test_result_client_sends_no_credentials_and_names_the_product(host: Host) -> None:
    host.serve("/a.png")
    assert fetched(f"{host.url}/a.png", evolink_host="127.0.0.1") == b"image"
    ((_, headers),) = host.requested
    assert not {"authorization", "cookie", "proxy-authorization"} & set(headers)
    assert headers["user-agent"].startswith("airflow-provider-evoimage/")


@pytest.mark.parametrize(
    "internal",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "a.localhost",
        "10.0.0.5",
        "192.168.1.1",
        "172.16.3.4",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00::1]",
        "0.0.0.0",
        "metadata.google.internal",
        "printer.local",
    ],
)
def test_links_to_internal_hosts_are_refused_unasked(host: Host, internal: str) -> None:
    host.serve("/a.png")
    with pytest.raises(DownloadError, match="not a public host"):
        fetched(f"http://{internal}:{host.port}/a.png")
    assert host.requested == []


@pytest.mark.parametrize(
    ("evolink_host", "internal"),
    [
        ("127.0.0.1", "10.0.0.5"),
        ("127.0.0.1", "169.254.169.254"),
        ("10.0.0.5", "127.0.0.1"),
        ("10.0.0.5", "169.254.169.254"),
        ("10.0.0.5", "[fd00:ec2::254]"),
        ("10.0.0.5", "[64:ff9b::169.254.169.254]"),
        ("evolink.internal", "100.100.100.200"),
        ("169.254.169.254", "169.254.169.254"),
        ("api.evolink.ai", "10.0.0.5"),
    ],
)
def test_evolink_at_an_internal_address_opens_its_own_network_only(evolink_host: str, internal: str) -> None:
    with pytest.raises(UnsafeLinkError, match="not a public host"):
        fetched(f"http://{internal}/a.png", evolink_host=evolink_host)


@pytest.mark.parametrize(
    "link", ["file:///etc/passwd", "ftp://example.com/a.png", "//example.com/a.png", "a.png", ""]
)
def test_links_of_other_kinds_are_refused(link: str) -> None:
    with pytest.raises(DownloadError):
        fetched(link, evolink_host="127.0.0.1")


@pytest.fixture
def internal_cdn(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host under the public name cdn.example.com."""
    resolve = socket.getaddrinfo

    def lying(name: Any, *arguments: Any, **options: Any) -> Any:
        known = {"cdn.example.com", b"cdn.example.com"}
        return resolve("127.0.0.1" if name in known else name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lying)
    host.serve("/a.png")
    return host


def test_public_name_of_an_internal_address_is_refused(
    internal_cdn: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnsafeLinkError, match="not a public address"):
        fetched(f"http://cdn.example.com:{internal_cdn.port}/a.png")
    # Refused when it was connected, before anything was sent to it.
    assert internal_cdn.requested == []


@pytest.fixture
def through_proxy(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host as HTTP proxy, which is how a public host can answer in a test."""
    monkeypatch.setenv("HTTP_PROXY", host.url)
    monkeypatch.setenv("http_proxy", host.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return host


def test_public_host_behind_a_proxy_is_read_without_resolving_its_name(through_proxy: Host) -> None:
    through_proxy.serve("http://cdn.example.com/a.png")
    assert fetched("http://cdn.example.com/a.png") == b"image"


@pytest.mark.parametrize("no_proxy", [".cdn.example.com", "example.org, 10.0.0.0/8"])
def test_host_that_is_read_through_the_proxy_may_have_an_internal_proxy(
    through_proxy: Host, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.setenv("no_proxy", no_proxy)
    through_proxy.serve("http://cdn.example.com/a.png")
    assert fetched("http://cdn.example.com/a.png") == b"image"


@pytest.mark.parametrize("written", ["cdn.example.com", "CDN.Example.COM"])
@pytest.mark.parametrize("no_proxy", ["http://cdn.example.com", "cdn.example.com", "example.com", "*"])
def test_public_name_of_an_internal_address_is_refused_where_the_proxy_is_left_out(
    internal_cdn: Host, through_proxy: Host, monkeypatch: pytest.MonkeyPatch, no_proxy: str, written: str
) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.setenv("no_proxy", no_proxy)
    with pytest.raises(UnsafeLinkError, match="not a public address"):
        fetched(f"http://{written}:{internal_cdn.port}/a.png")
    assert through_proxy.requested == []


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_redirect_to_an_internal_host_is_refused_at_each_hop(through_proxy: Host, hops: int) -> None:
    secret = "http://169.254.169.254/latest/meta-data"
    through_proxy.serve(secret)
    for hop in range(hops):
        to = secret if hop == hops - 1 else f"http://cdn.example.com/{hop + 1}"
        through_proxy.redirect(f"http://cdn.example.com/{hop}", to)
    with pytest.raises(DownloadError, match=r"169\.254\.169\.254"):
        fetched("http://cdn.example.com/0")
    assert secret not in [path for path, _ in through_proxy.requested]


@pytest.mark.parametrize(("redirects", "arrives"), [(MAX_REDIRECTS, True), (MAX_REDIRECTS + 1, False)])
def test_five_redirects_are_followed_and_no_more(host: Host, redirects: int, arrives: bool) -> None:
    for number in range(redirects):
        host.redirect(f"/{number}", f"/{number + 1}")
    host.serve(f"/{redirects}")
    if arrives:
        assert fetched(f"{host.url}/0", evolink_host="127.0.0.1") == b"image"
    else:
        with pytest.raises(DownloadError, match="redirects"):
            fetched(f"{host.url}/0", evolink_host="127.0.0.1")
        assert len(host.requested) == MAX_REDIRECTS + 1


def test_redirect_loop_ends(host: Host) -> None:
    host.redirect("/a", "/a")
    with pytest.raises(DownloadError, match="redirects"):
        fetched(f"{host.url}/a", evolink_host="127.0.0.1")


def test_signed_part_of_a_link_is_in_no_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DownloadError) as failed:
        fetched(f"http://127.0.0.1:{port}/a.png?signature=secret", evolink_host="127.0.0.1")
    assert "secret" not in str(failed.value)
    assert "127.0.0.1" in str(failed.value)


async def test_credits_that_are_left_are_the_same_to_both_clients(
    connect: Callable[..., EvoLinkClient], evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    for number in range(3):
        client.submit(
            ImageRequest.build(model="gpt-image-1.5", prompt="a fox [[instant]]", quality="low"),
            f"{KEY}-{number}",
        )
    async with AsyncEvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as other:
        plain = await other.get_credits_left(with_pace=False)
        assert (plain, plain.per_day) == (client.get_credits_left(with_pace=False), None)
        whole = await other.get_credits_left(with_pace=True)
        assert whole == client.get_credits_left(with_pace=True)
        # No more pages are read than an account of many images is worth.
        monkeypatch.setattr("airflow_provider_evoimage.client.MOST_PAGES", 1)
        monkeypatch.setattr("airflow_provider_evoimage.evolink.protocol.MAX_IDS_PER_BATCH", 1)
        part = await other.get_credits_left(with_pace=True)
        assert part == client.get_credits_left(with_pace=True)
    assert whole.per_day
    assert part.per_day == pytest.approx(whole.per_day / 3)


def test_receipt_that_cannot_be_read_is_no_missing_one(
    connect: Callable[..., EvoLinkClient], evolink: SimulatorServer
) -> None:
    evolink.state.configure({"api_keys": {"another-key": "default"}})
    with pytest.raises(AuthenticationError):
        connect().get_upload_receipt("upload-0123456789")
