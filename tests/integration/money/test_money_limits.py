"""Limits hold at accounts with other rates, over all tries, and when a template gives nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    BudgetExceededError,
    InvalidRequestError,
)
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.money.batches import die_at, lines
from tests.integration.money.crashes import crash, only_id, paid
from tests.integration.task_driver import Killed, StateStore, TaskRun, batch, generate, sense

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

PROMPTS = [f"a poster {number}" for number in range(20)]


def warnings(log_lines: list[dict[str, Any]]) -> str:
    return " ".join(str(line) for line in log_lines if line["log_level"] == "warning")


@pytest.mark.parametrize("parallel", [1, 8])
def test_batch_at_an_account_with_other_rates_stays_within_its_limit(
    evolink: SimulatorServer, tmp_path: Path, parallel: int
) -> None:
    evolink.state.configure({"reserve_factor": 20, "charge_factor": 9})
    task = TaskRun(batch(PROMPTS, tmp_path, max_credits=20, parallel=parallel), retries=0)
    summary = task.run()
    assert 1 <= paid(evolink) < len(PROMPTS)
    assert summary["left_out"] == len(PROMPTS) - paid(evolink)
    assert float(evolink.state.counters.credits_charged) <= 20


def test_batch_within_its_limit_says_nothing_and_is_whole(
    evolink: SimulatorServer, tmp_path: Path, log_lines: list[dict[str, Any]]
) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, max_credits=20), retries=0)
    assert task.run()["saved"] == len(PROMPTS)
    assert "EvoLink charged" not in warnings(log_lines)
    assert paid(evolink) == len(PROMPTS)


@pytest.mark.parametrize("kind", ["generate", "batch"])
@pytest.mark.parametrize("limit", [5, None])
def test_charge_above_limit_or_estimate_is_a_warning_with_both_numbers(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    kind: str,
    limit: int | None,
    log_lines: list[dict[str, Any]],
) -> None:
    evolink.state.configure({"charge_factor": 50})
    make = (
        generate(max_credits=limit)
        if kind == "generate"
        else batch(["a poster"], tmp_path, max_credits=limit)
    )
    TaskRun(make, retries=0, store=store).run()
    charged = f"{float(evolink.state.counters.credits_charged):,.4f}"
    assert f"EvoLink charged {charged} credits, more than" in warnings(log_lines)
    assert ("max_credits=5" if limit else "the estimate of") in warnings(log_lines)


@pytest.mark.parametrize("value", ["None", "", "null"])
@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_limit_that_renders_to_nothing_stops_the_task_unpaid(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, kind: str, value: str
) -> None:
    make = (
        generate(max_credits=value)
        if kind == "generate"
        else batch(["a poster"], tmp_path, max_credits=value)
    )
    with pytest.raises(InvalidRequestError, match="max_credits was given and renders to"):
        TaskRun(make, retries=0, store=store).run()
    assert evolink.state.counters.submissions == 0


def test_items_that_a_lowered_limit_leaves_out_may_be_paid_and_say_so(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(
        batch(PROMPTS[:8], tmp_path, parallel=1, max_credits="100"),
        retries=3,
        store=StateStore(),
    )
    with monkeypatch.context() as patch:
        die_at("after POST", 6, patch)
        with pytest.raises(Killed):
            task.start()
    task.make = batch(PROMPTS[:8], tmp_path, parallel=1, max_credits="1.0")
    with pytest.raises((BatchFailedError, BatchIncompleteError)):
        task.run()
    left_out = [line for line in lines(tmp_path) if line["state"] == "left out"]
    in_doubt = [line for line in left_out if line["submission"].get("phase") == "submitting"]
    assert in_doubt
    assert all("may be paid for" in line["error"]["message"] for line in in_doubt)
    task.make = batch(PROMPTS[:8], tmp_path, parallel=1, max_credits="100")
    assert task.run()["saved"] == 8
    assert paid(evolink) == 8


def test_refused_repeat_keeps_its_hold(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = batch(PROMPTS[:4], tmp_path, max_credits="1.4", parallel=1)
    task = TaskRun(make, retries=3, store=StateStore())
    with monkeypatch.context() as patch:
        die_at("after POST", 2, patch)
        with pytest.raises(Killed):
            task.start()
    evolink.state.faults.post("submit", Fault("status", 400, times=2))
    with pytest.raises((BatchFailedError, BatchIncompleteError)):
        task.run()
    assert float(evolink.state.counters.credits_charged) <= 1.4
    assert paid(evolink) <= 2


# Over all tries of a run


def charged(evolink: SimulatorServer) -> float:
    return float(evolink.state.counters.credits_charged)


FAILS = "a poster that fails [[fail:service_error]]"
LOW = 0.7  # A poster costs a little less.


def run_to_the_end(task: TaskRun) -> Any:
    """Run all tries; return the summary, or None where the batch fails."""
    try:
        return task.run_with_retries()
    except (BatchFailedError, BatchIncompleteError):
        return None


def test_limit_counts_rows_that_are_no_longer_in_the_list(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch([*PROMPTS[:3], FAILS], tmp_path, max_credits=5 * LOW), retries=3)
    with pytest.raises(BatchIncompleteError):
        task.run()
    for first in (4, 8, 12):
        task.make = batch([*PROMPTS[first : first + 4], FAILS], tmp_path, max_credits=5 * LOW)
        run_to_the_end(task)
        assert charged(evolink) <= 5 * LOW
    assert charged(evolink) > 4 * LOW - 0.5


def test_limit_counts_rows_that_left_the_list_while_under_way(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(batch(PROMPTS[:4], tmp_path, max_credits=5 * LOW, parallel=1), retries=3)
    with monkeypatch.context() as patch:
        die_at("after POST", 3, patch)
        with pytest.raises(Killed):
            task.start()
    before = paid(evolink)
    task.make = batch(PROMPTS[10:18], tmp_path, max_credits=5 * LOW)
    run_to_the_end(task)
    evolink.state.configure({"advance": 3600})
    assert before > 0
    assert charged(evolink) <= 5 * LOW


@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_limit_counts_generations_that_were_charged_and_brought_nothing(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, kind: str
) -> None:
    evolink.state.configure({"charge_failed": True})
    make = (
        generate(prompt=FAILS, max_credits=3 * LOW)
        if kind == "generate"
        else batch([FAILS], tmp_path, max_credits=3 * LOW)
    )
    task = TaskRun(make, retries=8, store=store)
    with pytest.raises((BatchFailedError, BatchIncompleteError, BudgetExceededError)):
        task.run_with_retries()
    assert paid(evolink) > 1
    assert charged(evolink) <= 3 * LOW


def test_limit_counts_a_charged_failure_that_an_earlier_try_did_not_live_to_see(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    evolink.state.configure({"charge_failed": True})
    task = TaskRun(generate(prompt=FAILS, max_credits=LOW), retries=8, store=store)
    crash(task, "after POST", monkeypatch)
    evolink.state.end(only_id(evolink), "failed", "service_error")
    with pytest.raises(BudgetExceededError, match="earlier generations"):
        task.run_with_retries()
    assert paid(evolink) == 1


@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_clear_after_delivery_starts_with_the_whole_limit(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, kind: str
) -> None:
    make = (
        generate(max_credits=LOW) if kind == "generate" else batch(PROMPTS[:3], tmp_path, max_credits=3 * LOW)
    )
    task = TaskRun(make, store=store)
    task.run()
    first = paid(evolink)
    task.clear()
    task.run()
    assert paid(evolink) == 2 * first


def test_first_item_of_each_model_goes_alone(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = [{"prompt": prompt, "model": "gpt-image-1.5-beta"} for prompt in PROMPTS[:2]]
    requests += [{"prompt": prompt, "model": "gpt-image-1"} for prompt in PROMPTS[2:]]
    task = TaskRun(batch(requests, tmp_path, max_credits=50, parallel=1), retries=1)
    with monkeypatch.context() as patch:
        die_at("after POST", 3, patch)
        with pytest.raises(Killed):
            task.start()
    assert sum("key" in line["submission"] for line in lines(tmp_path)) == 3
    assert task.run()["saved"] == paid(evolink) == len(requests)


def test_summary_names_charge_and_limit_where_the_limit_was_passed(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    evolink.state.configure({"charge_factor": 50})
    summary = TaskRun(batch(["a poster"], tmp_path, max_credits=5), retries=0).run()
    assert f"{charged(evolink):,.4f}" in summary["warning"]
    assert "max_credits=5" in summary["warning"]


def test_sensor_warns_of_a_charge_above_the_estimate(
    evolink: SimulatorServer, store: StateStore, log_lines: list[dict[str, Any]]
) -> None:
    evolink.state.configure({"charge_factor": 50})
    started = TaskRun(generate(wait_for_completion=False), retries=0, store=store).run()
    TaskRun(sense(started), retries=0).run()
    assert f"EvoLink charged {charged(evolink):,.4f} credits, more than the estimate of" in warnings(
        log_lines
    )


@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_mapped_limit_that_an_upstream_task_left_empty_stops_the_task_unpaid(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, kind: str
) -> None:
    with DAG("campaign"):
        limits = BaseOperator(task_id="limits").output
        definition: Any = (
            EvoImageGenerateOperator.partial(task_id="draw", prompt="a mug")
            if kind == "generate"
            else EvoImageBatchOperator.partial(task_id="draw", requests=["a mug"], save_to=str(tmp_path))
        ).expand(max_credits=limits)
    task = TaskRun(lambda: definition.unmap({"max_credits": None}), retries=0, store=store, map_index=0)
    with pytest.raises(InvalidRequestError, match="max_credits was given and renders to None"):
        task.run()
    assert evolink.state.counters.submissions == 0
