"""A task that a person ends while it waits on its worker says which generations go on and are billed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import BatchIncompleteError, GenerationTimeoutError
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import TaskRun, batch, generate

pytestmark = pytest.mark.usefixtures("airflow_connection")


def killed_while_it_waits(task: TaskRun, fake_time: FakeTime) -> None:
    """Let Airflow's supervisor tell the operator of its end again and again during the wait."""
    fake_time.on_sleep = lambda seconds: task._last.on_kill()
    with pytest.raises((GenerationTimeoutError, BatchIncompleteError)):
        task.run()
    fake_time.on_sleep = lambda seconds: None


def test_generation_that_goes_on_is_named(
    evolink: SimulatorServer, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    task = TaskRun(generate(prompt="a fox [[never]]", deferrable=False, timeout=60))
    task.operator().on_kill()
    assert "Killed while" not in str(log_lines)
    killed_while_it_waits(task, fake_time)
    (evolink_task_id,) = evolink.state.generations
    killed = [line for line in log_lines if "Killed while" in line["event"]]
    assert killed
    assert evolink_task_id in str(killed[0])


def test_generations_of_a_batch_are_counted(
    tmp_path: Path, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    requests = ["a fox [[never]]", "a cat [[never]]", "a dog [[instant]]"]
    task = TaskRun(batch(requests, tmp_path, deferrable=False, timeout=60))
    task.operator().on_kill()
    assert "Killed while" not in str(log_lines)
    killed_while_it_waits(task, fake_time)
    assert "Killed while" in str(log_lines)
