"""A batch process that wakes up after its successor, and errors of a later try, which say what was paid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.batch.ledger import BatchLedger
from airflow_provider_evoimage.evolink.protocol import Answer
from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    DestinationError,
    EvoImageError,
    SupersededTryError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.transport import Outgoing, Transport
from tests.integration.fake_time import FakeTime
from tests.integration.money.batches import check_whole, die_at, lines
from tests.integration.money.crashes import POST, paid
from tests.integration.money.test_money_batch_storage import read_only_storage
from tests.integration.task_driver import Killed, TaskRun, batch, first_leg

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

PROMPTS = [f"a poster {number}" for number in range(9)]
MANY = [f"a poster {number}" for number in range(30)]


def successor_of(make: Callable[[], Any], *, is_cleared: bool) -> TaskRun:
    successor = TaskRun(make, retries=0)
    successor.ti.try_number = 1
    successor.ti.max_tries = 2 if is_cleared else 0
    return successor


@pytest.mark.parametrize("mode", ["retry", "auto", "regenerate"])
def test_process_frozen_between_two_posts_submits_no_more(
    evolink: SimulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_time: FakeTime,
    mode: str,
) -> None:
    # One thread: no other one goes on while this one is frozen.
    on_clear = "regenerate" if mode == "regenerate" else "auto"
    frozen = TaskRun(batch(MANY, tmp_path, parallel=1, on_clear=on_clear), retries=0)
    successor = successor_of(batch(MANY, tmp_path, on_clear=on_clear), is_cleared=mode != "retry")
    request, posts, by_then = Transport.send, 0, (0, 0)

    def freeze(transport: Transport, outgoing: Outgoing) -> Answer:
        nonlocal posts, by_then
        answer = request(transport, outgoing)
        posts += outgoing.url.endswith(POST)
        if posts == 2:
            posts += 1000
            fake_time.advance(600)
            assert successor.run()["saved"] == len(MANY)
            by_then = posted(evolink)
        return answer

    monkeypatch.setattr(Transport, "send", freeze)
    with pytest.raises(SupersededTryError):
        frozen.start()
    assert posted(evolink) == by_then
    assert paid(evolink) == len(MANY) + (2 if mode == "regenerate" else 0)


@pytest.mark.parametrize("keys", ["trusted", "ignored"])
def test_process_frozen_between_ledger_and_post_submits_nothing(
    evolink: SimulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    airflow_connection: Any,
    fake_time: FakeTime,
    keys: str,
) -> None:
    if keys == "ignored":
        airflow_connection(idempotency="ignored")
        evolink.state.settings.ignore_keys = True
    make = batch(MANY, tmp_path, parallel=4)
    frozen, successor = TaskRun(make, retries=0), successor_of(make, is_cleared=False)
    write, by_then = BatchLedger.write, (0, 0)

    def freeze(ledger: BatchLedger, found: Any) -> None:
        nonlocal by_then
        write(ledger, found)
        monkeypatch.setattr(BatchLedger, "write", write)
        fake_time.advance(600)
        if keys == "ignored":
            # The items that the frozen process announced are in doubt.
            with pytest.raises(BatchFailedError, match="4 of 30"):
                successor.run()
        else:
            assert successor.run()["saved"] == len(MANY)
        by_then = posted(evolink)

    monkeypatch.setattr(BatchLedger, "write", freeze)
    with pytest.raises(SupersededTryError):
        frozen.start()
    assert posted(evolink) == by_then


def posted(evolink: SimulatorServer) -> tuple[int, int]:
    """Count the submissions, those under a known key too, and the accepted generations."""
    return evolink.state.counters.submissions, paid(evolink)


def test_process_frozen_before_it_saves_leaves_newer_images_alone(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = batch(PROMPTS, tmp_path, on_clear="regenerate")
    frozen, successor = TaskRun(make, retries=0), successor_of(make, is_cleared=True)
    deferred = first_leg(frozen)
    event = frozen.wait_in_triggerer(frozen.stored(deferred))
    read = BatchLedger.read

    def freeze(ledger: BatchLedger) -> Any:
        found = read(ledger)
        monkeypatch.setattr(BatchLedger, "read", read)
        assert successor.run()["saved"] == len(PROMPTS)
        return found

    monkeypatch.setattr(BatchLedger, "read", freeze)
    with pytest.raises(SupersededTryError):
        frozen.resume(deferred, event)
    check_sidecars(tmp_path)


def test_process_frozen_while_it_saves_leaves_newer_images_alone(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime
) -> None:
    make = batch(PROMPTS, tmp_path, on_clear="regenerate")
    frozen, successor = TaskRun(make, retries=0), successor_of(make, is_cleared=True)
    deferred = first_leg(frozen)
    event = frozen.wait_in_triggerer(frozen.stored(deferred))
    get = EvoImageHook.get_generations

    def freeze(hook: EvoImageHook, ids: Any) -> Any:
        found = get(hook, ids)
        monkeypatch.setattr(EvoImageHook, "get_generations", get)
        fake_time.advance(600)
        assert successor.run()["saved"] == len(PROMPTS)
        return found

    monkeypatch.setattr(EvoImageHook, "get_generations", freeze)
    with pytest.raises(SupersededTryError):
        frozen.resume(deferred, event)
    check_sidecars(tmp_path)


def check_sidecars(folder: Path) -> None:
    """Each sidecar is of the generation that the batch manifest names."""
    ids = {line["evolink_task_id"] for line in lines(folder)}
    sidecars = [json.loads(file.read_text()) for file in folder.rglob("*.json")]
    assert {sidecar["evolink_task_id"] for sidecar in sidecars} == ids
    assert len(ids) == len(PROMPTS)


def test_run_that_was_deleted_and_created_again_resumes_what_was_paid(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    evolink.state.faults.post("download", Fault("status", 503))
    with pytest.raises(BatchIncompleteError):
        TaskRun(batch(PROMPTS, tmp_path), retries=3).run_with_retries()
    evolink.state.faults.clear()
    # Its tries count from 1 again, and its id is later.
    again = TaskRun(batch(PROMPTS, tmp_path), retries=3, id="01890000-0001-7000-8000-000000000000")
    assert again.run()["saved"] == len(PROMPTS)
    check_whole(evolink, tmp_path, PROMPTS)


def test_ledger_that_a_later_try_cannot_write_leaves_open_what_was_billed(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, parallel=1), retries=3)
    with monkeypatch.context() as patch:
        die_at("after POST", 1, patch)
        with pytest.raises(Killed):
            task.start()
    with (
        read_only_storage(monkeypatch),
        pytest.raises(DestinationError, match="under the same key") as caught,
    ):
        task.start()
    assert caught.value.billed is None
    assert task.run()["saved"] == len(PROMPTS)
    assert paid(evolink) == len(PROMPTS)


def test_ledger_that_fails_after_the_wait_names_what_is_paid(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path), retries=3)
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    with read_only_storage(monkeypatch), pytest.raises(DestinationError, match="9 generations") as caught:
        task.resume(deferred, event)
    assert caught.value.retryable
    assert caught.value.billed is True
    assert all(each in str(caught.value) for each in evolink.state.generations)
    assert task.run()["saved"] == len(PROMPTS)
    check_whole(evolink, tmp_path, PROMPTS)


def test_ledger_that_cannot_be_read_says_billed_only_if_something_was(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise DestinationError("503 on GetObject")

    task = TaskRun(batch(PROMPTS, tmp_path), retries=3)
    with monkeypatch.context() as patch:
        patch.setattr(Destination, "read_text", refuse)
        with pytest.raises(DestinationError) as first:
            task.start()
    assert first.value.billed is False
    deferred = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferred))
    with monkeypatch.context() as patch:
        patch.setattr(Destination, "read_text", refuse)
        with pytest.raises(DestinationError, match="submitted before") as later:
            task.resume(deferred, event)
    assert later.value.billed is None
    assert task.run()["saved"] == len(PROMPTS)
    assert paid(evolink) == len(PROMPTS)


@pytest.mark.parametrize(
    "edited",
    [
        {"filename_template": "x.{ext}"},
        {"max_credits": "None"},
        {"max_credits": 1, "model": "not-published"},
        {"save_to": ""},
    ],
    ids=["names", "limit", "price", "folder"],
)
def test_refusal_of_a_later_try_does_not_say_that_nothing_was_billed(
    evolink: SimulatorServer, tmp_path: Path, edited: dict[str, Any]
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path), retries=3)
    first_leg(task)
    fields = {"save_to": tmp_path} | edited
    task.make = batch(PROMPTS, **fields)
    with pytest.raises(EvoImageError, match=r"[Ss]ubmitted before") as caught:
        task.start()
    assert caught.value.billed is None
    task.make = batch(PROMPTS, tmp_path)
    task.clear()
    assert task.run()["saved"] == len(PROMPTS)
    assert paid(evolink) == len(PROMPTS)


def test_refusal_of_the_first_try_says_that_nothing_was_billed(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    with pytest.raises(EvoImageError) as caught:
        TaskRun(batch(PROMPTS, tmp_path, filename_template="x.{ext}"), retries=3).start()
    assert caught.value.billed is False
    assert paid(evolink) == 0
