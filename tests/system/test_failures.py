"""What a person reads at the end of a failed task's log: what, which EvoLink task, billed or not, and then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.system

DAGS = Path(__file__).parent / "dags"

#: task → what the last lines must say, and whether they name an EvoLink task.
LAST_LINES = {
    "wrong_key": (["AuthenticationError", "HTTP 401", "Billed: no.", "put a valid API key"], False),
    "unknown_host": (
        ["EvoLinkUnreachableError", "host name is not known", "Billed: no.", "A retry sends"],
        False,
    ),
    "no_credit": (["InsufficientCreditsError", "HTTP 402", "Billed: no.", "top up the account"], False),
    "moderation": (["ContentPolicyError", "Billed: no.", "No retry follows", "change the prompt"], True),
    "service_error": (
        ["GenerationFailedError", "service_error", "Billed: no.", "under a new idempotency key"],
        True,
    ),
    "expired_link": (["DownloadError", "HTTP 403", "Billed: yes.", "A retry saves the same images"], True),
    "time_out": (["GenerationTimeoutError", "still p", "Billed: unknown.", "goes on waiting for it"], True),
    "no_images": (["NoImagesError", "without a single image", "Billed: yes.", "nothing is paid twice"], True),
    "bad_size": (["InvalidRequestError", "'1000x1000'", "Billed: no.", "Nothing was sent"], False),
    "too_dear": (
        ["BudgetExceededError", "max_credits=4", "quality='medium'", "Billed: no.", "Nothing was sent"],
        False,
    ),
    "no_price": (["PriceUnknownError", "leave max_credits out", "Billed: no.", "Nothing was sent"], False),
}


@pytest.fixture(scope="module")
def failed_run(airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> str:
    run_id = airflow.run("failures", {"save_to": tmp_path_factory.mktemp("none").as_uri()})
    assert airflow.wait_for_run("failures", run_id, deadline=180) == "failed"
    return run_id


@pytest.mark.parametrize("task_id", LAST_LINES)
def test_the_last_lines_say_what_which_billed_and_what_a_retry_does(
    task_id: str, airflow: LocalAirflow, failed_run: str
):
    fragments, names_a_task = LAST_LINES[task_id]
    assert airflow.task_instance("failures", failed_run, task_id)["state"] == "failed"

    lines = airflow.task_log("failures", failed_run, task_id)
    told = [line for line in lines if re.match(r"[A-Za-z]+Error: ", line)]
    assert told, "\n".join(lines)
    last = told[-1]

    assert [fragment for fragment in fragments if fragment not in last] == []
    assert bool(re.search(r"task-unified-\w+-\w+", last)) == names_a_task
