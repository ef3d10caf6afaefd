"""What a task says, allows and records about its cost, over real HTTP with the simulated EvoLink."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.decorators.evoimage import EvoImageDecoratedOperator
from airflow_provider_evoimage.exceptions import (
    BudgetExceededError,
    DestinationError,
    InvalidRequestError,
    PriceUnknownError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import StateStore, TaskRun, generate

pytestmark = pytest.mark.usefixtures("airflow_connection", "fake_time")


def paid(evolink: SimulatorServer) -> int:
    return evolink.state.counters.paid


def log_of(lines: list[Any]) -> str:
    return "\n".join(
        str(line["event"]) % line["positional_args"] if line.get("positional_args") else str(line["event"])
        for line in lines
    )


@pytest.mark.parametrize("limit", [8, "8", "8.0"])
def test_above_the_limit_nothing_is_sent(evolink: SimulatorServer, limit: object):
    with pytest.raises(BudgetExceededError, match="quality='medium' \\(at most 2") as raised:
        TaskRun(generate(quality="high", max_credits=limit)).run_with_retries()

    assert raised.value.billed is False
    assert evolink.state.counters.submissions == 0


def test_within_the_limit_it_is_sent_and_charged_no_more(evolink: SimulatorServer):
    manifest = TaskRun(generate(quality="high", max_credits=9)).run()

    assert paid(evolink) == 1
    assert manifest["usage"]["charged"] <= 9


def test_unknown_price_with_a_limit_is_not_sent(evolink: SimulatorServer):
    with pytest.raises(PriceUnknownError, match="leave max_credits out"):
        TaskRun(generate(model="gpt-image-9", quality=None, max_credits=9)).run()

    assert paid(evolink) == 0


def test_unknown_price_without_a_limit_is_sent_and_the_estimate_is_missing(
    log_lines: list[Any],
):
    manifest = TaskRun(generate(model="gpt-image-9", quality=None)).run()

    assert manifest["usage"]["estimate"] is None
    assert "Estimated cost: no price is known for this model." in log_of(log_lines)


@pytest.mark.parametrize("limit", ["{{ x }}", -1, True])
def test_a_limit_that_is_none_is_refused_before_anything_is_sent(evolink: SimulatorServer, limit: object):
    with pytest.raises(InvalidRequestError, match="max_credits must be"):
        TaskRun(generate(max_credits=limit)).run()

    assert paid(evolink) == 0


def test_limit_is_templated():
    assert "max_credits" in generate()().template_fields


def test_decorated_task_has_the_limit_too(evolink: SimulatorServer):
    def make() -> EvoImageDecoratedOperator:
        return EvoImageDecoratedOperator(
            task_id="draw", python_callable=lambda: {"prompt": "a red fox", "n": 10}, max_credits=1
        )

    with pytest.raises(BudgetExceededError):
        TaskRun(make).run()
    assert paid(evolink) == 0


def test_a_limit_lowered_between_tries_keeps_what_is_paid(evolink: SimulatorServer, store: StateStore):
    """The retry resumes the generation of the first try, which costs nothing more."""
    run = TaskRun(generate(quality="high"), store=store)
    with pytest.raises(TaskDeferred):
        run.start()
    run.make = generate(quality="high", max_credits=1)
    manifest = run.run()

    assert paid(evolink) == 1
    assert manifest["made"] == 1


def test_a_limit_lowered_after_an_unknown_outcome_does_not_claim_that_nothing_is_billed(store: StateStore):
    run = TaskRun(generate(quality="high"), store=store)
    with pytest.raises(TaskDeferred):
        run.start()
    record = {**store.record, "phase": "submitting", "evolink_task_id": None}
    store.rows["evoimage"] = json.dumps(record)
    run.make = generate(quality="high", max_credits=1)

    with pytest.raises(BudgetExceededError, match="an earlier try may have submitted") as raised:
        run.start()
    assert raised.value.billed is None


def test_a_limit_lowered_where_no_record_is_kept_does_not_claim_it_either():
    run = TaskRun(generate(quality="high"))
    with pytest.raises(TaskDeferred):
        run.start()
    run.make = generate(quality="high", max_credits=1)

    with pytest.raises(BudgetExceededError) as raised:
        run.start()
    assert raised.value.billed is None


@pytest.mark.parametrize("has_store", [True, False])
@pytest.mark.parametrize("deferrable", [True, False])
def test_usage_holds_estimate_reservation_charge_and_tokens(
    store: StateStore, has_store: bool, deferrable: bool, log_lines: list[Any]
):
    make = generate(n=2, size="2:3", deferrable=deferrable)
    manifest = TaskRun(make, store=store if has_store else None).run()

    usage = manifest["usage"]
    assert usage["estimate"]["credits_low"] == 1.5981
    assert usage["estimate"]["rule"] == "tokens"
    assert usage["estimate"]["credits_low"] <= usage["charged"] <= usage["estimate"]["credits_high"]
    assert usage["charged"] <= usage["reserved"]
    assert usage["tokens"]["image_output_tokens"] == 816
    log = log_of(log_lines)
    assert "Estimated cost: 1.5981 to 1.60" in log
    assert log.count(f"cost {usage['charged']:,.4f} credits (") == 1
    assert log.count("; estimated 1.5981 to ") == 1


def test_reservation_is_known_to_a_later_try(store: StateStore, tmp_path: Path):
    """The answer to the POST was another process's; the record kept it."""
    run = TaskRun(generate(save_to=str(tmp_path / "images")), store=store)
    (tmp_path / "images").write_text("a file where the folder should be")
    with pytest.raises((DestinationError, InvalidRequestError, OSError)):
        run.run()
    (tmp_path / "images").unlink()
    manifest = run.run()

    assert manifest["usage"]["reserved"] == store.record["credits_reserved"] is not None


def test_sidecar_holds_the_cost(tmp_path: Path):
    TaskRun(generate(save_to=str(tmp_path))).run()

    (sidecar,) = tmp_path.rglob("*.json")
    usage = json.loads(sidecar.read_text())["usage"]
    assert set(usage) == {"estimate", "reserved", "charged", "tokens"}
    assert usage["charged"] > 0
    assert usage["reserved"] > 0


def test_without_waiting_the_reservation_is_in_the_manifest(submitted: Callable[..., str]):
    del submitted
    manifest = TaskRun(generate(wait_for_completion=False)).run()

    assert manifest["usage"]["reserved"] > 0
    assert manifest["usage"]["charged"] is None
