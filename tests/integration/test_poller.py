"""Many triggers, one poller, over real HTTP: few requests, and nobody suffers from anybody else.

Nothing here is driven by a fake clock: what is promised is about many things at one time.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.transport import AsyncTransport, Outgoing
from airflow_provider_evoimage.triggers import one_event
from airflow_provider_evoimage.triggers import poller as poller_module
from airflow_provider_evoimage.triggers import watch as watch_module
from airflow_provider_evoimage.triggers.batch import EvoImageBatchTrigger
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
from airflow_provider_evoimage.triggers.poller import (
    MAX_REQUESTS_IN_FLIGHT,
    UNUSABLE_BATCH_ANSWERS,
    Poller,
    WatchChange,
)
from tests.integration.task_driver import API_KEY, assert_holds_no_secret, connection, events_of

pytestmark = pytest.mark.usefixtures("airflow_connection")

Many = Callable[..., list[str]]
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO")


@pytest.fixture
def many(evolink: SimulatorServer) -> Many:
    """Have many generations made by somebody else: returns their ids."""

    def submit(count: int, words: str = "[[duration:3]]") -> list[str]:
        with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
            requests = (
                ImageRequest.build(model="gpt-image-1.5", prompt=f"fox {number} {words}", quality="low")
                for number in range(count)
            )
            return [
                client.submit(each, f"somebody-elses-{uuid.uuid4()}").generation.evolink_task_id
                for each in requests
            ]

    return submit


@dataclass
class Wire:
    """What went over the wire: when each request was sent and answered, and who is named in its context."""

    sent: list[tuple[float, Outgoing]] = field(default_factory=list)
    answered: list[tuple[float, Outgoing, int]] = field(default_factory=list)
    contexts: list[str | None] = field(default_factory=list)

    def count(self, ending: str) -> int:
        return sum(request.url.endswith(ending) for _, request in self.sent)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    seen = Wire()
    send = AsyncTransport.send

    async def recorded(transport: AsyncTransport, request: Outgoing) -> Any:
        seen.sent.append((time.monotonic(), request))
        seen.contexts.append(WHO.get(None))
        answer = await send(transport, request)
        seen.answered.append((time.monotonic(), request, answer.status))
        return answer

    monkeypatch.setattr(AsyncTransport, "send", recorded)
    return seen


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[httpx.AsyncClient]:
    """Every asynchronous HTTP client that is made."""
    made: list[httpx.AsyncClient] = []
    begin = httpx.AsyncClient.__init__

    def init(client: httpx.AsyncClient, **options: Any) -> None:
        made.append(client)
        begin(client, **options)

    monkeypatch.setattr(httpx.AsyncClient, "__init__", init)
    return made


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the connections that are looked up."""
    requested: list[str] = []
    look_up = EvoImageHook.aget_settings

    async def recorded(hook: EvoImageHook) -> Any:
        requested.append(hook.evoimage_conn_id)
        return await look_up(hook)

    monkeypatch.setattr(EvoImageHook, "aget_settings", recorded)
    return requested


