"""A batch pays for each item once, whatever crashes, and loses nothing that was paid."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred
from PIL import Image

from airflow_provider_evoimage.batch import collection, submission
from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    InsufficientCreditsError,
    InvalidRequestError,
    PriceUnknownError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.money.batches import PROMPTS, check_whole, die_at, lines, run_until_it_lives
from tests.integration.money.crashes import paid
from tests.integration.task_driver import CONNECTION, TaskRun, batch, connection, first_leg

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

# EvoLink publishes no price for it.
UNPRICED = "z-image-turbo"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a batch of twenty has several."""
    monkeypatch.setattr(submission, "CHUNK", 6)
    monkeypatch.setattr(collection, "CHUNK", 6)


@pytest.mark.long
@pytest.mark.parametrize("nth", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "moment",
    ["before POST", "after POST", "before ledger", "after ledger", "before save", "after save", "mid copy"],
)
def test_worker_that_dies_at_any_moment_pays_once_and_saves_all(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, nth: int
) -> None:
    death = die_at(moment, nth, monkeypatch)
    summary = run_until_it_lives(TaskRun(batch(PROMPTS, tmp_path, save_every=5, parallel=3), retries=9))
    assert death.left <= 0
    assert summary["saved"] == len(PROMPTS)
    check_whole(evolink, tmp_path, PROMPTS)


@pytest.mark.parametrize("nth", [1, 4])
@pytest.mark.parametrize("moment", ["after POST", "before ledger"])
def test_ignored_keys_never_pay_twice(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, nth: int
) -> None:
    monkeypatch.setenv(CONNECTION, connection(evolink, idempotency="ignored"))
    evolink.state.settings.ignore_keys = True
    die_at(moment, nth, monkeypatch)
    task = TaskRun(batch(PROMPTS, tmp_path, parallel=1))
    with contextlib.suppress(BatchFailedError):
        run_until_it_lives(task)
    # What died unheard is asked for no second time; everything else is.
    requested = Counter(each.order.prompt for each in evolink.state.generations.values())
    assert requested <= Counter(PROMPTS)


def test_moved_and_inserted_rows_re_buy_nothing(evolink: SimulatorServer, tmp_path: Path) -> None:
    listed = list(PROMPTS)
    task = TaskRun(batch(listed, tmp_path, save_every=100))
    with pytest.raises(TaskDeferred):
        task.start()
    listed[:] = ["a vase", *reversed(PROMPTS)]
    task.clear()
    task.run()
    check_whole(evolink, tmp_path, listed)


def test_complete_batch_that_is_cleared_is_asked_for_anew(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS[:4], tmp_path))
    task.run()
    task.run()
    assert paid(evolink) == 4
    task.clear()
    task.run()
    assert paid(evolink) == 8


@pytest.mark.parametrize(("on_clear", "in_all"), [("auto", 8), ("regenerate", 8), ("reuse", 4)])
def test_cleared_batch_pays_what_on_clear_says(
    evolink: SimulatorServer, tmp_path: Path, on_clear: str, in_all: int
) -> None:
    task = TaskRun(batch(PROMPTS[:4], tmp_path, on_clear=on_clear))
    task.run()
    task.clear()
    assert task.run()["saved"] == 4
    assert paid(evolink) == in_all


