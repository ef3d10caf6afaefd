"""The stream behind an asset watcher, over real HTTP: paged, patient, and it goes on from what was kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.accounts import Caller, key_hash
from airflow_provider_evoimage.simulator.service.faults import Fault, read_script
from airflow_provider_evoimage.simulator.service.orders import read_order
from airflow_provider_evoimage.triggers import finished_stream
from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED
from airflow_provider_evoimage.triggers.finished_stream import POSITION_KEY, FinishedStream
from tests.integration.fake_time import FakeTime

pytestmark = [
    pytest.mark.usefixtures("airflow_connection"),
    pytest.mark.skipif(not IS_SUPPORTED, reason="Airflow < 3.3 does not say when it has stored an event"),
]

Make = Callable[..., str]


class Store:
    """The state of an asset, as one triggerer after another finds it."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.rows.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.rows[key] = value


@pytest.fixture
def make(evolink: SimulatorServer) -> Make:
    """Have a generation made elsewhere that takes some seconds; returns its id."""

    def made(seconds: float = 0, *, model: str = "gpt-image-1.5", age: float = 0, words: str = "") -> str:
        prompt = f"a poster [[duration:{seconds}]] {words}"
        order = read_order({"model": model, "quality": "low", "prompt": prompt})
        caller = Caller("default", key_hash("the website"))
        return evolink.state.accept(caller, order, read_script(prompt), None, age=age).id

    return made


class Watcher:
    """One triggerer's stream; leaving it is a kill."""

    def __init__(self, store: Store, **arguments: Any) -> None:
        given = {"statuses": ["completed"], "model": [], "poll_interval": 5.0} | arguments
        self.stream = FinishedStream(asset="account", evoimage_conn_id="evoimage_default", **given)
        self.store = self.stream._store = store  # type: ignore[assignment]
        self.events: AsyncIterator[Any] = self.stream.open_stream()

    async def next(self) -> tuple[list[str], Any]:
        found, position = await asyncio.wait_for(anext(self.events), 120)
        return [each["evolink_task_id"] for each in found], position

    async def confirm(self, position: Any) -> None:
        await self.stream.advance(
            [SimpleNamespace(broker_payload=position, outcome=SimpleNamespace(is_clean=True))]
        )

    async def told(self, count: int) -> list[str]:
        """Take events until so many generations were told, each stored at once."""
        found: list[str] = []
        while len(found) < count:
            ids, position = await self.next()
            found += ids
            await self.confirm(position)
        return found

    async def quiet(self, evolink: SimulatorServer, looks: int = 3) -> None:
        """Let it look some more times, and see that there is nothing to tell."""
        before = evolink.state.counters.reads["list"]
        task = asyncio.ensure_future(anext(self.events))  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            while evolink.state.counters.reads["list"] < before + looks and not task.done():
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def begin(self) -> None:
        """Look until the first position is kept, and die."""
        task = asyncio.ensure_future(anext(self.events))  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            while POSITION_KEY not in self.store.rows and not task.done():
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.close()

    async def close(self) -> None:
        await self.stream.aclose()