@pytest.fixture(autouse=True)
async def nothing_is_left(clients: list[httpx.AsyncClient]) -> Any:
    """After each test here: no task, no client, no poller."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    assert all(client.is_closed for client in clients)
    shared = watch_module._SHARED.get(asyncio.get_running_loop())
    assert shared is None or (shared._pollers, shared._lookups) == ({}, {})


def a_trigger(*tasks: str, timeout: float = 1800, **arguments: Any) -> EvoImageGenerationTrigger:
    arguments = {"evoimage_conn_id": "evoimage_default"} | arguments
    return EvoImageGenerationTrigger(evolink_task_ids=tasks, deadline=time.time() + timeout, **arguments)


async def event_of(trigger: Any) -> dict[str, Any]:
    (event,) = await events_of(trigger)
    assert_holds_no_secret(json.dumps(event.payload))
    return event.payload


async def endings_of(triggers: list[EvoImageGenerationTrigger]) -> list[str]:
    events = await asyncio.wait_for(asyncio.gather(*(event_of(each) for each in triggers)), 120)
    return [event["status"] for event in events]


async def connection_is_known() -> None:
    """Look the connection up before anything waits, so that all that follows begins at one time."""
    await watch_module._shared().account("evoimage_default")


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something to come true, with a deadline."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_three_hundred_triggers_share_few_requests_and_one_look_up(
    many: Many,
    wire: Wire,
    lookups: list[str],
    clients: list[httpx.AsyncClient],
    evolink: SimulatorServer,
) -> None:
    tasks = many(300, "[[duration:8]]")
    assert set(await endings_of([a_trigger(task) for task in tasks])) == {"completed"}
    assert len(wire.sent) < len(tasks) / 4
    assert evolink.state.counters.ids_read < len(tasks) * 10
    assert lookups == ["evoimage_default"]
    assert len(clients) == 1


@pytest.mark.parametrize("batch", [True, False], ids=["many", "one by one"])
async def test_ids_that_were_read_are_counted_in_airflows_metrics(
    many: Many, evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch, batch: bool
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(metrics, "ids_read", counted.append)
    evolink.state.configure({"batch": batch})
    await endings_of([a_trigger(*many(7, "[[duration:2]]"))])
    assert sum(counted) == evolink.state.counters.ids_read


async def test_generation_that_two_triggers_wait_for_ends_for_both(many: Many) -> None:
    (task,) = many(1)
    assert await endings_of([a_trigger(task), a_trigger(task, poll_interval=1)]) == ["completed"] * 2


async def test_rate_limit_stops_everybody_for_as_long_as_it_says_and_counts_once(
    many: Many, wire: Wire, evolink: SimulatorServer
) -> None:
    evolink.state.faults.post("batch", Fault("status", 429, retry_after="3", times=1))
    tasks = many(120, "[[duration:2]]")
    assert set(await endings_of([a_trigger(task) for task in tasks])) == {"completed"}
    refused_at = next(at for at, _, status in wire.answered if status == 429)
    assert not [at for at, _ in wire.sent if refused_at < at < refused_at + 2.9]
    assert [status for _, _, status in wire.answered].count(429) == 1


async def test_last_look_before_a_deadline_is_made_in_spite_of_a_rate_limit(
    many: Many, wire: Wire, evolink: SimulatorServer
) -> None:
    evolink.state.faults.post("task", Fault("status", 429, retry_after="3600", times=1))
    patient, pressed = many(2, "[[never]]")
    waiting = asyncio.create_task(event_of(a_trigger(patient)))
    await until(lambda: wire.answered)
    assert (await event_of(a_trigger(pressed, timeout=1)))["status"] == "timeout"
    assert [request.url.rpartition("/")[2] for _, request in wire.sent] == [patient, pressed]
    waiting.cancel()
    await asyncio.wait({waiting})


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 501])
async def test_missing_batch_endpoint_is_asked_once_and_remembered(
    many: Many, wire: Wire, evolink: SimulatorServer, status: int
) -> None:
    evolink.state.faults.post("batch", Fault("status", status))
    await connection_is_known()
    for _ in range(2):
        # The second time the poller is another one, and what the first has learned is still known.
        tasks = many(6, "[[duration:1]]")
        triggers = [a_trigger(*tasks[:3], poll_interval=0.5), a_trigger(*tasks[3:], poll_interval=0.5)]
        assert set(await endings_of(triggers)) == {"completed"}
    assert wire.count("/batch") == 1


@pytest.mark.parametrize("status", [401, 403, 404, 405, 451])
async def test_one_page_in_place_of_the_batch_endpoint_does_not_switch_it_off(
    many: Many, wire: Wire, evolink: SimulatorServer, status: int
) -> None:
    evolink.state.faults.post("batch", Fault("status", status, page=True, times=1))
    tasks = many(40, "[[duration:3]]")
    assert set(await endings_of([a_trigger(*tasks, poll_interval=1)])) == {"completed"}
    assert wire.count("/batch") >= 2
    assert len(wire.sent) < 20


async def test_missing_batch_endpoint_is_asked_again_after_a_while(
    many: Many, wire: Wire, evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "SINGLE_READS_SECONDS", 0.5)
    evolink.state.faults.post("batch", Fault("status", 404, times=1))
    waiting = asyncio.create_task(endings_of([a_trigger(*many(6, "[[duration:600]]"), poll_interval=0.4)]))
    await until(lambda: wire.count("/batch") > 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("fault", [Fault("junk"), Fault("status", 500)], ids=["junk", "500"])
async def test_batch_endpoint_that_never_works_is_given_up_for_single_reads(
    many: Many, wire: Wire, evolink: SimulatorServer, fault: Fault
) -> None:
    evolink.state.faults.post("batch", fault)
    tasks = many(4, "[[duration:2]]")
    assert set(await endings_of([a_trigger(*tasks, poll_interval=0.5)])) == {"completed"}
    assert 3 <= wire.count("/batch") < 8


async def test_outage_that_ends_as_a_single_generation_is_read_does_not_switch_the_batch_endpoint_off(
    many: Many, wire: Wire, evolink: SimulatorServer
) -> None:
    """Three batch reads fail, then one single read succeeds: the outage is over, and the endpoint was never missing."""
    evolink.state.faults.post("batch", Fault("status", 500, times=UNUSABLE_BATCH_ANSWERS))
    tasks = many(40, "[[duration:6]]")
    assert set(await endings_of([a_trigger(*tasks, poll_interval=1)])) == {"completed"}
    assert wire.count("/batch") > UNUSABLE_BATCH_ANSWERS
    assert len(wire.sent) < 20


async def test_requests_in_flight_are_bounded(many: Many, evolink: SimulatorServer) -> None:
    evolink.state.configure({"batch": False})
    evolink.state.faults.post("task", Fault("delay", seconds=0.3))
    tasks = many(100, "[[instant]]")
    evolink.state.counters.requests.most = 0
    assert set(await endings_of([a_trigger(task) for task in tasks])) == {"completed"}
    assert 5 < evolink.state.counters.requests.most <= MAX_REQUESTS_IN_FLIGHT


async def test_limit_of_the_connection_is_kept(
    many: Many, wire: Wire, evolink: SimulatorServer, airflow_connection: Any
) -> None:
    airflow_connection(max_requests_per_second=10)
    evolink.state.configure({"batch": False})
    assert set(await endings_of([a_trigger(task) for task in many(20, "[[instant]]")])) == {"completed"}
    starts = [at for at, _ in wire.sent]
    assert len(starts) >= 20
    assert starts[-1] - starts[0] >= (len(starts) - 1) / 10 - 0.1


async def test_cancelled_triggers_leave_the_others_waiting(many: Many, wire: Wire) -> None:
    tasks = many(40, "[[duration:3]]")
    runs = [asyncio.create_task(event_of(a_trigger(task))) for task in tasks]
    await until(lambda: wire.answered)
    for run in runs[::2]:
        run.cancel()
    events = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 60)
    assert all(isinstance(event, asyncio.CancelledError) for event in events[::2])
    assert {event["status"] for event in events[1::2] if isinstance(event, dict)} == {"completed"}
    left = set(tasks[::2])
    late = [request for at, request in wire.sent if at > wire.answered[-1][0] - 1]
    assert not left & {each for request in late for each in (request.json or {}).get("task_ids", [])}


@pytest.mark.parametrize("moment", ["lookup", "request", "sleep"])
async def test_all_cancelled_at_any_moment_leaves_nothing(
    many: Many, wire: Wire, evolink: SimulatorServer, lookups: list[str], moment: str
) -> None:
    tasks = many(5, "[[never]]")
    if moment == "request":
        for route in ("task", "batch"):
            evolink.state.faults.post(route, Fault("delay", seconds=30))
    runs = [asyncio.create_task(event_of(a_trigger(task))) for task in tasks]
    await until(
        {"lookup": lambda: True, "request": lambda: wire.sent, "sleep": lambda: wire.answered}[moment]
    )
    for run in runs:
        run.cancel()
    # Airflow's supervisor asks for a cancellation each second until the trigger is gone.
    await asyncio.sleep(0)
    for run in runs:
        run.cancel()
    await asyncio.wait(runs)
    assert all(run.cancelled() for run in runs)
    await until(lambda: len(asyncio.all_tasks()) == len(asyncio.all_tasks() - set(runs)))
    await until(lambda: not any("evoimage" in task.get_name() for task in asyncio.all_tasks()))


async def test_joining_and_leaving_at_any_moment_loses_nobody(many: Many, evolink: SimulatorServer) -> None:
    chance = random.Random(20261121)
    tasks = many(60, "[[duration:2]]")
    for route in ("task", "batch"):
        evolink.state.faults.post(route, Fault("cut", probability=0.2))

    async def one(task: str) -> str:
        await asyncio.sleep(chance.uniform(0, 1))
        run = asyncio.create_task(event_of(a_trigger(task, poll_interval=chance.choice([1.0, 0.3]))))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.uniform(0, 1))
            run.cancel()
            await asyncio.wait({run})
            # The triggerer was restarted: the same trigger begins again, elsewhere or here.
            return await one(task)
        return str((await run)["status"])

    ended = await asyncio.wait_for(asyncio.gather(*(one(task) for task in tasks)), 120)
    assert set(ended) == {"completed"}


async def test_failure_of_one_trigger_does_not_touch_the_others(
    many: Many, evolink: SimulatorServer, log_lines: list[Any]
) -> None:
    tasks = many(4)
    evolink.state.end(tasks[3], "failed", "service_error")
    triggers = [
        a_trigger(tasks[0]),
        a_trigger(tasks[1], evoimage_conn_id="no_such_connection"),
        a_trigger(tasks[2], "not an id"),
        a_trigger(tasks[3]),
        a_trigger("task-unified-1-abcdefgh", timeout=3),
    ]
    events = await asyncio.wait_for(asyncio.gather(*(event_of(each) for each in triggers)), 60)
    assert [event["status"] for event in events] == ["completed", "lost", "lost", "failed", "timeout"]
    assert [event.get("reason") for event in events[1:3]] == [
        "ConnectionNotFoundError",
        "InvalidRequestError",
    ]


async def test_fault_of_ours_ends_the_wait_and_not_silently(
    many: Many, monkeypatch: pytest.MonkeyPatch, log_lines: list[Any]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Poller, "_settle", broken)
    tasks = many(3)
    assert set(await endings_of([a_trigger(task) for task in tasks])) == {"lost"}


async def test_poller_that_dies_loses_no_waiter(
    many: Many, monkeypatch: pytest.MonkeyPatch, log_lines: list[Any]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Poller, "_take", broken)
    assert set(await endings_of([a_trigger(task) for task in many(3)])) == {"lost"}


async def test_connections_to_one_account_share_a_poller_and_others_do_not(
    many: Many, evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch, clients: list[httpx.AsyncClient]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SAME", connection(evolink))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", connection(evolink, api_key="sk-evo-another-account"))
    tasks = many(3)
    triggers = [
        a_trigger(tasks[0]),
        a_trigger(tasks[1], evoimage_conn_id="same"),
        a_trigger(tasks[2], evoimage_conn_id="other", timeout=2),
    ]
    assert await endings_of(triggers) == ["completed", "completed", "timeout"]
    assert len(clients) == 2


async def test_rotated_key_is_read_again_for_everybody(
    many: Many,
    wire: Wire,
    evolink: SimulatorServer,
    airflow_connection: Any,
    lookups: list[str],
    clients: list[httpx.AsyncClient],
) -> None:
    tasks = many(80, "[[duration:3]]")
    waiting = asyncio.create_task(endings_of([a_trigger(task) for task in tasks]))
    await until(lambda: wire.answered)
    evolink.state.configure({"revoked_keys": [API_KEY]})
    airflow_connection(api_key="sk-evo-the-next-key")
    assert set(await waiting) == {"completed"}
    assert 2 <= len(clients) <= len(lookups) <= 5


async def test_poller_inherits_nobodys_context(
    many: Many, wire: Wire, monkeypatch: pytest.MonkeyPatch, evolink: SimulatorServer
) -> None:
    logged: list[tuple[str, str]] = []

    async def log_change(trigger: EvoImageGenerationTrigger, change: WatchChange) -> None:
        logged.append((WHO.get(), change.evolink_task_id))

    monkeypatch.setattr(EvoImageGenerationTrigger, "_log_change", log_change)
    tasks = many(6)

    async def as_task(task: str) -> None:
        WHO.set(task)
        await event_of(a_trigger(task))

    await asyncio.gather(*(asyncio.create_task(as_task(task)) for task in tasks))
    assert {who for who, _ in logged} == set(tasks)
    assert all(who == task for who, task in logged)
    assert set(wire.contexts) == {None}


class FullLog:
    """A log that takes no line until somebody makes room, like the socket that the triggerer's parent reads."""

    def __init__(self) -> None:
        self.is_reached = False
        self.room = threading.Event()
        self.lines: list[str] = []

    def info(self, **line: Any) -> None:
        self.is_reached = True
        assert self.room.wait(timeout=10), "The event loop stands still."
        self.lines.append(line["event"])

    warning = error = info


