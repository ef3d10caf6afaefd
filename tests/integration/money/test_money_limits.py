"""Limits hold at accounts with other rates, over all tries, and when a template gives nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    InvalidRequestError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.money.batches import die_at, lines
from tests.integration.money.crashes import paid
from tests.integration.task_driver import Killed, StateStore, TaskRun, batch, generate

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