async def test_what_ends_after_the_first_look_is_told_once_in_any_order(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    store = Store()
    old, slow = make(age=3600), make(600)
    await Watcher(store).begin()
    quick = [make(10), make(0)]
    watcher = Watcher(store)
    told = await watcher.told(3)
    assert sorted(told) == sorted([slow, *quick])
    assert told[-1] == slow
    assert old not in told
    assert not set(store.rows[POSITION_KEY]["running"])
    await watcher.quiet(evolink)
    await watcher.close()


async def test_event_that_was_not_stored_is_told_again_and_a_stored_one_is_not(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    store = Store()
    await Watcher(store).begin()
    first = make()
    killed = Watcher(store)
    assert (await killed.next())[0] == [first]
    await killed.close()

    second = Watcher(store)
    ids, position = await second.next()
    assert ids == [first]
    await second.confirm(position)
    await second.close()

    later = make()
    assert await Watcher(store).told(1) == [later]


async def test_more_than_a_page_between_two_looks_and_more_than_an_event_holds(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    store = Store()
    running = [make(200) for _ in range(60)]
    await Watcher(store).begin()
    # Those that were on the second page at the first look are watched as well.
    assert len(store.rows[POSITION_KEY]["running"]) == 60
    tasks = [make(age=number / 10) for number in range(130)]
    watcher = Watcher(store)
    assert sorted(await watcher.told(130)) == sorted(tasks)
    assert sorted(await watcher.told(60)) == sorted(running)
    await watcher.close()


async def test_outage_and_a_missing_batch_endpoint_lose_nothing(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    store = Store()
    slow = make(400)
    await Watcher(store).begin()
    evolink.state.configure({"batch": False})
    evolink.state.faults.post("list", Fault(kind="status", status=503, times=12))
    watcher = Watcher(store)
    make(0, model="gpt-image-1")
    told = await watcher.told(2)
    assert slow in told
    await watcher.close()


async def test_models_and_endings_narrow_it(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    one, several = Store(), Store()
    await Watcher(one, model=["gpt-image-2"]).begin()
    await Watcher(several, model=["gpt-image-2", "gpt-image-1"], statuses=["failed"]).begin()
    make()
    wanted = make(model="gpt-image-2")
    failed = make(model="gpt-image-1", words="[[fail:service_error]]")
    make(words="[[fail:service_error]]")
    assert await Watcher(one, model=["gpt-image-2"]).told(1) == [wanted]
    watcher = Watcher(several, model=["gpt-image-2", "gpt-image-1"], statuses=["failed"])
    assert await watcher.told(1) == [failed]
    await watcher.quiet(evolink)
    await watcher.close()


async def test_key_that_was_changed_meanwhile_is_read_again(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime, airflow_connection: Any
) -> None:
    store = Store()
    await Watcher(store).begin()
    task = make()
    evolink.state.configure({"api_keys": {"the-new-key": "default"}})
    refused = 0

    def change(seconds: float) -> None:
        nonlocal refused
        refused += seconds > 5
        if refused == 2:
            airflow_connection(api_key="the-new-key")

    fake_time.on_sleep = change
    assert await Watcher(store).told(1) == [task]
    assert refused == 2


@pytest.mark.parametrize("has_batch", [True, False])
async def test_running_generation_beyond_the_list_is_asked_for_itself(
    make: Make,
    evolink: SimulatorServer,
    fake_time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
    has_batch: bool,
) -> None:
    monkeypatch.setattr(finished_stream, "MAX_IDS_PER_BATCH", 2)
    monkeypatch.setattr(finished_stream, "MOST_PAGES", 1)
    evolink.state.configure({"batch": has_batch})
    store = Store()
    slow, unknown = make(60), make(60)
    await Watcher(store).begin()
    # EvoLink has forgotten one of them.
    del evolink.state.generations[unknown]
    watcher = Watcher(store)
    newer = [make(), make()]
    assert sorted(await watcher.told(2)) == sorted(newer)
    assert await watcher.told(1) == [slow]
    await watcher.close()


async def test_position_that_cannot_be_read_begins_anew(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    store = Store()
    make()
    await store.aset(POSITION_KEY, {"v": "of another release"})
    watcher = Watcher(store)
    await watcher.quiet(evolink)
    assert "cannot be read" in str(log_lines)
    task = make()
    assert await Watcher(store).told(1) == [task]


async def test_position_is_kept_once_airflows_database_is_back(
    make: Make, evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    class Busy(Store):
        failures = 0

        async def aset(self, key: str, value: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError("the database is busy")
            await super().aset(key, value)

    store = Busy()
    await Watcher(store).begin()
    watcher, task = Watcher(store), make()
    ids, position = await watcher.next()
    assert ids == [task]
    store.failures = 1
    await watcher.confirm(position)
    assert store.rows[POSITION_KEY] == position
    store.failures = 1000
    with pytest.raises(OSError, match="busy"):
        await watcher.confirm(position | {"running": []} | {"listed_from": 0.0})
    # A stored position is not written again.
    await watcher.confirm(position)
    await watcher.close()
