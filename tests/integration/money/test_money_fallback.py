"""Another model is asked only where the first certainly cost nothing, and never are two paid."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.exceptions import (
    BudgetExceededError,
    ContentPolicyError,
    EvoImageError,
    EvoLinkUnavailableError,
    GenerationFailedError,
    InsufficientCreditsError,
    InvalidRequestError,
    PriceUnknownError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.fake_time import FakeTime
from tests.integration.money.crashes import crash, paid
from tests.integration.money.fallbacks import (
    FAILURES,
    FIRST,
    OTHER,
    REFUSALS,
    KillAtSecondVisit,
    let_all_models_work,
    let_first_model_fail,
    purchases,
    two_models,
)
from tests.integration.task_driver import (
    KillAtLine,
    Killed,
    StateStore,
    TaskRun,
    first_leg,
    generate,
    lines_to_die_at,
    parts_of_lines,
)

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


@pytest.mark.parametrize("code", [*REFUSALS, *FAILURES])
@pytest.mark.parametrize("deferrable", [True, False])
def test_other_model_delivers_in_the_same_try_and_is_paid_once(
    evolink: SimulatorServer,
    maybe_store: StateStore | None,
    tmp_path: Path,
    log_lines: list[Any],
    code: str,
    deferrable: bool,
) -> None:
    let_first_model_fail(evolink, code)
    task = two_models(tmp_path, maybe_store, deferrable=deferrable)
    manifest = task.run()
    assert (task.ti.try_number, manifest["model"], manifest["request"]["model"]) == (1, OTHER, OTHER)
    assert manifest["fell_back"] == [{"model": FIRST, "why": code, "billed": False}]
    assert purchases(evolink) == [OTHER]
    assert float(evolink.state.counters.credits_charged) == manifest["usage"]["charged"]
    warned = [
        line["event"] % line.get("positional_args", ())
        for line in log_lines
        if line["log_level"] == "warning"
    ]
    assert f"Falling back from {FIRST} to {OTHER}: {code}, not billed." in warned


@pytest.mark.parametrize("code", ["model_unavailable", "no_available_channel"])
def test_model_without_capacity_is_waited_for_as_long_as_fallback_after_says(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, fake_time: FakeTime, code: str
) -> None:
    let_first_model_fail(evolink, code)
    task = two_models(tmp_path, store, fallback_after=90)
    with pytest.raises(TaskDeferred):
        task.start()
    assert 89 <= sum(fake_time.slept) <= 91
    # 1, 2, 4, 8, 16, 30 s and the rest; the last one is the other model's.
    assert evolink.state.counters.submissions == 9


def test_model_that_comes_back_in_time_is_used(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, fake_time: FakeTime
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    fake_time.on_sleep = lambda _: let_all_models_work(evolink)
    manifest = two_models(tmp_path, store).run()
    assert manifest["model"] == FIRST
    assert "fell_back" not in manifest
    assert purchases(evolink) == [FIRST]


def test_model_that_is_gone_is_not_waited_for(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, fake_time: FakeTime
) -> None:
    let_first_model_fail(evolink, "model_not_found")
    with pytest.raises(TaskDeferred):
        two_models(tmp_path, store).start()
    assert fake_time.slept == []
    assert evolink.state.counters.submissions == 2


def test_each_model_is_left_behind_in_turn(
    evolink: SimulatorServer,
    maybe_store: StateStore | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evolink.state.configure(
        {"unavailable_models": {FIRST: "model_unavailable"}, "failing_models": {OTHER: "service_error"}}
    )
    counted = []
    monkeypatch.setattr(metrics, "_count", lambda *sent: counted.append(sent))
    task = two_models(tmp_path, maybe_store, fallback_models=[FIRST, OTHER, "gpt-image-2", OTHER])
    manifest = task.run()
    assert [sent[2] for sent in counted if sent[0] == "fallbacks"] == [
        {"model": FIRST, "why": "model_unavailable"},
        {"model": OTHER, "why": "service_error"},
    ]
    assert [each["model"] for each in manifest["fell_back"]] == [FIRST, OTHER]
    assert purchases(evolink) == ["gpt-image-2"]


@pytest.mark.parametrize("code", ["model_unavailable", "service_error"])
def test_retry_after_the_last_model_stays_with_it(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path, code: str
) -> None:
    evolink.state.configure(
        {
            "unavailable_models": dict.fromkeys((FIRST, OTHER) if code in REFUSALS else (), code),
            "failing_models": dict.fromkeys((FIRST, OTHER) if code in FAILURES else (), code),
        }
    )
    task = two_models(tmp_path, maybe_store)
    kind = EvoLinkUnavailableError if code in REFUSALS else GenerationFailedError
    with pytest.raises(kind) as failed:
        task.run()
    assert (failed.value.billed, failed.value.retryable) == (False, True)
    assert purchases(evolink) == []
    let_all_models_work(evolink)
    manifest = task.run()
    # A refusal leaves nothing to remember; after a failure the last model is asked again.
    assert manifest["model"] == (FIRST if code in REFUSALS else OTHER)
    assert len(purchases(evolink)) == 1


# A worker that dies

STEPS = [
    *("before get", "before set", "after set", "before POST", "after POST"),
    *("before set 2", "after set 2", "before xcom_push", "after xcom_push", "before defer"),
    *("before delete", "after delete", "before POST 2", "after POST 2"),
]


def outcome(task: TaskRun, evolink: SimulatorServer) -> dict[str, Any] | None:
    """Run what Airflow has left of the tries; return the manifest, or None where it fails."""
    try:
        return task.run_with_retries()
    except EvoImageError as error:
        failed = error
    # It may have been accepted, and nothing else was asked.
    assert failed.billed is None
    assert paid(evolink) == 0
    return None


@pytest.mark.parametrize("comes_back", [True, False], ids=["back", "down"])
@pytest.mark.parametrize(
    ("code", "step"),
    [
        (code, step)
        for code in [*REFUSALS, "service_error"]
        for step in STEPS
        # The record of a failed generation stays.
        if code in REFUSALS or "delete" not in step
    ],
)
def test_death_at_any_step_pays_one_model_at_the_most(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    step: str,
    comes_back: bool,
) -> None:
    let_first_model_fail(evolink, code)
    task = two_models(tmp_path, store, fallback_after=1)
    crash(task, step, monkeypatch)
    if comes_back:
        let_all_models_work(evolink)
    before = purchases(evolink)
    manifest = outcome(task, evolink)
    bought = purchases(evolink)
    assert len(bought) <= 1
    assert bought[: len(before)] == before
    if manifest is not None:
        assert bought == [manifest["model"]]


def lines_of_first_try(
    code: str, folder: Path, has_store: bool, evolink: SimulatorServer
) -> list[tuple[str, int]]:
    let_first_model_fail(evolink, code)
    with KillAtLine() as tracer, contextlib.suppress(TaskDeferred):
        two_models(folder, StateStore() if has_store else None, fallback_after=1).run()
    ours = {"submit.py", "fallback.py", "record.py", "record_file.py", "decision.py", "run.py", "generate.py"}
    return [line for line in tracer.lines if line[0] in ours]


def lives(task: TaskRun) -> bool:
    """Run one try until its result is handed to Airflow; tell whether the worker lived so long."""
    task._succeed = lambda result: result  # type: ignore[method-assign]
    try:
        task.run()
    except Killed:
        return False
    finally:
        del task._succeed
    return True


PARTS = parts_of_lines(3)


@pytest.mark.any_line
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kill", [KillAtLine, KillAtSecondVisit], ids=["first", "second"])
@pytest.mark.parametrize("has_store", [True, False], ids=["3.3", "3.1"])
@pytest.mark.parametrize("code", ["model_not_found", "service_error"])
def test_death_at_any_line_pays_one_model_at_the_most(
    evolink: SimulatorServer, tmp_path: Path, code: str, has_store: bool, kill: type[KillAtLine], part: int
) -> None:
    lines = lines_of_first_try(code, tmp_path / "traced", has_store, evolink)
    assert len(lines) > 150
    wrong = {}
    for number, line in enumerate(lines_to_die_at(lines[part :: len(PARTS)], one_in=30)):
        evolink.reset()
        let_first_model_fail(evolink, code)
        store = StateStore() if has_store else None
        task = two_models(tmp_path / str(number), store, fallback_after=1)
        with kill(line):
            if lives(task):
                continue
        # The worst moment: the model that was left behind works again.
        let_all_models_work(evolink)
        manifest = outcome(task, evolink)
        if manifest is None or purchases(evolink) != [manifest["model"]]:
            wrong[line] = purchases(evolink)
    assert wrong == {}


# What moves nothing on


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a red fox [[http:503 code=service_unavailable]]", EvoLinkUnavailableError),
        ("a red fox [[http:429]]", EvoImageError),
        ("a red fox [[http:500]]", EvoImageError),
        ("a red fox [[http:402]]", InsufficientCreditsError),
        ("a red fox [[http:403 code=key_disabled]]", EvoImageError),
        ("a red fox [[http:403 code=ip_restricted]]", EvoImageError),
        ("a red fox [[http:400 code=content_policy_violation]]", EvoImageError),
        ("a red fox [[fail:content_policy_violation]]", ContentPolicyError),
        ("a red fox [[fail:invalid_parameters]]", GenerationFailedError),
        ("a red fox [[cancelled]]", EvoImageError),
        ("a red fox [[results:0]]", EvoImageError),
        ("a red fox [[cut:after times=99]]", EvoImageError),
    ],
)
def test_other_errors_ask_no_other_model(
    evolink: SimulatorServer,
    maybe_store: StateStore | None,
    tmp_path: Path,
    prompt: str,
    kind: type[EvoImageError],
) -> None:
    with pytest.raises(kind):
        two_models(tmp_path, maybe_store, prompt=prompt, retries=0, submit_timeout=5).run()
    assert {each.order.model for each in evolink.state.generations.values()} <= {FIRST}


@pytest.mark.parametrize("code", ["model_unavailable", "model_not_found"])
def test_lost_answer_and_then_a_refusal_asks_no_other_model(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path, code: str
) -> None:
    prompt = f"a red fox [[cut:before]] [[http:{503 if code == 'model_unavailable' else 404} code={code}]]"
    task = two_models(tmp_path, maybe_store, prompt=prompt, submit_timeout=5)
    with pytest.raises(EvoImageError) as failed:
        task.run()
    assert failed.value.billed is None
    assert evolink.state.generations == {}


def test_failed_generation_that_was_charged_asks_no_other_model(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path
) -> None:
    evolink.state.configure({"charge_failed": True})
    let_first_model_fail(evolink, "service_error")
    with pytest.raises(GenerationFailedError):
        two_models(tmp_path, maybe_store).run()
    assert [each.order.model for each in evolink.state.generations.values()] == [FIRST]


def test_page_of_a_proxy_asks_no_other_model(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    evolink.state.faults.post("submit", Fault("status", 404, page=True))
    with pytest.raises(EvoImageError):
        two_models(tmp_path, store).run()
    assert evolink.state.counters.submissions == 1


# Clears


def test_clear_while_the_other_model_draws_resumes_it(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    task = two_models(tmp_path, maybe_store)
    first_leg(task)
    let_all_models_work(evolink)
    task.clear()
    manifest = task.run()
    assert manifest["model"] == OTHER
    assert manifest["fell_back"] == [{"model": FIRST, "why": "model_unavailable", "billed": False}]
    assert purchases(evolink) == [OTHER]


def test_clear_after_delivery_begins_with_the_first_model(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    task = two_models(tmp_path, maybe_store)
    task.run()
    let_all_models_work(evolink)
    task.clear()
    assert task.run()["model"] == FIRST
    assert purchases(evolink) == [OTHER, FIRST]


def test_retry_with_another_prompt_delivers_what_the_other_model_draws(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    task = two_models(tmp_path, maybe_store)
    first_leg(task)
    let_all_models_work(evolink)
    task.make = two_models(tmp_path, maybe_store, prompt="another fox").make
    assert task.run()["model"] == OTHER
    assert purchases(evolink) == [OTHER]


def test_record_that_cannot_be_read_stops_the_try(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "model_unavailable")
    task = two_models(tmp_path, store)
    first_leg(task)
    let_all_models_work(evolink)
    store.rows["evoimage"] = '{"v": "damaged"}'
    with pytest.raises(UnrepeatableSubmissionError):
        task.run()
    assert purchases(evolink) == [OTHER]


# Before anything is sent


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (
            {"fallback_models": ["gpt-image-2"], "max_credits": 0.5, "quality": "high"},
            BudgetExceededError,
            "gpt",
        ),
        ({"fallback_models": ["model-of-tomorrow"], "max_credits": 50}, PriceUnknownError, "No price"),
        (
            {"model": "gpt-image-2", "size": "16:9"},
            InvalidRequestError,
            r"gpt-image-1\.5 cannot take this request: size",
        ),
        (
            {"n": 2, "fallback_models": ["gpt-image-2-beta"]},
            InvalidRequestError,
            "gpt-image-2-beta cannot take",
        ),
        (
            {"quality": "auto", "model": "gpt-image-1.5-beta", "fallback_models": [FIRST]},
            InvalidRequestError,
            "quality",
        ),
        ({"fallback_models": [7]}, InvalidRequestError, "list of model ids"),
    ],
)
def test_model_that_cannot_take_the_request_is_found_before_anything_is_sent(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    arguments: dict[str, Any],
    kind: type[EvoImageError],
    words: str,
) -> None:
    with pytest.raises(kind, match=words):
        two_models(tmp_path, store, **arguments).run()
    assert evolink.state.counters.submissions == 0


def test_size_and_quality_are_put_into_the_words_of_the_other_model(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    evolink.state.configure({"unavailable_models": ["gpt-image-2.5-flare", "gpt-image-2-beta"]})
    manifest = two_models(
        tmp_path,
        store,
        model="gpt-image-2.5-flare",
        quality="max",
        size="2:3",
        fallback_models=["gpt-image-2-beta", "gpt-image-1.5"],
    ).run()
    assert {name: manifest["request"][name] for name in ("model", "size", "quality")} == {
        "model": "gpt-image-1.5",
        "size": "2:3",
        "quality": "high",
    }
    assert len(manifest["fell_back"]) == 2


def test_limit_counts_what_earlier_models_cost(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    let_first_model_fail(evolink, "service_error")
    task = two_models(tmp_path, store, max_credits=1.5)
    assert task.run()["usage"]["charged"] <= 1.5
    # The failed one was free.
    assert "spent_before" not in store.record


def test_without_any_memory_nothing_is_sent(evolink: SimulatorServer) -> None:
    task = TaskRun(generate(model=FIRST, fallback_models=[OTHER]))
    with pytest.raises(InvalidRequestError, match=r"needs save_to below Airflow 3\.3"):
        task.run()
    assert evolink.state.counters.submissions == 0
