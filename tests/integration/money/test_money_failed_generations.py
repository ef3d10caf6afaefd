"""Generations that end badly: asked for again only where that may help, each time under its own key."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import (
    ContentPolicyError,
    EvoImageError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationRefusedError,
    NoImagesError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.errors import FAILURES
from tests.integration.money.crashes import STEPS_WITHOUT_STORE, crash, only_id, paid
from tests.integration.task_driver import StateStore, TaskRun, first_leg, generate, kept_keys

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


# Generations that end badly

RETRYABLE = [
    "service_error",
    "generation_timeout",
    "resource_exhausted",
    "quota_exceeded",
    "service_unavailable",
]
CANCELLED = ["request_cancelled"]
FINAL = [code for code in FAILURES if code not in {*RETRYABLE, *CANCELLED}]


def test_tests_cover_the_thirteen_documented_codes() -> None:
    assert len({*RETRYABLE, *CANCELLED, *FINAL}) == 13


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("code", RETRYABLE)
def test_retry_after_a_passing_failure_asks_for_a_new_generation_under_a_new_key(
    evolink: SimulatorServer, maybe_store: StateStore | None, code: str, deferrable: bool
) -> None:
    task = TaskRun(generate(prompt=f"a red fox [[fail:{code}]]", deferrable=deferrable), store=maybe_store)
    with kept_keys(evolink) as keys, pytest.raises(GenerationFailedError, match=code) as failed:
        task.run_with_retries()
    assert failed.value.retryable
    assert failed.value.billed is False
    assert failed.value.retry_after
    # One generation for each of the three tries, none of them charged.
    assert paid(evolink) == len(keys) == 3
    assert float(evolink.state.counters.credits_charged) == 0


@pytest.mark.parametrize("step", STEPS_WITHOUT_STORE)
def test_crash_while_asking_anew_after_a_failure_asks_anew_once(
    evolink: SimulatorServer,
    maybe_store: StateStore | None,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TaskRun(generate(), retries=5, store=maybe_store)
    deferral = first_leg(task)
    evolink.state.end(only_id(evolink), "failed", "service_error")
    with pytest.raises(GenerationFailedError):
        task.resume(deferral, task.wait_in_triggerer(task.stored(deferral)))
    crash(task, step, monkeypatch)
    assert task.run()["evolink_task_id"] == list(evolink.state.generations)[-1]
    assert paid(evolink) == 2


@pytest.mark.parametrize("code", [*FINAL, *CANCELLED, "a_code_nobody_documented"])
def test_final_failure_is_never_asked_for_again(
    evolink: SimulatorServer, maybe_store: StateStore | None, code: str
) -> None:
    kind = GenerationCancelledError if code in CANCELLED else GenerationRefusedError
    task = TaskRun(generate(prompt=f"a red fox [[fail:{code}]]"), store=maybe_store)
    with pytest.raises(kind, match="No retry follows") as failed:
        task.run_with_retries()
    assert task.ti.try_number == 1
    assert not failed.value.retryable
    assert only_id(evolink) in str(failed.value)
    # Not even by a try that Airflow should not make.
    with pytest.raises(kind):
        task.run()
    assert paid(evolink) == 1


def test_moderation_is_told_apart(evolink: SimulatorServer, store: StateStore) -> None:
    task = TaskRun(generate(prompt="a red fox [[fail:content_policy_violation]]"), store=store)
    with pytest.raises(ContentPolicyError, match="change the prompt"):
        task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize(
    ("word", "kind"), [("[[cancelled]]", GenerationCancelledError), ("[[results:0]]", NoImagesError)]
)
def test_cancelled_or_empty_generation_is_never_asked_for_again(
    evolink: SimulatorServer, maybe_store: StateStore | None, word: str, kind: type[EvoImageError]
) -> None:
    task = TaskRun(generate(prompt=f"a red fox {word}"), store=maybe_store)
    with pytest.raises(kind) as failed:
        task.run_with_retries()
    assert only_id(evolink) in str(failed.value)
    with pytest.raises(kind):
        task.run()
    assert paid(evolink) == 1


def test_empty_generation_says_that_it_was_billed(store: StateStore) -> None:
    with pytest.raises(NoImagesError, match=r"Billed: yes\."):
        TaskRun(generate(prompt="a red fox [[results:0]]"), store=store).run()


def test_fewer_images_than_asked_are_delivered_with_a_warning(
    evolink: SimulatorServer, store: StateStore, log_lines: list[Any]
) -> None:
    manifest = TaskRun(generate(prompt="a red fox [[results:2]]", n=3), store=store).run()
    assert (manifest["asked"], manifest["made"], len(manifest["images"])) == (3, 2, 2)
    assert any("2 of the 3 requested images" in line["event"] for line in log_lines)
    assert paid(evolink) == 1
