"""The trigger against a service that fails in every way: one event, no worker, nothing secret, few lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
from airflow_provider_evoimage.waiting.polling import FAILURE_BUDGET_SECONDS
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import API_KEY, CONNECTION, assert_holds_no_secret, events_of

pytestmark = pytest.mark.usefixtures("airflow_connection")

Submit = Callable[..., str]


@pytest.fixture
def waiting_for(fake_time: FakeTime) -> Callable[..., EvoImageGenerationTrigger]:
    """Make the trigger for some generations, as the triggerer does from the stored row."""

    def make(*tasks: str, timeout: float = 1800, **arguments: Any) -> EvoImageGenerationTrigger:
        trigger = EvoImageGenerationTrigger(
            evolink_task_ids=tasks,
            evoimage_conn_id="evoimage_default",
            deadline=fake_time.time() + timeout,
            **arguments,
        )
        _, stored = trigger.serialize()
        assert_holds_no_secret(json.dumps(stored))
        return EvoImageGenerationTrigger(**json.loads(json.dumps(stored)))

    return make


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


async def only_event(trigger: EvoImageGenerationTrigger) -> dict[str, Any]:
    (event,) = await events_of(trigger)
    assert_holds_no_secret(json.dumps(event.payload))
    return event.payload


@pytest.mark.parametrize(
    ("word", "ending"),
    [
        ("", "completed"),
        ("[[fail:service_error]]", "failed"),
        ("[[cancelled]]", "cancelled"),
        ("[[never]]", "timeout"),
    ],
)
async def test_one_event_says_how_it_ended(
    waiting_for: Any, submitted: Submit, clients: list[httpx.AsyncClient], word: str, ending: str
) -> None:
    task = submitted(f"a red fox {word}")
    assert await only_event(waiting_for(task)) == {"v": 1, "status": ending, "generations": {task: ending}}
    assert clients
    assert all(client.is_closed for client in clients)


async def test_many_generations_end_in_one_event(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    words = ["", "[[duration:90]]", "[[instant]]", "[[fail:service_error]]", "[[cancelled]]", "[[never]]"]
    tasks = [submitted(f"a red fox {number} {word}") for number, word in enumerate(words)]
    event = await only_event(waiting_for(*tasks, timeout=300))
    assert list(event["generations"].values()).count("completed") == 3
    assert event["generations"][tasks[3]] == "failed"
    assert event["generations"][tasks[4]] == "cancelled"
    assert event["generations"][tasks[5]] == "timeout"
    assert event["status"] == "timeout"
    assert fake_time.passed == pytest.approx(300, abs=5)
    assert evolink.state.counters.submissions == len(tasks)


async def test_sixty_generations_share_their_requests(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer
) -> None:
    tasks = [submitted(f"a red fox {number} [[duration:8]]") for number in range(60)]
    event = await only_event(waiting_for(*tasks, poll_interval=4))
    assert set(event["generations"].values()) == {"completed"}
    reads = evolink.state.counters.reads
    assert reads["task"] + reads["batch"] < 30


async def test_missing_batch_endpoint_does_not_matter(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer
) -> None:
    evolink.state.configure({"batch": False})
    tasks = [submitted(f"a red fox {number}") for number in range(3)]
    assert (await only_event(waiting_for(*tasks)))["status"] == "completed"


async def test_deadline_gets_one_last_look_and_no_more(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    task = submitted("a red fox [[never]]")
    event = await only_event(waiting_for(task, timeout=20, poll_interval=15))
    assert event["status"] == "timeout"
    assert evolink.state.counters.reads["task"] == 2
    assert fake_time.passed == pytest.approx(20, abs=3)


async def test_restart_of_the_triggerer_does_not_extend_the_wait(
    waiting_for: Any, submitted: Submit, fake_time: FakeTime, evolink: SimulatorServer
) -> None:
    trigger = waiting_for(submitted("a red fox [[never]]"), timeout=100)
    _, stored = trigger.serialize()
    fake_time.advance(500)
    event = await only_event(EvoImageGenerationTrigger(**stored))
    assert event["status"] == "timeout"
    assert evolink.state.counters.reads["task"] == 1
    assert fake_time.passed == 500


async def test_generation_that_ended_while_the_triggerer_was_down_counts(
    waiting_for: Any, submitted: Submit, fake_time: FakeTime
) -> None:
    trigger = waiting_for(submitted(), timeout=100)
    fake_time.advance(500)
    assert (await only_event(trigger))["status"] == "completed"


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
async def test_rotated_key_is_read_again_and_the_wait_goes_on(
    waiting_for: Any,
    submitted: Submit,
    evolink: SimulatorServer,
    airflow_connection: Any,
    fake_time: FakeTime,
    clients: list[httpx.AsyncClient],
    several: bool,
) -> None:
    tasks = [submitted("a red fox"), submitted("another red fox")][: 1 + several]

    def rotate(_: float) -> None:
        if len(fake_time.slept) == 2:
            evolink.state.configure({"revoked_keys": [API_KEY]})
            airflow_connection(api_key="sk-evo-the-next-key")

    fake_time.on_sleep = rotate
    assert (await only_event(waiting_for(*tasks)))["status"] == "completed"
    assert len(clients) == 2
    assert all(client.is_closed for client in clients)


async def test_key_that_stays_refused_ends_the_wait_after_one_more_look(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer
) -> None:
    task = submitted()
    evolink.state.configure({"revoked_keys": [API_KEY]})
    event = await only_event(waiting_for(task))
    assert event == {"v": 1, "status": "lost", "generations": {task: "lost"}, "reason": "unauthorized"}
    assert evolink.state.counters.reads["task"] == 2


async def test_unknown_generation_is_lost_after_its_grace(
    waiting_for: Any, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    event = await only_event(waiting_for("task-unified-1-abcdefgh"))
    assert (event["status"], event["reason"]) == ("lost", "not found")
    assert 60 <= fake_time.passed < 120
    assert evolink.state.counters.reads["task"] > 2


@pytest.fixture
def outage(evolink: SimulatorServer) -> Iterator[Callable[[], None]]:
    """Take the service down, or bring it up again; it is up in the end."""
    is_up = True

    def switch() -> None:
        nonlocal is_up
        is_up = not is_up
        evolink.start() if is_up else evolink.stop()

    yield switch
    if not is_up:
        evolink.start()


async def test_service_that_was_down_for_a_while_does_not_end_the_wait(
    waiting_for: Any,
    submitted: Submit,
    fake_time: FakeTime,
    outage: Callable[[], None],
    log_lines: list[Any],
) -> None:
    task = submitted("a red fox [[duration:100]]")

    def switch(_: float) -> None:
        if len(fake_time.slept) in {3, 9}:
            outage()

    fake_time.on_sleep = switch
    assert (await only_event(waiting_for(task)))["status"] == "completed"
    assert len(fake_time.slept) > 9
    assert sum("could not be read" in line["event"] for line in log_lines) == 1


async def test_service_that_stays_down_ends_the_wait_after_its_budget(
    waiting_for: Any, submitted: Submit, fake_time: FakeTime, outage: Callable[[], None]
) -> None:
    trigger = waiting_for(submitted())
    outage()
    event = await only_event(trigger)
    assert (event["status"], event["reason"]) == ("lost", "unreadable")
    assert fake_time.passed == pytest.approx(FAILURE_BUDGET_SECONDS, abs=30)


# What firewalls, proxies and maintenance pages answer with.
FOREIGN_REFUSALS = [400, 401, 403, 404, 405, 407, 421, 423, 425, 451]


@pytest.mark.parametrize("route", ["task", "batch"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("junk", times=3),
        Fault("cut", times=3),
        Fault("status", 502, page=True, times=3),
        Fault("status", 500, times=3),
        Fault("status", 429, times=3),
        *(Fault("status", status, page=True, times=3) for status in FOREIGN_REFUSALS),
    ],
    ids=["junk", "cut", "page", "500", "429", *(f"page {status}" for status in FOREIGN_REFUSALS)],
)
async def test_junk_answers_do_not_end_the_wait(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer, fault: Fault, route: str
) -> None:
    tasks = [submitted("a red fox"), submitted("another red fox")]
    evolink.state.faults.post(route, fault)
    # At so short an interval the jitter of two tasks never parts their polls.
    trigger = waiting_for(*tasks, poll_interval=1) if route == "batch" else waiting_for(tasks[0])
    assert (await only_event(trigger))["status"] == "completed"
    assert evolink.state.faults.drawn[route] == 3


async def test_retry_after_is_waited_for(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    evolink.state.faults.post("task", Fault("status", 429, retry_after="77", times=1))
    await only_event(waiting_for(submitted()))
    # Less the time that has really passed since the answer.
    assert 76.5 <= fake_time.slept[1] <= 77 * 1.2


async def test_connection_that_is_gone_still_gives_one_event(
    waiting_for: Any, submitted: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = submitted()
    monkeypatch.delenv(CONNECTION)
    event = await only_event(waiting_for(task))
    assert event["generations"] == {task: "lost"}


async def test_endings_seen_before_the_wait_broke_off_are_kept(
    waiting_for: Any,
    submitted: Submit,
    evolink: SimulatorServer,
    fake_time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, running = submitted("a red fox [[instant]]"), submitted("another red fox [[never]]")

    def lose(_: float) -> None:
        if len(fake_time.slept) == 3:
            evolink.state.configure({"revoked_keys": [API_KEY]})
            monkeypatch.delenv(CONNECTION)

    fake_time.on_sleep = lose
    event = await only_event(waiting_for(done, running))
    assert event["generations"] == {done: "completed", running: "lost"}


async def cancelled_after(polls: int, trigger: EvoImageGenerationTrigger, fake_time: FakeTime) -> None:
    """Run a trigger and cancel it in its wait, as the triggerer does on a clear, a restart or a time-out."""
    run = asyncio.ensure_future(events_of(trigger))
    fake_time.on_sleep = lambda _: run.cancel() if len(fake_time.slept) > polls else None
    with pytest.raises(asyncio.CancelledError):
        await run
    fake_time.on_sleep = lambda _: None


@pytest.mark.parametrize("polls", [0, 1, 3])
async def test_cancelled_wait_leaves_no_open_client(
    waiting_for: Any, submitted: Submit, fake_time: FakeTime, clients: list[httpx.AsyncClient], polls: int
) -> None:
    await cancelled_after(polls, waiting_for(submitted("a red fox [[never]]")), fake_time)
    assert len(clients) == 1
    assert clients[0].is_closed


@pytest.mark.parametrize("polls", [0, 3])
async def test_killed_wait_says_that_billing_goes_on(
    waiting_for: Any, submitted: Submit, fake_time: FakeTime, log_lines: list[Any], polls: int
) -> None:
    task = submitted("a red fox [[never]]")
    trigger = waiting_for(task)
    await cancelled_after(polls, trigger, fake_time)
    await trigger.on_kill()
    (line,) = [line for line in log_lines if line["log_level"] == "warning"]
    assert task in line["event"]
    assert "is billed when it completes" in line["event"]


async def test_killed_before_its_first_step_still_names_the_generation(
    waiting_for: Any, submitted: Submit, log_lines: list[Any]
) -> None:
    task = submitted("a red fox [[never]]")
    await waiting_for(task).on_kill()
    assert any(task in line["event"] for line in log_lines)


async def test_end_of_the_trigger_after_its_event_is_no_kill(
    waiting_for: Any, submitted: Submit, log_lines: list[Any]
) -> None:
    trigger = waiting_for(submitted())
    await only_event(trigger)
    await trigger.on_kill()
    assert not [line for line in log_lines if "billed" in line["event"]]


async def test_kill_names_only_what_is_still_running(
    waiting_for: Any, submitted: Submit, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    done, running = submitted("a red fox [[instant]]"), submitted("another red fox [[never]]")
    trigger = waiting_for(done, running)
    await cancelled_after(4, trigger, fake_time)
    await trigger.on_kill()
    (line,) = [line for line in log_lines if "billed" in line["event"]]
    assert running in line["event"]
    assert done not in line["event"]


async def test_log_has_a_line_for_each_change_and_not_for_each_look(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer, log_lines: list[Any]
) -> None:
    task = submitted("a red fox [[duration:1500]]")
    await only_event(waiting_for(task))
    assert evolink.state.counters.reads["task"] > 80
    assert [line["event"] for line in log_lines if task in line["event"]] == [
        f"EvoLink task {task}: processing.",
        f"EvoLink task {task}: completed.",
    ]


async def test_log_holds_neither_key_nor_link_nor_prompt(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer, log_lines: list[Any]
) -> None:
    evolink.state.faults.post("task", Fault("status", 502, page=True, times=2))
    await only_event(waiting_for(submitted()))
    text = json.dumps([line["event"] for line in log_lines])
    assert API_KEY not in text
    assert "/files/" not in text
    assert "red fox" not in text


async def test_nothing_is_ever_submitted_from_a_trigger(
    waiting_for: Any, submitted: Submit, evolink: SimulatorServer
) -> None:
    task = submitted("a red fox [[fail:service_error]]")
    for _ in range(3):
        await only_event(waiting_for(task))
    assert evolink.state.counters.submissions == 1
