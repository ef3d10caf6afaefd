"""A batch decides once about each item, and makes one record before its POST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_evoimage.batch import submission as batch_submission
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.submission import submit
from airflow_provider_evoimage.submission.record import SubmissionRecord
from tests.integration.money.crashes import paid
from tests.integration.task_driver import TaskRun, batch, first_leg

PROMPTS = [f"a poster {number}" for number in range(10)]


@pytest.mark.usefixtures("airflow_connection")
def test_ten_items_take_ten_decisions_and_ten_records(
    evolink: SimulatorServer, tmp_path: Path, mocker: MockerFixture
) -> None:
    spies: dict[str, Any] = {
        "decide in batch": mocker.spy(batch_submission, "decide"),
        "decide in submission": mocker.spy(submit, "decide"),
        "record in batch": mocker.spy(batch_submission, "record_before_post"),
        "record in submission": mocker.spy(submit, "record_before_post"),
        "read": mocker.spy(SubmissionRecord, "read"),
        "to_json": mocker.spy(SubmissionRecord, "to_json"),
    }
    first_leg(TaskRun(batch(PROMPTS, tmp_path)))

    counts = {name: spy.call_count for name, spy in spies.items()}
    assert paid(evolink) == 10
    assert counts == {
        "decide in batch": 10,
        "decide in submission": 0,
        "record in batch": 10,
        "record in submission": 0,
        # No record is read back from what was just written.
        "read": 0,
        # The ledger, before the POSTs and after them.
        "to_json": 20,
    }