def test_incomplete_batch_that_is_cleared_asks_only_for_what_is_missing(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    prompts = ["a mug", "a shoe [[fail:content_policy_violation]]", "a lamp"]
    task = TaskRun(batch(prompts, tmp_path))
    assert task.run()["failed"] == 1
    assert paid(evolink) == 3
    task.clear()
    assert task.run()["failed"] == 1
    requested = Counter(each.order.prompt for each in evolink.state.generations.values())
    assert requested == Counter({prompts[0]: 1, prompts[1]: 2, prompts[2]: 1})


def test_retry_redoes_only_what_may_succeed(evolink: SimulatorServer, tmp_path: Path) -> None:
    passing, final = "a mug [[fail:service_error]]", "a shoe [[fail:content_policy_violation]]"
    task = TaskRun(batch([passing, final, "a lamp"], tmp_path), retries=2)
    summary = task.run_with_retries()
    assert (summary["saved"], summary["failed"]) == (1, 2)
    requested = Counter(each.order.prompt for each in evolink.state.generations.values())
    assert requested == Counter({passing: 3, final: 1, "a lamp": 1})
    keys = [each.idempotency_key for each in evolink.state.generations.values()]
    assert len(set(keys)) == len(keys)


def test_saved_images_stay_where_they_are_when_rows_move(evolink: SimulatorServer, tmp_path: Path) -> None:
    listed = ["p", "q", "slow [[fail:service_error]]"]
    task = TaskRun(batch(listed, tmp_path))
    with pytest.raises(BatchIncompleteError):
        task.run()
    listed.insert(0, "new")
    with pytest.raises(BatchIncompleteError):
        task.run()
    saved = [line for line in lines(tmp_path) if line["state"] == "saved"]
    assert [line["request"]["prompt"] for line in saved] == ["new", "p", "q"]
    paths = [line["images"][0]["path"] for line in saved]
    assert len(set(paths)) == len(list(tmp_path.rglob("*.png"))) == 3
    for line in saved:
        content = Path(line["images"][0]["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == line["images"][0]["sha256"]


def test_cleared_batch_saves_again_what_was_removed(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS[:3], tmp_path, on_clear="reuse"))
    task.run()
    for file in list(tmp_path.rglob("*.png"))[:2]:
        file.unlink()
    task.clear()
    assert task.run()["saved"] == 3
    check_whole(evolink, tmp_path, PROMPTS[:3])


def test_key_that_is_refused_half_way_is_no_success(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.faults.post("submit", Fault("status", 401, times=1))
    task = TaskRun(batch(PROMPTS, tmp_path, parallel=1))
    with pytest.raises(BatchFailedError):
        task.run()
    task.clear()
    task.run()
    check_whole(evolink, tmp_path, PROMPTS)


def test_each_item_is_one_line_whatever_its_prompt_holds(evolink: SimulatorServer, tmp_path: Path) -> None:
    TaskRun(batch(["a\u2028b\u2029c\x85d", {"prompt": "e", "name": "n" * 5000}], tmp_path)).run()
    (file,) = tmp_path.rglob("*.batch.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert found[0]["request"]["prompt"] == "a\u2028b\u2029c\x85d"
    assert len(found) == 2
    assert paid(evolink) == 2


def test_failure_of_an_item_fails_the_task_when_it_is_told_to(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    prompts = ["a mug", "a shoe [[fail:content_policy_violation]]"]
    task = TaskRun(batch(prompts, tmp_path, on_item_failure="fail"))
    with pytest.raises(BatchFailedError, match="1 of 2 items have no images"):
        task.run()
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert paid(evolink) == 2


def test_batch_without_a_single_image_fails_whatever_it_was_told(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(["a shoe [[fail:content_policy_violation]]"], tmp_path))
    with pytest.raises(BatchFailedError):
        task.run()
    assert paid(evolink) == 1


def test_images_that_could_not_be_saved_are_saved_by_the_retry(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    evolink.state.faults.post("download", Fault("status", 403, times=6))
    task = TaskRun(batch(PROMPTS[:4], tmp_path))
    with pytest.raises(BatchIncompleteError):
        task.run()
    task.run()
    check_whole(evolink, tmp_path, PROMPTS[:4])


def test_batch_that_runs_out_of_time_goes_on_in_the_retry(evolink: SimulatorServer, tmp_path: Path) -> None:
    prompts = ["a mug", "a shoe [[duration:500]]"]
    task = TaskRun(batch(prompts, tmp_path, timeout=200, save_after=50))
    with pytest.raises(BatchIncompleteError, match="was still processing after"):
        task.run()
    task.run_with_retries()
    check_whole(evolink, tmp_path, prompts)


def test_empty_account_leaves_out_the_rest_and_delivers_what_was_paid(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    evolink.state.configure({"credits": 2})
    task = TaskRun(batch(PROMPTS, tmp_path, parallel=1))
    with pytest.raises(BatchFailedError, match="items have no images"):
        task.run()
    states = Counter(line["state"] for line in lines(tmp_path))
    assert set(states) == {"saved", "left out"}
    assert paid(evolink) == states["saved"] == len(list(tmp_path.rglob("*.png")))


@pytest.mark.parametrize("parallel", [1, 8])
def test_limit_is_never_passed(evolink: SimulatorServer, tmp_path: Path, parallel: int) -> None:
    summary = TaskRun(batch(PROMPTS, tmp_path, parallel=parallel, max_credits=5), retries=0).run()
    assert summary["left_out"] > 0
    assert float(evolink.state.counters.credits_charged) <= 5
    assert summary["credits"]["charged"] == float(evolink.state.counters.credits_charged)


def test_limit_is_never_passed_by_two_hundred_at_once(evolink: SimulatorServer, tmp_path: Path) -> None:
    requests = [f"a poster {number}" for number in range(200)]
    summary = TaskRun(batch(requests, tmp_path, parallel=25, max_credits=40), retries=0).run()
    charged = float(evolink.state.counters.credits_charged)
    assert 30 < charged <= 40
    assert summary["saved"] + summary["left_out"] == 200
    assert paid(evolink) == summary["saved"] == len(list(tmp_path.rglob("*.png")))


def test_limit_that_was_lowered_holds_after_a_clear(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS[:4], tmp_path, max_credits=100))
    task.run()
    task.clear()
    task.make = batch(PROMPTS[:4], tmp_path, max_credits=1)
    summary = task.run()
    assert (summary["saved"], summary["left_out"]) == (1, 3)
    assert paid(evolink) == 4 + 1


def test_limit_holds_over_tries(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path, max_credits=5), retries=3)
    first = task.run()
    assert task.run()["saved"] == first["saved"]
    assert float(evolink.state.counters.credits_charged) <= 5


def test_model_without_a_known_price_is_asked_for_where_there_is_no_limit(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(["a mug", {"prompt": "a lamp", "model": UNPRICED}], tmp_path, quality=None))
    assert task.run()["saved"] == 2
    assert paid(evolink) == 2


def test_model_without_a_known_price_is_refused_under_a_limit(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    with pytest.raises(PriceUnknownError, match=UNPRICED):
        TaskRun(batch([{"prompt": "a lamp", "model": UNPRICED}], tmp_path, max_credits=5, quality=None)).run()
    assert paid(evolink) == 0


def test_balance_is_checked_before_anything_is_paid(evolink: SimulatorServer, tmp_path: Path) -> None:
    evolink.state.configure({"credits": 2})
    with pytest.raises(InsufficientCreditsError, match="are missing"):
        TaskRun(batch(PROMPTS, tmp_path, check_credits=True)).run()
    assert paid(evolink) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"requests": []}, "nothing to submit"),
        ({"requests": ["a"] * 2001}, "one batch takes 2,000"),
        ({"requests": ["a", {"prompt": ""}, {"prompt": "b", "n": 99}]}, "2 of 3 requests cannot be sent"),
        ({"requests": [{"prompt": "a", "colour": "red"}]}, "colour: no such field"),
        ({"requests": ["a", "b"], "filename_template": "{index}.{ext}"}, "gives requests 0 and 1 the same"),
        ({"requests": [{"prompt": "a", "n": 2}], "filename_template": "{item}.{ext}"}, "add {index}"),
        ({"requests": ["a"], "model": "a-new-model", "max_credits": 5}, "No price is known"),
        ({"requests": "poster.docx"}, "neither a list nor"),
        ({"requests": 7}, "must be a list"),
    ],
)
def test_mistakes_are_found_before_anything_is_paid(
    evolink: SimulatorServer, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError if "model" not in arguments else Exception, match=words) as caught:
        TaskRun(batch(save_to=tmp_path, **arguments)).run()
    assert caught.value.billed is False
    assert paid(evolink) == 0


def test_ledger_that_is_lost_while_waiting_costs_nothing(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path))
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    event = task.wait_in_triggerer(task.stored(deferred.value))
    (ledger,) = tmp_path.rglob("*.batch.jsonl")
    ledger.unlink()
    with contextlib.suppress(TaskDeferred):
        task.resume(deferred.value, event)
    task.run()
    check_whole(evolink, tmp_path, PROMPTS)


def test_list_is_needed_for_the_submission_only(evolink: SimulatorServer, tmp_path: Path) -> None:
    source = tmp_path / "requests.jsonl"
    source.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in PROMPTS))
    images = tmp_path / "images"
    task = TaskRun(batch(str(source), images))
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    source.unlink()
    event = task.wait_in_triggerer(task.stored(deferred.value))
    while True:
        try:
            task.resume(deferred.value, event)
            break
        except TaskDeferred as again:
            event = task.wait_in_triggerer(task.stored(again))
    check_whole(evolink, images, PROMPTS)
    assert all(
        line["request"]["prompt"] == line_prompt
        for line, line_prompt in zip(lines(images), PROMPTS, strict=True)
    )


