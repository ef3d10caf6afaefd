"""A batch on a real scheduler, worker and triggerer: it wakes to save, dies and goes on, and tells what came of it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.system.shared import generations
from tests.system.test_secrets import files_below, rows_of, spellings
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import kill_processes, poll

pytestmark = pytest.mark.system

ITEMS, SAVE_EVERY = 60, 20

Start = Callable[..., str]


@pytest.fixture
def start(airflow: LocalAirflow, tmp_path: Path) -> Start:
    """Write the prompts to a file and start a run with it; its files go to ``tmp_path / "images"``."""

    def start(prompts: Sequence[str], *, dag_id: str = "batch", **conf: Any) -> str:
        requests = tmp_path / "requests.jsonl"
        requests.write_text("".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts))
        given = {"requests": requests.as_uri(), "save_to": (tmp_path / "images").as_uri()}
        return airflow.run(dag_id, given | conf)

    return start


def manifest_lines(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.rglob("*.batch.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def whole_images(folder: Path) -> int:
    files = sorted(folder.rglob("*.png"))
    for file in files:
        with Image.open(file) as image:
            image.load()
    assert not list(folder.rglob("*.part"))
    return len(files)


def waits(log: Sequence[str]) -> list[int]:
    """For how many generations the task deferred, each time that it did."""
    found = (re.match(r"Waiting for (\d+) generations in the triggerer", line) for line in log)
    return [int(each[1]) for each in found if each]


def test_batch_wakes_to_save_and_delivers_all(
    start: Start, airflow: LocalAirflow, simulator: str, tmp_path: Path
) -> None:
    # A third each takes 10, 35 and 60 seconds at 20 times the speed of the real ones.
    words = "A poster that wakes"
    prompts = [f"{words} {number} [[duration:{200 + 500 * (number % 3)}]]" for number in range(ITEMS)]
    run = start(prompts)

    airflow.wait_for_state("batch", run, "draw", "deferred", seconds=90)
    airflow.wait_for_success("batch", run, deadline=240)

    assert len(generations(simulator, words)) == ITEMS
    assert whole_images(tmp_path / "images") == ITEMS
    woken = waits(airflow.task_log("batch", run, "draw"))
    assert woken[0] == ITEMS
    assert len(woken) >= 3
    assert woken == sorted(woken, reverse=True)
    assert all(before - after >= SAVE_EVERY for before, after in itertools.pairwise(woken))

    summary = airflow.xcom("batch", run, "draw")
    assert (summary["items"], summary["saved"], summary["images"]) == (ITEMS, ITEMS, ITEMS)
    assert summary["failures"] == []
    assert summary["credits"]["charged"] > 0
    assert len(json.dumps(summary)) < 2_000
    assert Path(summary["manifest"].removeprefix("file://")).is_file()
    lines = manifest_lines(tmp_path / "images")
    assert [line["request"]["prompt"] for line in lines] == prompts
    assert {line["state"] for line in lines} == {"saved"}
    assert sum(line["usage"]["charged"] for line in lines) == pytest.approx(summary["credits"]["charged"])
    paths = [Path(image["path"].removeprefix("file://")) for line in lines for image in line["images"]]
    assert sorted(paths) == sorted((tmp_path / "images").rglob("*.png"))


def test_worker_that_is_killed_in_mid_submission_pays_for_each_item_once(
    start: Start, airflow: LocalAirflow, simulator: str, tmp_path: Path
) -> None:
    # Two at a time, and 0.4 seconds each: some ten seconds for all.
    words = "A poster that is interrupted"
    run = start([f"{words} {number} [[delay:0.4]]" for number in range(ITEMS)])

    def is_amidst() -> list[Any]:
        made = generations(simulator, words)
        return made if len(made) >= ITEMS // 4 else []

    poll(is_amidst, seconds=90, what="some of the items to be asked for", interval=0.1)
    task = airflow.task_instance("batch", run, "draw")
    # The supervisor stays, and tells Airflow at once what became of the task.
    _, *runner = sorted(airflow.task_processes(task), key=lambda each: (each.create_time(), each.pid))
    kill_processes(runner)
    paid_by_then = len(generations(simulator, words))
    assert runner
    assert 0 < paid_by_then < ITEMS

    airflow.wait_for_success("batch", run, deadline=240)
    assert airflow.task_instance("batch", run, "draw")["try_number"] == 2
    made = generations(simulator, words)
    assert len(made) == ITEMS
    assert len({each["idempotency_key"] for each in made}) == ITEMS
    assert whole_images(tmp_path / "images") == ITEMS
    assert airflow.xcom("batch", run, "draw")["saved"] == ITEMS


def test_batch_takes_turns_where_it_may_not_ask_for_all_at_once(
    start: Start, airflow: LocalAirflow, simulator: str, tmp_path: Path
) -> None:
    words, most, items = "A poster in turns", 6, 16
    run = start([f"{words} {number} [[duration:60]]" for number in range(items)], dag_id="batch_in_turns")
    under_way: list[int] = []

    def has_ended() -> bool:
        states = [each["status"] for each in generations(simulator, words)]
        under_way.append(sum(state in {"pending", "processing"} for state in states))
        return airflow.run_state("batch_in_turns", run) in {"success", "failed"}

    poll(has_ended, seconds=240, what="the batch to end", interval=0.3)
    airflow.wait_for_success("batch_in_turns", run)

    assert max(under_way) == most
    assert len(generations(simulator, words)) == items == whole_images(tmp_path / "images")
    log = airflow.task_log("batch_in_turns", run, "draw")
    assert waits(log)[0] == most
    assert any("10 more are queued" in line for line in log)


FAILING = ["A poster", "A poster [[fail:content_policy_violation]]", "A poster"]


def test_failed_item_is_told_and_the_others_are_delivered(
    start: Start, airflow: LocalAirflow, tmp_path: Path
) -> None:
    run = start(FAILING)
    airflow.wait_for_success("batch", run, deadline=180)
    task = airflow.task_instance("batch", run, "draw")
    # No other try may bring it.
    assert task["try_number"] == 1

    summary = airflow.xcom("batch", run, "draw")
    assert (summary["saved"], summary["failed"]) == (2, 1)
    (failure,) = summary["failures"]
    assert (failure["item"], failure["code"]) == (1, "content_policy_violation")
    failed = manifest_lines(tmp_path / "images")[1]
    assert (failed["state"], failed["error"]["retryable"]) == ("failed", False)
    assert failed["evolink_task_id"] == failure["evolink_task_id"]
    assert whole_images(tmp_path / "images") == 2
    log = airflow.task_log("batch", run, "draw")
    assert any(line.startswith("1 of 3 items ") for line in log)


def test_failed_item_fails_the_task_where_that_is_asked_for(
    start: Start, airflow: LocalAirflow, tmp_path: Path
) -> None:
    run = start(FAILING, dag_id="strict_batch")
    assert airflow.wait_for_run("strict_batch", run, deadline=180) == "failed"
    assert airflow.task_instance("strict_batch", run, "draw")["try_number"] == 1
    assert whole_images(tmp_path / "images") == 2
    assert [line["state"] for line in manifest_lines(tmp_path / "images")] == ["saved", "failed", "saved"]
    last = [line for line in airflow.task_log("strict_batch", run, "draw") if "BatchFailedError" in line]
    assert any("1 of 3 items " in line for line in last)


def test_api_key_and_links_are_nowhere(
    start: Start, airflow: LocalAirflow, canary_key: str, tmp_path: Path
) -> None:
    refused = start(["A poster [[http:401]]"], conn_id="canary")
    assert airflow.wait_for_run("batch", refused, deadline=180) == "failed"
    run = start([*FAILING, "A poster [[cut:after]]"], conn_id="canary")
    airflow.wait_for_success("batch", run, deadline=180)

    images = list(files_below(tmp_path / "images"))
    rows = list(rows_of(airflow.home / "airflow.db"))
    logs = list(files_below(airflow.home / "logs"))
    everything = [*images, *rows, *logs]
    assert any(b"task-unified-" in content and run.encode() in content for _, content in everything)
    assert [name for name, content in everything for each in spellings(canary_key) if each in content] == []
    # Unlike a manifest in XCom, a summary holds no link either.
    ours = [(name, content) for name, content in [*rows, *logs] if name != "serialized_dag"]
    ours = [(name, content) for name, content in ours if run.encode() in content or run in name]
    assert {"xcom", "task_instance"} <= {name for name, _ in ours}
    assert [name for name, content in [*ours, *images] if b"/files/" in content] == []