@pytest.mark.parametrize("is_batch", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("is_lost", [False, True], ids=["completed", "broken off"])
async def test_full_log_holds_up_no_other_trigger(
    many: Many, monkeypatch: pytest.MonkeyPatch, is_batch: bool, is_lost: bool
) -> None:
    tasks = many(2, "[[instant]]")
    if is_lost:
        monkeypatch.delenv("AIRFLOW_CONN_EVOIMAGE_DEFAULT")
    trigger = a_batch(tasks) if is_batch else a_trigger(*tasks)
    log = FullLog()
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    trigger._log = structlog.wrap_logger(log, processors=[], wrapper_class=wrapper)
    waiting = asyncio.create_task(event_of(trigger))
    await until(lambda: log.is_reached)
    assert not waiting.done()
    log.room.set()
    assert (await waiting)["status"] == ("lost" if is_lost else "completed")
    assert log.lines


async def test_each_event_waits_for_its_turn(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    held = asyncio.Event()
    sleep = asyncio.sleep

    async def held_sleep(seconds: float, result: Any = None) -> Any:
        return await (held.wait() if seconds == 3600 else sleep(seconds, result))

    turns = [3600, 3600, 0.0, 0.0]
    monkeypatch.setattr(one_event, "_pace", lambda: SimpleNamespace(delay=lambda now: turns.pop()))
    monkeypatch.setattr(one_event, "asyncio", SimpleNamespace(sleep=held_sleep))
    waiting = [asyncio.create_task(event_of(a_trigger(task))) for task in many(4, "[[instant]]")]
    await until(lambda: not turns and sum(each.done() for each in waiting) == 2)
    held.set()
    assert {event["status"] for event in await asyncio.gather(*waiting)} == {"completed"}


def test_event_loops_share_nothing_and_are_let_go(many: Many) -> None:
    (task,) = many(1, "[[instant]]")
    for _ in range(3):
        assert asyncio.run(event_of(a_trigger(task)))["status"] == "completed"
    gc.collect()
    # asgiref, with which Airflow reads connections, remembers the last loop.
    assert len([loop for loop in watch_module._SHARED if loop.is_closed()]) <= 1


def a_batch(tasks: list[str], timeout: float = 1800, **arguments: Any) -> EvoImageBatchTrigger:
    arguments = {"save_every": 10, "save_after": 600.0} | arguments
    trigger = EvoImageBatchTrigger(
        evolink_task_ids=tasks,
        evoimage_conn_id="evoimage_default",
        deadline=time.time() + timeout,
        **arguments,
    )
    _, stored = trigger.serialize()
    row = json.dumps(stored)
    assert_holds_no_secret(row)
    return EvoImageBatchTrigger(**json.loads(row))


async def test_batch_wakes_the_worker_when_enough_have_ended(many: Many) -> None:
    done, running = many(12, "[[instant]]"), many(5, "[[never]]")
    await connection_is_known()
    event = await event_of(a_batch([*running, *done]))
    assert event == {
        "v": 1,
        "status": "completed",
        "generations": dict.fromkeys(done, "completed"),
        "waiting": len(running),
    }


async def test_batch_wakes_the_worker_for_few_after_a_while(many: Many) -> None:
    done, running = many(2, "[[instant]]"), many(3, "[[never]]")
    event = await event_of(a_batch([*done, *running], save_after=2.0))
    assert (set(event["generations"]), event["waiting"]) == (set(done), 3)


async def test_batch_that_has_ended_wakes_the_worker_at_once(many: Many) -> None:
    done, failed = many(2, "[[duration:2]]"), many(1, "[[fail:service_error]]")
    event = await event_of(a_batch([*done, *failed], timeout=10))
    assert event["status"] == "failed"
    assert event["generations"] == {**dict.fromkeys(done, "completed"), failed[0]: "failed"}
    assert "waiting" not in event


async def test_batch_at_its_deadline_names_what_timed_out(many: Many) -> None:
    done, running = many(1, "[[instant]]"), many(2, "[[never]]")
    event = await event_of(a_batch([*done, *running], timeout=2))
    assert event["generations"] == {done[0]: "completed", **dict.fromkeys(running, "timeout")}


async def test_batch_of_thousands_has_a_small_row_and_small_events(many: Many, wire: Wire) -> None:
    tasks = many(1500, "[[instant]]")
    trigger = a_batch(tasks, save_every=2000)
    assert len(json.dumps(trigger.serialize())) < 24_000
    named: dict[str, str] = {}
    left = tasks
    for _ in range(5):
        event = await event_of(a_batch(left, save_every=len(left)))
        assert len(json.dumps(event)) < 48_000
        named |= event["generations"]
        left = [task for task in left if task not in named]
        assert len(left) == event.get("waiting", 0)
        if not left:
            break
    assert set(named) == set(tasks)
    assert wire.count("/batch") == len(wire.sent)


async def test_batch_whose_connection_is_gone_names_what_it_knows(
    many: Many, monkeypatch: pytest.MonkeyPatch, log_lines: list[Any]
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_EVOIMAGE_DEFAULT")
    event = await event_of(a_batch(many(3)))
    assert event == {
        "v": 1,
        "status": "lost",
        "generations": {},
        "waiting": 3,
        "reason": "ConnectionNotFoundError",
    }


async def test_batch_logs_progress_and_not_each_generation(many: Many, log_lines: list[Any]) -> None:
    await event_of(a_batch(many(60, "[[duration:2]]"), save_every=60))
    assert 0 < len(log_lines) < 6
    assert "60 completed" in log_lines[-1]["event"]


async def test_killed_batch_says_that_billing_goes_on(many: Many, wire: Wire, log_lines: list[Any]) -> None:
    trigger = a_batch(many(30, "[[never]]"))
    run = asyncio.create_task(event_of(trigger))
    await until(lambda: wire.answered)
    run.cancel()
    await asyncio.wait({run})
    await trigger.on_kill()
    (line,) = [line for line in log_lines if line["log_level"] == "warning"]
    assert "30 EvoLink tasks" in line["event"]
