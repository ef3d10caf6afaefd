"""The watcher's trigger refuses what cannot work, and keeps its position behind what Airflow has stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.triggers import finished
from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED, EvoImageFinishedTrigger
from airflow_provider_evoimage.triggers.finished_stream import POSITION_KEY, FinishedStream

needs_airflow_3_3 = pytest.mark.skipif(
    not IS_SUPPORTED, reason="Airflow < 3.3 does not say when it has stored an event"
)


def test_older_airflow_is_refused_when_the_dag_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "IS_SUPPORTED", False)
    with pytest.raises(InvalidRequestError, match=r"needs Airflow 3\.3"):
        EvoImageFinishedTrigger(asset="account")


@needs_airflow_3_3
@pytest.mark.parametrize(
    "arguments",
    [
        {"asset": " "},
        {"asset": Asset("account")},
        {"statuses": ["done"]},
        {"poll_interval": 0.5},
        {"model": 3},
    ],
)
def test_argument_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequestError, TypeError)):
        EvoImageFinishedTrigger(**{"asset": "account"} | arguments)


@needs_airflow_3_3
def test_two_assets_never_share_a_trigger_or_a_stream() -> None:
    one, two = EvoImageFinishedTrigger(asset="one"), EvoImageFinishedTrigger(asset="two")
    assert one.serialize() != two.serialize()
    assert one.shared_stream_key() != two.shared_stream_key()
    assert one.shared_stream_key() == EvoImageFinishedTrigger(asset="one").shared_stream_key()


@needs_airflow_3_3
@pytest.mark.parametrize("watched", [None, {"other": object()}])
async def test_asset_of_another_name_is_refused(watched: dict[str, object] | None) -> None:
    class Watched:
        def __getitem__(self, asset: Asset) -> object:
            return (watched or {})[asset.name]

    trigger = EvoImageFinishedTrigger(asset="account")
    trigger.asset_state_store = None if watched is None else Watched()  # type: ignore[assignment]

    async def nothing() -> Any:
        return
        yield

    with pytest.raises(InvalidRequestError, match="asset of another name"):
        await anext(trigger.filter_shared_stream(nothing()))


@needs_airflow_3_3
async def test_watched_asset_gets_an_event_for_each_part_of_the_stream() -> None:
    class Watched:
        def __getitem__(self, asset: Any) -> object:
            return {"account": object()}[asset.name]

    trigger = EvoImageFinishedTrigger(asset="account")
    trigger.asset_state_store = Watched()  # type: ignore[assignment]

    async def finished() -> Any:
        yield [{"evolink_task_id": "a"}]
        yield [{"evolink_task_id": "b"}]

    events = [event.payload async for event in trigger.filter_shared_stream(finished())]
    assert events == [
        {"v": 1, "generations": [{"evolink_task_id": "a"}]},
        {"v": 1, "generations": [{"evolink_task_id": "b"}]},
    ]


@needs_airflow_3_3
def test_task_cannot_wait_with_it() -> None:
    with pytest.raises(InvalidRequestError, match="is for AssetWatcher"):
        EvoImageFinishedTrigger(asset="account").run()


class Store:
    """The state of an asset."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.rows: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.rows.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("database is locked")
        self.rows[key] = value


def stream(store: Store) -> FinishedStream:
    found = FinishedStream(
        asset="account",
        statuses=["completed"],
        model=[],
        poll_interval=1.0,
        evoimage_conn_id="evoimage_default",
    )
    found._store = store  # type: ignore[assignment]
    return found


def stored_event(position: dict[str, Any], *, is_clean: bool = True) -> Any:
    return SimpleNamespace(broker_payload=position, outcome=SimpleNamespace(is_clean=is_clean))


@needs_airflow_3_3
async def test_position_is_kept_once_airflow_has_stored_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(failures=2)
    monkeypatch.setattr("asyncio.sleep", _no_sleep)
    found = stream(store)
    found._unconfirmed = 3
    await found.advance([stored_event({"seen_until": 1}), stored_event({"seen_until": 2})])
    assert store.rows == {POSITION_KEY: {"seen_until": 2}}
    assert found._unconfirmed == 1


@needs_airflow_3_3
async def test_position_is_not_kept_where_an_event_was_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    with pytest.raises(RuntimeError, match="did not store an event"):
        await stream(store).advance([stored_event({"seen_until": 1}), stored_event({}, is_clean=False)])
    monkeypatch.setattr("asyncio.sleep", _no_sleep)
    broken = Store(failures=99)
    with pytest.raises(RuntimeError, match="locked"):
        await stream(broken).advance([stored_event({"seen_until": 1})])
    assert (store.rows, broken.rows) == ({}, {})


async def _no_sleep(seconds: float) -> None:
    del seconds


@needs_airflow_3_3
async def test_each_find_of_the_shared_stream_is_an_event() -> None:
    class Watched:
        def __getitem__(self, asset: Asset) -> object:
            return {"account": object()}[asset.name]

    async def found() -> AsyncIterator[Any]:
        yield [{"evolink_task_id": "task-1"}]
        yield [{"evolink_task_id": "task-2"}, {"evolink_task_id": "task-3"}]

    trigger = EvoImageFinishedTrigger(asset="account", model="gpt-image-2")
    trigger.asset_state_store = Watched()  # type: ignore[assignment]
    events = [event.payload async for event in trigger.filter_shared_stream(found())]
    assert [[each["evolink_task_id"] for each in event["generations"]] for event in events] == [
        ["task-1"],
        ["task-2", "task-3"],
    ]
    assert {event["v"] for event in events} == {finished.EVENT_VERSION}
    producer = EvoImageFinishedTrigger.create_shared_stream_producer(trigger.serialize()[1])
    assert isinstance(producer, FinishedStream)
    assert (producer._asset, producer._models) == ("account", ("gpt-image-2",))
