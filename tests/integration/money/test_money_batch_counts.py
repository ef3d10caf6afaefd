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
from tests.integration.money.batches import lines
from tests.integration.money.crashes import paid
from tests.integration.task_driver import StateStore, TaskRun, batch, first_leg

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


@pytest.mark.usefixtures("evolink", "fake_time", "airflow_connection")
@pytest.mark.parametrize(
    ("map_index", "keys"),
    [
        (
            -1,
            [
                "airflow-evoimage-8a6ad32e5d28e1555c7c6104ef19f0923d31352e2dde0c217299f086b3936e2b",
                "airflow-evoimage-8953decf4ce7d660b57b31d8fc4ecdeae3ef221b3536302069526580fe027782",
            ],
        ),
        (
            3,
            [
                "airflow-evoimage-929eec2ca841a6f85ab0dded2a20045b2fca9d1b552f5624f616d4fb0cb8e839",
                "airflow-evoimage-b302b1a3217561bd672082a190148c2b6f48af7491359ed71405f6f5939b38c5",
            ],
        ),
    ],
    ids=["batch", "mapped batch"],
)
def test_items_of_a_batch_keep_the_keys_of_earlier_releases(
    tmp_path: Path, map_index: int, keys: list[str]
) -> None:
    # Another key would buy again what is in flight at an upgrade.
    TaskRun(batch(["a red fox", "a red fox"], tmp_path), store=StateStore(), map_index=map_index).run()
    assert [line["submission"]["key"] for line in lines(tmp_path)] == keys
