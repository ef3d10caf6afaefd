"""Airflow ends a deferral itself: generate, batch and sensor say the same of it, and a retry submits nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import (
    BatchIncompleteError,
    EvoImageError,
    GenerationLostError,
    GenerationTimeoutError,
    SensorTimeoutError,
)
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import StateStore, TaskRun, batch, first_leg, generate, sense

#: What Airflow puts into ``next_kwargs`` when it ends a deferral.
GIVEN_UP = "Trigger failure"
TIME_IS_OVER = "Trigger timeout"


@pytest.fixture
def tasks(evolink: SimulatorServer, airflow_connection: Any, tmp_path: Path) -> dict[str, TaskRun]:
    del evolink, airflow_connection
    submitted = TaskRun(generate(prompt="a red fox [[never]]", wait_for_completion=False)).run()
    return {
        "generate": TaskRun(generate(prompt="a blue fox [[never]]"), store=StateStore()),
        "batch": TaskRun(
            batch(["a green fox [[never]]", "a grey fox [[never]]"], tmp_path), store=StateStore()
        ),
        "sensor": TaskRun(sense(submitted["evolink_task_id"]), task_id="sense"),
    }


@pytest.mark.parametrize("name", ["generate", "batch", "sensor"])
def test_deferral_that_the_triggerer_gave_up_is_lost_with_the_reason(
    evolink: SimulatorServer, tasks: dict[str, TaskRun], name: str, tmp_path: Path
) -> None:
    task = tasks[name]
    deferral = first_leg(task)
    paid = evolink.state.counters.paid

    with pytest.raises(EvoImageError) as raised:
        task.resume_failed(deferral, GIVEN_UP)

    assert isinstance(raised.value, BatchIncompleteError if name == "batch" else GenerationLostError)
    assert raised.value.retryable
    assert "Airflow's triggerer gave it up" in str(raised.value)
    if name == "batch":
        (manifest,) = tmp_path.rglob("*.batch.jsonl")
        errors = [json.loads(line)["error"] for line in manifest.read_text().splitlines()]
        assert [error["code"] for error in errors] == ["GenerationLostError"] * 2
        assert all("Airflow's triggerer gave it up" in error["message"] for error in errors)
    if name != "sensor":
        first_leg(task)
    assert evolink.state.counters.paid == paid


@pytest.mark.parametrize("name", ["generate", "batch", "sensor"])
def test_deferral_whose_time_is_over_is_a_timeout(tasks: dict[str, TaskRun], name: str) -> None:
    task = tasks[name]
    deferral = first_leg(task)
    kind = {
        "generate": GenerationTimeoutError,
        "batch": BatchIncompleteError,
        "sensor": SensorTimeoutError,
    }[name]

    with pytest.raises(kind, match="still p") as raised:
        task.resume_failed(deferral, TIME_IS_OVER)

    assert "gave it up" not in str(raised.value)


def test_manifest_holds_the_request_as_sent_when_the_template_renders_otherwise_after_the_wait(
    evolink: SimulatorServer, airflow_connection: Any, tmp_path: Path
) -> None:
    prompts = iter(["a fox at nine", "a fox at ten"])

    def rendered_anew() -> EvoImageGenerateOperator:
        return generate(prompt=next(prompts), save_to=str(tmp_path))()

    task = TaskRun(rendered_anew, store=StateStore())

    manifest = task.run()

    (made,) = evolink.state.generations.values()
    assert made.order.prompt == manifest["request"]["prompt"] == "a fox at nine"
    (sidecar,) = [file for file in tmp_path.rglob("*.json") if not file.name.startswith(".")]
    assert json.loads(sidecar.read_text())["request"]["prompt"] == "a fox at nine"
