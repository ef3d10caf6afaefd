"""A batch whose storage takes nothing, and a batch whose frozen process wakes up after its successor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.batch.ledger import BatchLedger
from airflow_provider_evoimage.exceptions import (
    BatchIncompleteError,
    DestinationError,
    EvoImageError,
    SupersededTryError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.storage.destination import Destination
from tests.integration.fake_time import FakeTime
from tests.integration.money.batches import check_whole, die_at, lines
from tests.integration.money.crashes import paid
from tests.integration.task_driver import (
    Killed,
    ResultRefusedError,
    StateStore,
    TaskRun,
    batch,
)

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

PROMPTS = [f"a poster {number}" for number in range(9)]


@contextmanager
def read_only_storage(monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> Iterator[None]:
    """Let the storage refuse every file but the first ones."""
    publish, published = Destination.publish, 0

    def refuse(destination: Destination, *arguments: Any) -> str:
        nonlocal published
        published += 1
        if published > after:
            raise DestinationError("AccessDenied on PutObject")
        return publish(destination, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "publish", refuse)
        yield


@pytest.mark.parametrize("extra", [{}, {"idempotency": "ignored"}], ids=["trusted", "ignored"])
def test_storage_that_takes_no_file_is_found_out_before_anything_is_paid(
    evolink: SimulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    airflow_connection: Any,
    extra: dict[str, str],
) -> None:
    airflow_connection(**extra)
    task = TaskRun(batch(PROMPTS, tmp_path), retries=3)
    with (
        read_only_storage(monkeypatch),
        pytest.raises(
            DestinationError, match="Nothing was submitted, as the batch manifest comes first"
        ) as caught,
    ):
        task.start()
    assert caught.value.retryable
    assert caught.value.billed is False
    assert evolink.state.counters.submissions == 0
    assert task.run()["saved"] == len(PROMPTS)
    assert paid(evolink) == len(PROMPTS)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_storage_that_fails_later_ends_the_try_and_asks_evolink_for_nothing_again(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime, after: int
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, timeout=6 * 3600, save_every=2), retries=0)
    begun = fake_time.passed
    with read_only_storage(monkeypatch, after=after), pytest.raises(DestinationError) as caught:
        task.run()
    assert caught.value.retryable
    assert evolink.state.counters.submissions == len(PROMPTS)
    assert len(task.deferrals) <= 1
    # Hours before the wait would have ended.
    # On a busy machine the clock of these tests runs ahead of a slow answer.
    assert fake_time.passed - begun < 3 * 3600
    task.clear()
    assert task.run()["saved"] == len(PROMPTS)
    check_whole(evolink, tmp_path, PROMPTS)


def test_ledger_that_fails_after_the_submission_names_what_it_lacks(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path), retries=0)
    with read_only_storage(monkeypatch, after=1), pytest.raises(DestinationError) as caught:
        task.start()
    assert "under the same keys, which costs nothing" in str(caught.value)
    for evolink_task_id in evolink.state.generations:
        assert evolink_task_id in str(caught.value)
    assert "Billed: unknown" in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("mode", ["auto", "reuse"])
def test_frozen_process_writes_nothing_over_its_successor(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, mode: str
) -> None:
    prompts = [f"a poster {number}" for number in range(24)]
    frozen = TaskRun(batch(prompts, tmp_path, on_clear=mode, deferrable=False), retries=3)
    successor = TaskRun(batch(prompts, tmp_path, on_clear=mode), retries=3)
    successor.ti.try_number = 1
    write, writes = BatchLedger.write, 0

    def freeze(ledger: BatchLedger, found: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == at:
            kept = list(found)
            writes += 1000
            successor.run()
            write(ledger, kept)
        else:
            write(ledger, found)

    monkeypatch.setattr(BatchLedger, "write", freeze)
    with pytest.raises(SupersededTryError, match="and it stops") as caught:
        frozen.start()
    assert not caught.value.retryable
    monkeypatch.undo()
    assert Counter(line["state"] for line in lines(tmp_path)) == {"saved": len(prompts)}
    check_whole(evolink, tmp_path, prompts)


@pytest.mark.parametrize("moment", ["before ledger", "after ledger"])
def test_frozen_process_pays_nothing_twice_where_keys_are_ignored(
    evolink: SimulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    airflow_connection: Any,
    moment: str,
) -> None:
    airflow_connection(idempotency="ignored")
    evolink.state.settings.ignore_keys = True
    prompts = [f"a poster {number}" for number in range(16)]
    frozen = TaskRun(batch(prompts, tmp_path, parallel=4), retries=3)
    successor = TaskRun(batch(prompts, tmp_path, parallel=4), retries=3)
    successor.ti.try_number = 1
    write, writes = BatchLedger.write, 0

    def freeze(ledger: BatchLedger, found: Any) -> None:
        nonlocal writes
        writes += 1
        if writes != 2:
            write(ledger, found)
            return
        if moment == "after ledger":
            write(ledger, found)
        writes += 1000
        with pytest.raises((BatchIncompleteError, EvoImageError, TaskDeferred)):
            successor.start()
        if moment == "before ledger":
            write(ledger, found)

    monkeypatch.setattr(BatchLedger, "write", freeze)
    with pytest.raises(SupersededTryError):
        frozen.start()
    assert paid(evolink) <= len(prompts)


def test_batch_whose_result_airflow_refused_is_cleared_for_free(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path), retries=1, store=StateStore())
    task.result_is_refused = True
    with pytest.raises(ResultRefusedError):
        task.run_with_retries()
    task.result_is_refused = False
    task.clear()
    assert task.run()["saved"] == len(PROMPTS)
    check_whole(evolink, tmp_path, PROMPTS)
    task.clear()
    task.run()
    assert paid(evolink) == 2 * len(PROMPTS)


def test_charge_of_items_that_could_not_be_saved_is_in_the_manifest(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    evolink.state.faults.post("download", Fault("status", 503))
    task = TaskRun(batch(PROMPTS, tmp_path), retries=0)
    with pytest.raises(BatchIncompleteError):
        task.run()
    charged = [line["usage"]["charged"] for line in lines(tmp_path)]
    assert all(charge is not None and charge > 0 for charge in charged)
    assert sum(charged) == pytest.approx(float(evolink.state.counters.credits_charged))
    evolink.state.faults.clear()
    task.clear()
    task.run()
    assert [line["usage"]["charged"] for line in lines(tmp_path)] == charged


def test_rows_that_are_gone_while_their_answer_is_unknown_are_named(
    evolink: SimulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[dict[str, Any]],
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, parallel=1), retries=3)
    with monkeypatch.context() as patch:
        die_at("after POST", 6, patch)
        with pytest.raises(Killed):
            task.start()
    task.make = batch(PROMPTS[:3], tmp_path, parallel=1)
    assert task.run()["saved"] == 3
    assert any("They may be paid for" in str(line["event"]) for line in log_lines)


@pytest.mark.parametrize("status", [400, 401, 402, 403])
def test_refusal_of_a_repeat_does_not_say_that_nothing_was_billed(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    task = TaskRun(batch(PROMPTS[:2], tmp_path, parallel=1), retries=3)
    with monkeypatch.context() as patch:
        die_at("after POST", 1, patch)
        with pytest.raises(Killed):
            task.start()
    evolink.state.faults.post("submit", Fault("status", status))
    with pytest.raises(EvoImageError):
        task.run()
    assert all(line["submission"].get("phase") == "submitting" for line in lines(tmp_path)[:1])
    evolink.state.faults.clear()
    task.clear()
    assert task.run()["saved"] == 2
    assert paid(evolink) == 2
