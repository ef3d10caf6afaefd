"""A batch that asks for a few items at a time pays for each once, and waits for its turn without a worker."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.batch import collection, submission
from airflow_provider_evoimage.exceptions import BatchIncompleteError
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.money.batches import PROMPTS, check_whole, die_at, lines, run_until_it_lives
from tests.integration.money.crashes import paid
from tests.integration.task_driver import TaskRun, batch, first_leg

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

MOST = 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is asked for at a time has several."""
    monkeypatch.setattr(submission, "CHUNK", 3)
    monkeypatch.setattr(collection, "CHUNK", 3)


@pytest.fixture
def bounded(evolink: SimulatorServer) -> SimulatorServer:
    """An EvoLink that refuses whoever has more under way."""
    evolink.state.configure({"concurrency": MOST})
    return evolink


def after(task: TaskRun, deferred: TaskDeferred) -> dict[str, Any]:
    """Go on after a first leg, to the end of the try."""
    while True:
        try:
            return dict(task.resume(deferred, task.wait_in_triggerer(task.stored(deferred))))
        except TaskDeferred as again:
            deferred = again


@pytest.mark.parametrize("arguments", [{}, {"deferrable": False}, {"save_every": 1}, {"parallel": 1}])
def test_no_more_are_under_way_than_allowed(
    bounded: SimulatorServer, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, max_active_generations=MOST, **arguments), retries=0)
    assert task.run()["saved"] == len(PROMPTS)
    check_whole(bounded, tmp_path, PROMPTS)
    # Not one was refused for its number.
    assert bounded.state.counters.rate_limited == 0


def test_account_that_takes_no_more_is_waited_for_without_a_worker(
    bounded: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, submit_timeout=2, parallel=2), retries=0)
    deferred = first_leg(task)
    assert Counter(line["state"] for line in lines(tmp_path)) == {"waiting": MOST, "queued": 20 - MOST}
    assert [line["error"] for line in lines(tmp_path)] == [None] * 20
    assert after(task, deferred)["saved"] == len(PROMPTS)
    check_whole(bounded, tmp_path, PROMPTS)


@pytest.mark.long
@pytest.mark.parametrize("nth", [1, 3, 6])
@pytest.mark.parametrize(
    "moment", ["before POST", "after POST", "before ledger", "after ledger", "before save", "after save"]
)
def test_worker_that_dies_at_any_moment_pays_once_and_saves_all(
    bounded: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, nth: int
) -> None:
    death = die_at(moment, nth, monkeypatch)
    task = TaskRun(batch(PROMPTS, tmp_path, max_active_generations=MOST, parallel=2), retries=9)
    summary = run_until_it_lives(task)
    assert death.left <= 0
    assert summary["saved"] == len(PROMPTS)
    check_whole(bounded, tmp_path, PROMPTS)


def test_worker_that_dies_between_two_turns_pays_once(
    bounded: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, max_active_generations=MOST), retries=9)
    deferred = first_leg(task)
    task.wait_in_triggerer(task.stored(deferred))
    death = die_at("after POST", 2, monkeypatch)
    run_until_it_lives(task)
    assert death.left <= 0
    check_whole(bounded, tmp_path, PROMPTS)


def test_failed_item_is_asked_again_by_a_retry_only(evolink: SimulatorServer, tmp_path: Path) -> None:
    passing = "a mug [[fail:service_error]]"
    task = TaskRun(batch([passing, *PROMPTS], tmp_path, max_active_generations=MOST), retries=1)
    with pytest.raises(BatchIncompleteError):
        task.run()
    requested = Counter(each.order.prompt for each in evolink.state.generations.values())
    assert requested == Counter([passing, *PROMPTS])
    assert task.run()["failed"] == 1
    requested = Counter(each.order.prompt for each in evolink.state.generations.values())
    assert requested == Counter([passing, passing, *PROMPTS])


