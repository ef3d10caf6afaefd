"""Items of a batch ask another model only where the first certainly cost nothing, and none is paid twice."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    InvalidRequestError,
    PriceUnknownError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.fake_time import FakeTime
from tests.integration.money.batches import lines
from tests.integration.money.fallbacks import (
    FAILURES,
    FIRST,
    OTHER,
    REFUSALS,
    KillThreadsAtLine,
    KillThreadsAtSecondVisit,
    let_all_models_work,
    let_first_model_fail,
    purchases,
)
from tests.integration.task_driver import KillAtLine, Killed, TaskRun, batch, lines_to_die_at, parts_of_lines

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

PROMPTS = [f"a poster {number}" for number in range(12)]


def two_models(folder: Path, prompts: Any = PROMPTS, *, retries: int = 3, **arguments: Any) -> TaskRun:
    fields = {"model": FIRST, "fallback_models": [OTHER], "fallback_after": 20}
    return TaskRun(batch(prompts, folder, **(fields | arguments)), retries=retries)


@pytest.mark.parametrize("code", [*REFUSALS, *FAILURES])
def test_other_model_draws_every_item_in_the_same_try(
    evolink: SimulatorServer, tmp_path: Path, code: str
) -> None:
    let_first_model_fail(evolink, code)
    task = two_models(tmp_path)
    summary = task.run()
    assert (task.ti.try_number, summary["saved"], summary["images"]) == (1, 12, 12)
    assert purchases(evolink) == [OTHER] * 12
    assert summary["credits"]["charged"] == pytest.approx(float(evolink.state.counters.credits_charged))
    for line in lines(tmp_path):
        assert line["fell_back"] == [{"model": FIRST, "why": code, "billed": False}]
        assert line["model"] == line["request"]["model"] == OTHER
    # Only few items ask a model that is not there.
    refused = evolink.state.counters.submissions - len(evolink.state.generations)
    assert refused <= (8 if code in REFUSALS else 0)


def test_batch_waits_for_a_model_once_and_not_for_each_item(
    evolink: SimulatorServer, tmp_path: Path, fake_time: FakeTime
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    task = two_models(tmp_path, fallback_after=60)
    task.run()
    asked = [slept for slept in fake_time.slept if slept in {1.0, 2.0, 4.0, 8.0, 16.0}]
    assert sum(asked) < 60
    assert evolink.state.counters.submissions <= 12 + 8


def test_model_that_comes_back_in_time_draws_every_item(
    evolink: SimulatorServer, tmp_path: Path, fake_time: FakeTime
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    fake_time.on_sleep = lambda _: let_all_models_work(evolink)
    two_models(tmp_path).run()
    assert purchases(evolink) == [FIRST] * 12
    assert all("fell_back" not in line for line in lines(tmp_path))


def test_item_that_falls_back_and_one_that_asks_that_model_are_two_requests(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "model_not_found")
    prompts = [{"prompt": "a fox"}, {"prompt": "a fox", "model": OTHER}, {"prompt": "a fox"}]
    two_models(tmp_path, prompts).run()
    assert len({line["evolink_task_id"] for line in lines(tmp_path)}) == 3
    assert purchases(evolink) == [OTHER] * 3


def test_only_the_item_whose_generation_fails_goes_on(evolink: SimulatorServer, tmp_path: Path) -> None:
    prompts = [*PROMPTS[:3], "a fox [[fail:content_policy_violation]]"]
    task = two_models(tmp_path, prompts, retries=0)
    task.run()
    # Moderation would refuse it there as well.
    assert purchases(evolink) == [FIRST] * 3
    assert [line["state"] for line in lines(tmp_path)] == ["saved"] * 3 + ["failed"]


@pytest.mark.parametrize(
    "word", ["http:402", "http:429", "http:503 code=service_unavailable", "cut:after times=9"]
)
def test_other_errors_move_no_item_on(evolink: SimulatorServer, tmp_path: Path, word: str) -> None:
    with contextlib.suppress(BatchIncompleteError, BatchFailedError):
        two_models(tmp_path, [f"a fox [[{word}]]"], retries=0, submit_timeout=5).run()
    assert {each.order.model for each in evolink.state.generations.values()} <= {FIRST}


def test_charged_failure_moves_no_item_on(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.configure({"charge_failed": True})
    let_first_model_fail(evolink, "service_error")
    with pytest.raises(BatchIncompleteError):
        two_models(tmp_path, PROMPTS[:2], retries=0).run()
    assert {each.order.model for each in evolink.state.generations.values()} == {FIRST}


def test_limit_holds_over_all_models(evolink: SimulatorServer, tmp_path: Path) -> None:
    let_first_model_fail(evolink, "service_error")
    evolink.state.configure({"charge_factor": 1})
    with contextlib.suppress(BatchIncompleteError, BatchFailedError):
        two_models(tmp_path, max_credits=3, retries=0).run()
    assert 0 < float(evolink.state.counters.credits_charged) <= 3
    assert 1 <= len(purchases(evolink)) < 12


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"fallback_models": ["model-of-tomorrow"], "max_credits": 50}, PriceUnknownError),
        ({"model": "gpt-image-2", "size": "16:9"}, InvalidRequestError),
    ],
)
def test_model_that_cannot_take_the_items_is_found_before_anything_is_sent(
    evolink: SimulatorServer, tmp_path: Path, arguments: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        two_models(tmp_path, **arguments).run()
    assert evolink.state.counters.submissions == 0


def test_clear_and_retry_with_a_shorter_list_of_models_pay_nothing_again(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "model_not_found")
    task = two_models(tmp_path, PROMPTS[:3])
    with KillAtLine() as tracer:
        task.run()
    assert tracer.lines
    before = purchases(evolink)
    let_all_models_work(evolink)
    # The DAG was edited after its result was refused: nothing was delivered.
    for line in (file := next(tmp_path.rglob("*.batch.jsonl"))).read_text().splitlines():
        assert '"phase": "delivered"' in line
    file.write_text(file.read_text().replace('"phase": "delivered"', '"phase": "submitted"'))
    task.make = batch(PROMPTS[:3], tmp_path, model=FIRST)
    task.ti.max_tries += 1
    task.run()
    assert purchases(evolink) == before


#: What one item costs is decided here, most of it on threads: no test of single threads comes to the lines of a POST.
OURS = {
    *("submission.py", "fallback.py", "collection.py", "ledger.py"),
    *("submit.py", "record.py", "decision.py"),
}


PARTS = parts_of_lines(4)


@pytest.mark.any_line
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kill", [KillThreadsAtLine, KillThreadsAtSecondVisit], ids=["first", "second"])
@pytest.mark.parametrize("code", ["model_unavailable", "service_error"])
def test_death_at_any_line_pays_one_model_for_each_item(
    evolink: SimulatorServer, tmp_path: Path, code: str, kill: type[KillAtLine], part: int
) -> None:
    prompts = PROMPTS[:2]
    let_first_model_fail(evolink, code)
    with KillThreadsAtLine() as tracer:
        two_models(tmp_path / "traced", prompts, fallback_after=1).run()
    # In the order of their numbers, as threads come to them in any order.
    found = sorted(line for line in tracer.lines if line[0] in OURS)
    assert len(found) > 400
    assert "submit.py" in {line[0] for line in found}
    wrong = {}
    for number, line in enumerate(lines_to_die_at(found[part :: len(PARTS)], one_in=40)):
        evolink.reset()
        let_first_model_fail(evolink, code)
        folder = tmp_path / str(number)
        task = two_models(folder, prompts, fallback_after=1)
        with kill(line), contextlib.suppress(Killed):
            task.run()
        let_all_models_work(evolink)
        with contextlib.suppress(BatchIncompleteError, BatchFailedError):
            task.run_with_retries()
        rows = lines(folder)
        if len(purchases(evolink)) != 2 or [row["state"] for row in rows] != ["saved"] * 2:
            wrong[line] = purchases(evolink), [row["state"] for row in rows]
    assert wrong == {}