def reference(path: Path, colour: str) -> str:
    Image.new("RGB", (64, 64), colour).save(path)
    return str(path)


def test_references_are_uploaded_once_each(evolink: SimulatorServer, tmp_path: Path) -> None:
    shoe, mug = reference(tmp_path / "shoe.png", "red"), reference(tmp_path / "mug.png", "blue")
    requests = [
        {"prompt": "on a table", "image_urls": [shoe]},
        {"prompt": "in a box", "image_urls": [shoe]},
        {"prompt": "in a box", "image_urls": [mug]},
    ]
    images = tmp_path / "images"
    task = TaskRun(batch(requests, images, parallel=1))
    with pytest.raises(TaskDeferred):
        task.start()
    assert evolink.state.counters.uploads == 2
    task.run()
    assert paid(evolink) == 3
    assert evolink.state.counters.uploads == 2
    told = [line["request"]["references"][0]["source"] for line in lines(images)]
    assert told == [shoe, shoe, mug]


def test_reference_that_is_not_there_is_found_before_anything_is_paid(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    requests = [{"prompt": "on a table"}, {"prompt": "in a box", "image_urls": ["/no/such.png"]}]
    with pytest.raises(InvalidRequestError, match="request 1"):
        TaskRun(batch(requests, tmp_path)).run()
    assert paid(evolink) == 0


def test_not_deferring_does_the_same(evolink: SimulatorServer, tmp_path: Path) -> None:
    TaskRun(batch(PROMPTS, tmp_path, deferrable=False, save_every=7)).run()
    check_whole(evolink, tmp_path, PROMPTS)


def test_before_airflow_3_3_it_is_the_same(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(batch(PROMPTS, tmp_path), store=None)
    with pytest.raises(TaskDeferred):
        task.start()
    task.run()
    check_whole(evolink, tmp_path, PROMPTS)


def test_item_of_the_manifest_is_the_item_of_file_names_after_a_row_was_inserted(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    listed: list[Any] = [{"name": "mug", "prompt": "a mug"}, {"name": "shoe", "prompt": "a shoe"}]
    task = TaskRun(batch(listed, tmp_path, filename_template="{item}-{name}.{ext}"))
    first_leg(task)
    listed.insert(0, {"name": "vase", "prompt": "a vase"})
    task.clear()

    task.run()

    made = {key: each.order.prompt for key, each in evolink.state.generations.items()}
    assert [(line["item"], line["position"], line["name"]) for line in lines(tmp_path)] == [
        (2 + 1, 0, "vase"),
        (0, 1, "mug"),
        (1, 2, "shoe"),
    ]
    for line in lines(tmp_path):
        (image,) = line["images"]
        assert Path(image["path"]).name == f"{line['item']}-{line['name']}.png"
        assert made[line["evolink_task_id"]] == line["request"]["prompt"] == f"a {line['name']}"


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    (file,) = folder.rglob("*.batch.jsonl")
    file.write_text("".join(json.dumps(change(line)) + "\n" for line in lines(folder)))


def as_version_1(line: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in line.items() if name not in {"item", "position", "v"}}
    return {"item": line["position"], "number": line["item"], **rest, "v": 1}


def test_batch_manifest_of_version_1_is_resumed_without_paying(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(PROMPTS[:4], tmp_path))
    deferral = first_leg(task)
    rewritten(tmp_path, as_version_1)

    task.go_on(deferral)

    check_whole(evolink, tmp_path, PROMPTS[:4])
    assert {line["v"] for line in lines(tmp_path)} == {2}


def test_batch_manifest_of_a_newer_release_is_not_paid_for_again(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(batch(PROMPTS[:4], tmp_path))
    first_leg(task)
    rewritten(tmp_path, lambda line: {**line, "v": 3})

    with pytest.raises(UnrepeatableSubmissionError, match="format version 3: a newer release"):
        task.run()

    assert paid(evolink) == 4