def test_items_refused_at_once_do_not_hold_up_the_others(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.faults.post("submit", Fault("status", 400, times=6))
    task = TaskRun(batch(PROMPTS, tmp_path, max_active_generations=2), retries=0)
    summary = task.run()
    assert (summary["failed"], summary["saved"]) == (6, len(PROMPTS) - 6)
    assert paid(evolink) == summary["saved"]


def test_cleared_batch_asks_for_new_images_in_turns(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, max_active_generations=MOST, on_clear="regenerate"))
    task.run()
    before = {line["evolink_task_id"] for line in lines(tmp_path)}
    task.clear()
    assert task.run()["saved"] == len(PROMPTS)
    after = {line["evolink_task_id"] for line in lines(tmp_path)}
    # What is queued has a generation of before the clear, which nobody waits for.
    assert not before & after
    assert paid(evolink) == len(before | after) == 2 * len(PROMPTS)


def test_batch_that_runs_out_of_time_goes_on_in_the_retry(evolink: SimulatorServer, tmp_path: Path) -> None:
    prompts = [f"{each} {number} [[duration:100]]" for number, each in enumerate(PROMPTS[:6])]
    arguments: dict[str, Any] = {"max_active_generations": 2, "timeout": 150, "on_item_failure": "continue"}
    task = TaskRun(batch(prompts, tmp_path, **arguments), retries=4)
    with pytest.raises(BatchIncompleteError):
        task.run()
    states = Counter(line["state"] for line in lines(tmp_path))
    assert states["left out"] > 0
    assert all(line["error"]["retryable"] for line in lines(tmp_path) if line["state"] == "left out")
    assert task.run_with_retries()["saved"] == len(prompts)
    check_whole(evolink, tmp_path, prompts)


def test_limit_holds_over_all_turns(evolink: SimulatorServer, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"max_active_generations": 3, "max_credits": 5}
    summary = TaskRun(batch(PROMPTS, tmp_path, **arguments), retries=0).run()
    assert summary["left_out"] > 0
    assert summary["saved"] > 3
    assert float(evolink.state.counters.credits_charged) <= 5


def test_rows_that_move_while_others_wait_for_their_turn(evolink: SimulatorServer, tmp_path: Path) -> None:
    listed = [{"prompt": f"a vase {number}", "name": f"vase-{number}"} for number in range(10)]
    task = TaskRun(batch(listed, tmp_path, max_active_generations=2), retries=0)
    deferred = first_leg(task)
    removed = listed.pop()
    listed.reverse()
    summary = after(task, deferred)
    assert summary["saved"] == summary["items"] == len(listed) == paid(evolink)
    requested = {each.order.prompt for each in evolink.state.generations.values()}
    assert removed["prompt"] not in requested


def test_rows_that_take_the_name_of_others_meanwhile_overwrite_nothing(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    listed = [{"prompt": f"a vase {number}", "name": f"vase-{number}"} for number in range(6)]
    arguments: dict[str, Any] = {"max_active_generations": 2, "filename_template": "{name}-{index}.{ext}"}
    task = TaskRun(batch(listed, tmp_path, **arguments), retries=0)
    deferred = first_leg(task)
    listed[:] = [each | {"name": "vase-0"} for each in listed]
    assert after(task, deferred)["saved"] == len(listed) == paid(evolink)
    assert len(list(tmp_path.rglob("*.png"))) == len(listed)


def test_list_that_is_gone_before_all_are_asked_for_loses_nothing(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    source = tmp_path / "requests.json"
    source.write_text(json.dumps(PROMPTS))
    images = tmp_path / "images"
    task = TaskRun(batch(str(source), images, max_active_generations=MOST), retries=3)
    deferred = first_leg(task)
    source.unlink()
    with pytest.raises(BatchIncompleteError, match="there is no such file"):
        after(task, deferred)
    # What was asked for is there.
    assert len(list(images.rglob("*.png"))) == MOST == paid(evolink)
    source.write_text(json.dumps(PROMPTS))
    task.clear()
    task.run()
    check_whole(evolink, images, PROMPTS)
