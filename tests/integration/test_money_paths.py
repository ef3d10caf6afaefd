"""One logical request is paid once, whatever crashes, retries or restarts, and nothing paid for is lost."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow.exceptions import TaskDeferred
from fake_time import FakeTime
from task_driver import KillAtLine, Killed, StateStore, TaskRun, generate, kept_keys

import airflow_provider_evoimage
from airflow_provider_evoimage.exceptions import (
    ContentPolicyError,
    EvoImageError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationRefusedError,
    GenerationTimeoutError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    LinkExpiredError,
    NoImagesError,
    OutcomeUnknownError,
    RateLimitError,
    SaveError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.errors import FAILURES
from airflow_provider_evoimage.simulator.faults import Fault

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

PACKAGE = Path(airflow_provider_evoimage.__file__).parent
POST = "/v1/images/generations"


@pytest.fixture(params=["3.3", "3.1"])
def maybe_store(request: pytest.FixtureRequest) -> StateStore | None:
    """The task state store of Airflow 3.3, or none as before it."""
    return StateStore() if request.param == "3.3" else None


def paid(evolink: SimulatorServer) -> int:
    return evolink.state.counters.paid


def only_id(evolink: SimulatorServer) -> str:
    (evolink_task_id,) = evolink.state.generations
    return evolink_task_id


# Without a crash


@pytest.mark.parametrize("deferrable", [True, False])
def test_one_try_pays_once_and_delivers(
    evolink: SimulatorServer, maybe_store: StateStore | None, deferrable: bool
) -> None:
    task = TaskRun(generate(deferrable=deferrable), store=maybe_store)
    manifest = task.run()
    assert paid(evolink) == evolink.state.counters.submissions == 1
    assert manifest["evolink_task_id"] == only_id(evolink)
    assert manifest["usage"]["charged"] == float(evolink.state.counters.credits_charged)
    assert len(task.events) == deferrable


def test_id_is_in_xcom_as_soon_as_the_request_is_accepted(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    assert task.ti.xcoms == {"evolink_task_id": only_id(evolink)}


def test_record_precedes_the_post_and_follows_the_generation(
    evolink: SimulatorServer, store: StateStore
) -> None:
    phases: list[tuple[str, int]] = []
    store.on = lambda moment: phases.append((moment, paid(evolink)))
    task = TaskRun(generate(), store=store)
    task.run()
    assert phases[:6] == [
        ("before get", 0),
        ("after get", 0),
        ("before set", 0),
        ("after set", 0),
        ("before set", 1),
        ("after set", 1),
    ]
    assert store.record["phase"] == "delivered"
    assert store.record["evolink_task_id"] == only_id(evolink)


def test_record_holds_no_prompt_link_or_key(store: StateStore, evolink: SimulatorServer) -> None:
    TaskRun(generate(image_urls=["https://shop.example.com/shoe.png?token=1"]), store=store).run()
    assert " fox" not in store.rows["evoimage"]
    assert "shop.example.com" not in store.rows["evoimage"]
    assert "sk-evo" not in store.rows["evoimage"]
    assert store.record["base_url"] == evolink.url


# A crash at each step between "about to post" and "deferred"

STEPS = [
    "before get",
    "after get",
    "before set",
    "after set",
    "before POST",
    "after POST",
    "before set 2",
    "after set 2",
    "before xcom_push",
    "after xcom_push",
    "before defer",
]
STEPS_WITHOUT_STORE = [step for step in STEPS if "set" not in step and "get" not in step]


@contextmanager
def killed_at(step: str, task: TaskRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the worker die when it comes to a step of its try."""
    moment, _, nth = step.rpartition(" ") if step.endswith(" 2") else (step, "", "1")
    seen = 0

    def reach(here: str) -> None:
        nonlocal seen
        seen += here == moment
        if here == moment and seen == int(nth):
            raise Killed(step)

    send = httpx.Client.request

    def request(client: httpx.Client, **options: Any) -> httpx.Response:
        posts = options["url"].endswith(POST)
        if posts:
            reach("before POST")
        response = send(client, **options)
        if posts:
            reach("after POST")
        return response

    operator = task.operator

    def doomed() -> Any:
        made = operator()
        made.defer = lambda **_: reach("before defer")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(httpx.Client, "request", request)
        patch.setattr(task, "operator", doomed)
        patch.setattr(task.ti, "on", reach)
        if task.store is not None:
            patch.setattr(task.store, "on", reach)
        yield


def crash(task: TaskRun, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at(step, task, monkeypatch), pytest.raises(Killed):
        task.start()


@pytest.mark.parametrize("step", STEPS)
def test_retry_after_worker_crash_pays_once_and_delivers_that_generation(
    evolink: SimulatorServer, store: StateStore, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    crash(task, step, monkeypatch)
    before = list(evolink.state.generations)
    manifest = task.run()
    assert paid(evolink) == 1
    assert manifest["evolink_task_id"] == only_id(evolink)
    assert before in ([], [manifest["evolink_task_id"]])


@pytest.mark.parametrize("step", [step for step in STEPS if step in STEPS[STEPS.index("after set 2") :]])
def test_retry_after_worker_crash_submits_nothing_once_the_id_is_recorded(
    evolink: SimulatorServer, store: StateStore, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    crash(task, step, monkeypatch)
    task.run()
    assert evolink.state.counters.submissions == 1


@pytest.mark.parametrize("step", STEPS_WITHOUT_STORE)
def test_key_alone_protects_a_retry_before_airflow_3_3(
    evolink: SimulatorServer, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate())
    crash(task, step, monkeypatch)
    manifest = task.run()
    assert paid(evolink) == 1
    assert manifest["evolink_task_id"] == only_id(evolink)


@pytest.mark.parametrize("step", STEPS_WITHOUT_STORE)
def test_crash_at_the_same_step_of_each_try_still_pays_once(
    evolink: SimulatorServer, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=5)
    for _ in range(4):
        crash(task, step, monkeypatch)
    task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize(
    ("has_store", "step"),
    [*((True, step) for step in STEPS), *((False, step) for step in STEPS_WITHOUT_STORE)],
)
def test_ignored_keys_never_pay_twice_after_a_crash(
    evolink: SimulatorServer,
    airflow_connection: Any,
    has_store: bool,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow_connection(idempotency="ignored")
    evolink.state.configure({"ignore_keys": True})
    task = TaskRun(generate(), store=StateStore() if has_store else None)
    crash(task, step, monkeypatch)
    before = list(evolink.state.generations)
    try:
        manifest = task.run()
    except UnrepeatableSubmissionError:
        assert list(evolink.state.generations) == before
    else:
        assert manifest["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) <= 1


SECOND_LEG = (
    "generate.py",
    "saver.py",
    "destination.py",
    "manifest.py",
    "ending.py",
    "submit.py",
    "resume.py",
)


def test_crash_at_any_line_after_the_wait_loses_and_pays_nothing(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    store = StateStore()
    task = TaskRun(generate(save_to=str(tmp_path / "traced")), store=store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    with KillAtLine() as tracer:
        task.resume(deferral, event)
    lines = [line for line in tracer.lines if line[0] in SECOND_LEG]
    assert len(lines) > 100
    waited = json.dumps(store.record | {"phase": "submitted"})
    (link,) = evolink.state.links(evolink.state.generations[only_id(evolink)])
    for number, line in enumerate(lines):
        folder = tmp_path / str(number)
        store.rows["evoimage"] = waited
        task.make = generate(save_to=str(folder))
        with KillAtLine(line), contextlib.suppress(Killed):
            task.resume(deferral, event)
        # Complete or absent, also in the moment of the crash; no part is left behind.
        assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".png", ".json"}, line
        manifest = task.run()
        assert (manifest["evolink_task_id"], manifest["images"][0]["url"]) == (only_id(evolink), link), line
        assert Path(manifest["images"][0]["path"].removeprefix("file://")).stat().st_size, line
    assert paid(evolink) == evolink.state.counters.submissions == 1


def lines_of_a_try(store: StateStore | None) -> list[tuple[str, int]]:
    with KillAtLine() as tracer, pytest.raises(TaskDeferred):
        TaskRun(generate(), store=store).start()
    return list(tracer.lines)


@pytest.mark.parametrize("has_store", [True, False], ids=["3.3", "3.1"])
def test_crash_at_any_line_of_the_first_try_pays_once(evolink: SimulatorServer, has_store: bool) -> None:
    lines = lines_of_a_try(StateStore() if has_store else None)
    assert len(lines) > 150
    outcomes = {}
    for line in lines:
        evolink.state.reset()
        task = TaskRun(generate(), store=StateStore() if has_store else None)
        with KillAtLine(line), pytest.raises((Killed, TaskDeferred)):
            task.start()
        with pytest.raises(TaskDeferred):
            task.start()
        generations = list(evolink.state.generations)
        if generations != [task.ti.xcoms["evolink_task_id"]]:
            outcomes[line] = generations
    assert outcomes == {}


# What a failing store or Airflow does


@pytest.mark.parametrize("nth", [1, 2])
def test_store_that_fails_to_write_is_a_warning_and_the_key_protects(
    evolink: SimulatorServer, store: StateStore, log_lines: list[Any], nth: int
) -> None:
    calls = {"before set": 0}

    def fail(moment: str) -> None:
        if moment in calls:
            calls[moment] += 1
            if calls[moment] == nth:
                raise ConnectionError("the API server is away")

    store.on = fail
    task = TaskRun(generate(), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    assert any("cannot be written" in line["event"] for line in log_lines)
    task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize("moment", ["before get", "before set"])
def test_ignored_keys_need_the_store_before_anything_is_sent(
    evolink: SimulatorServer, store: StateStore, airflow_connection: Any, moment: str
) -> None:
    airflow_connection(idempotency="ignored")

    def fail(here: str) -> None:
        if here == moment:
            raise ConnectionError("the API server is away")

    store.on = fail
    with pytest.raises(EvoImageError, match="Nothing was submitted") as failed:
        TaskRun(generate(), store=store).start()
    assert failed.value.retryable
    assert evolink.state.counters.submissions == 0


# Answers that were lost


@pytest.mark.parametrize(
    "word", ["[[cut:after]]", "[[status-after:502]]", "[[junk-after]]", "[[cut:before]]"]
)
def test_lost_answer_is_settled_within_the_try(
    evolink: SimulatorServer, maybe_store: StateStore | None, word: str
) -> None:
    manifest = TaskRun(generate(prompt=f"a red fox {word}"), store=maybe_store).run()
    assert paid(evolink) == 1
    assert manifest["evolink_task_id"] == only_id(evolink)


def test_answer_lost_twice_is_settled_by_the_retry(
    evolink: SimulatorServer, maybe_store: StateStore | None
) -> None:
    task = TaskRun(generate(prompt="a red fox [[cut:after times=2]]"), store=maybe_store)
    with pytest.raises(OutcomeUnknownError):
        task.run()
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


@pytest.mark.parametrize("trusted", ["trusted", "ignored"])
def test_request_that_was_certainly_refused_can_be_asked_again_by_the_retry(
    evolink: SimulatorServer, store: StateStore, airflow_connection: Any, trusted: str
) -> None:
    airflow_connection(idempotency=trusted)
    fault = Fault("status", 429)
    evolink.state.faults.post("submit", fault)
    task = TaskRun(generate(), store=store)
    with pytest.raises(RateLimitError, match=r"Billed: no\."):
        task.run()
    evolink.state.faults.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)


@pytest.mark.parametrize("trusted", ["trusted", "ignored"])
def test_account_topped_up_after_the_weekend_goes_on_by_a_clear(
    evolink: SimulatorServer,
    store: StateStore,
    airflow_connection: Any,
    fake_time: FakeTime,
    trusted: str,
) -> None:
    airflow_connection(idempotency=trusted)
    evolink.state.configure({"credits": 0})
    task = TaskRun(generate(), store=store)
    with pytest.raises(InsufficientCreditsError, match=r"Billed: no\."):
        task.run_with_retries()
    evolink.state.configure({"credits": 1000})
    fake_time.advance(3 * 86_400)
    task.clear()
    assert task.run()["evolink_task_id"] == only_id(evolink)


def test_refusal_does_not_make_an_earlier_unknown_outcome_forgotten(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=5, store=store)
    crash(task, "after POST", monkeypatch)
    key = store.record["key"]
    evolink.state.faults.post("submit", Fault("status", 402, times=1))
    with pytest.raises(InsufficientCreditsError):
        task.run()
    assert (store.record["phase"], store.record["key"]) == ("submitting", key)
    task.clear()
    task.run()
    assert paid(evolink) == 1


def test_key_older_than_evolink_remembers_is_never_asked_again(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    crash(task, "after POST", monkeypatch)
    fake_time.advance(23 * 3600 + 60)
    with pytest.raises(UnrepeatableSubmissionError):
        task.run()
    assert evolink.state.counters.submissions == 1


def test_changed_signature_of_a_reference_after_a_crash_is_a_conflict_never_a_second_payment(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = "https://bucket.s3.amazonaws.com/a.png?X-Amz-Date={0}&X-Amz-Signature={0}"
    task = TaskRun(generate(image_urls=[link.format(1)]), store=store)
    crash(task, "after POST", monkeypatch)
    task.make = generate(image_urls=[link.format(2)])
    with pytest.raises(IdempotencyConflictError, match="EvoImageSaveOperator"):
        task.run()
    assert paid(evolink) == 1


def test_changed_signature_of_a_reference_resumes_the_recorded_generation(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = "https://bucket.s3.amazonaws.com/a.png?X-Amz-Date={0}&X-Amz-Signature={0}"
    task = TaskRun(generate(image_urls=[link.format(1)]), store=store)
    crash(task, "before defer", monkeypatch)
    task.make = generate(image_urls=[link.format(2)])
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert evolink.state.counters.submissions == 1


def test_rotated_key_is_no_new_request(
    evolink: SimulatorServer,
    maybe_store: StateStore | None,
    airflow_connection: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TaskRun(generate(), store=maybe_store)
    crash(task, "before defer", monkeypatch)
    airflow_connection(api_key="sk-evo-the-next-key")
    task.run()
    assert paid(evolink) == 1


def test_changed_prompt_in_the_same_epoch_asks_anew_and_warns_with_the_earlier_id(
    evolink: SimulatorServer, store: StateStore, log_lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    crash(task, "before defer", monkeypatch)
    earlier = only_id(evolink)
    task.make = generate(prompt="a blue fox")
    assert task.run()["evolink_task_id"] != earlier
    assert paid(evolink) == 2
    (warning,) = [line for line in log_lines if "paid for and not delivered" in line["event"]]
    assert warning["log_level"] == "warning"
    assert earlier in warning["event"]


def test_mapped_tasks_and_other_runs_are_requests_of_their_own(evolink: SimulatorServer) -> None:
    for index in range(3):
        TaskRun(generate(), store=StateStore(), map_index=index).run()
    TaskRun(generate(), store=StateStore(), run_id="another").run()
    assert paid(evolink) == 4


# Clears: how many generations are paid for in all

Before = Callable[[TaskRun, SimulatorServer, pytest.MonkeyPatch], None]


def deferred(task: TaskRun, *_: object) -> None:
    with pytest.raises(TaskDeferred):
        task.start()


def running(task: TaskRun, evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    del evolink
    crash(task, "after POST", monkeypatch)


def timed_out(task: TaskRun, *_: object) -> None:
    made = task.make

    def impatient() -> Any:
        operator = made()
        operator.timeout = 2.0
        return operator

    task.make = impatient
    with pytest.raises(GenerationTimeoutError):
        task.run()
    task.make = made


def save_failed(task: TaskRun, evolink: SimulatorServer, *_: object) -> None:
    evolink.state.faults.post("download", Fault("status", 503))
    with pytest.raises(SaveError):
        task.run()
    evolink.state.faults.clear()


def succeeded(task: TaskRun, *_: object) -> None:
    task.run()


def refused(task: TaskRun, *_: object) -> None:
    with pytest.raises(GenerationRefusedError):
        task.run_with_retries()


CLEARS: list[tuple[str, Before, dict[str, int]]] = [
    # Prompt, what the first try came to, and what is paid in all by on_clear.
    ("a red fox", deferred, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", running, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", timed_out, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", save_failed, {"auto": 1, "regenerate": 2, "reuse": 1}),
    ("a red fox", succeeded, {"auto": 2, "regenerate": 2, "reuse": 1}),
    ("a red fox [[fail:invalid_parameters]]", refused, {"auto": 2, "regenerate": 2, "reuse": 2}),
]


@pytest.mark.parametrize("on_clear", ["auto", "regenerate", "reuse"])
@pytest.mark.parametrize(("prompt", "before", "in_all"), CLEARS, ids=[row[1].__name__ for row in CLEARS])
def test_cleared_task_pays_what_the_table_says(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    before: Before,
    in_all: dict[str, int],
    on_clear: str,
) -> None:
    task = TaskRun(generate(prompt=prompt, on_clear=on_clear, save_to=str(tmp_path)), store=store)
    with kept_keys(evolink) as keys:
        before(task, evolink, monkeypatch)
        task.clear()
        try:
            manifest = task.run()
        except GenerationRefusedError:
            assert "fail" in prompt
        else:
            assert manifest["evolink_task_id"] == list(evolink.state.generations)[-1]
    assert paid(evolink) == len(keys) == in_all[on_clear]
    # And whatever the clear did, the try after it pays nothing more.
    if "fail" not in prompt:
        task.run()
    assert paid(evolink) == in_all[on_clear]


@pytest.mark.parametrize("on_clear", ["auto", "regenerate", "reuse"])
def test_cleared_task_always_asks_anew_before_airflow_3_3(evolink: SimulatorServer, on_clear: str) -> None:
    task = TaskRun(generate(on_clear=on_clear))
    task.run()
    task.clear()
    task.run()
    assert paid(evolink) == 2


@pytest.mark.parametrize("on_clear", ["auto", "reuse"])
def test_crash_of_the_try_after_a_clear_pays_no_more(
    evolink: SimulatorServer, store: StateStore, on_clear: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(on_clear=on_clear), store=store)
    deferred(task)
    task.clear()
    crash(task, "before defer", monkeypatch)
    task.run()
    assert paid(evolink) == 1


@pytest.mark.parametrize("step", STEPS)
def test_crash_while_regenerating_after_a_clear_pays_two_in_all(
    evolink: SimulatorServer, store: StateStore, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), store=store)
    task.run()
    task.clear()
    crash(task, step, monkeypatch)
    manifest = task.run()
    assert paid(evolink) == 2
    assert manifest["evolink_task_id"] == list(evolink.state.generations)[-1]


def test_editing_retries_between_tries_is_no_clear(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(), retries=2, store=store)
    crash(task, "after POST", monkeypatch)
    task.retries = 7
    task.run()
    assert paid(evolink) == 1


def test_not_waiting_counts_as_delivered(evolink: SimulatorServer, store: StateStore) -> None:
    task = TaskRun(generate(wait_for_completion=False), store=store)
    manifest = task.run()
    assert manifest["status"] == "pending"
    assert task.run()["evolink_task_id"] == manifest["evolink_task_id"]
    task.clear()
    assert task.run()["evolink_task_id"] != manifest["evolink_task_id"]
    assert paid(evolink) == 2


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
    assert any("2 of the 3 images" in line["event"] for line in log_lines)
    assert paid(evolink) == 1


# Coming back from the wait


def first_leg(task: TaskRun) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.start()
    return caught.value


def test_execute_complete_may_run_twice(evolink: SimulatorServer, store: StateStore, tmp_path: Path) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    once = task.resume(deferral, event)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert task.resume(deferral, event) == once
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert paid(evolink) == evolink.state.counters.submissions == 1
    assert evolink.state.counters.downloads == 1


def test_trigger_may_run_twice(evolink: SimulatorServer, store: StateStore) -> None:
    task = TaskRun(generate(), store=store)
    row = task.stored(first_leg(task))
    assert task.wait_in_triggerer(row) == task.wait_in_triggerer(row)
    assert evolink.state.counters.submissions == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_retry_after_a_timeout_goes_on_waiting_for_the_same_generation(
    evolink: SimulatorServer, maybe_store: StateStore | None, deferrable: bool, fake_time: FakeTime
) -> None:
    task = TaskRun(
        generate(prompt="a red fox [[duration:200]]", timeout=90, deferrable=deferrable), store=maybe_store
    )
    for _ in range(2):
        with pytest.raises(GenerationTimeoutError, match="submits nothing") as failed:
            task.run()
        assert failed.value.evolink_task_id == only_id(evolink)
        assert failed.value.billed is None
        assert failed.value.retryable
    assert fake_time.passed == pytest.approx(180, abs=5)
    assert task.run()["evolink_task_id"] == only_id(evolink)
    assert paid(evolink) == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [("Trigger timeout", GenerationTimeoutError), ("Trigger failure", EvoImageError)],
)
def test_deferral_that_airflow_ends_itself_names_the_generation(
    evolink: SimulatorServer, maybe_store: StateStore | None, message: str, kind: type[EvoImageError]
) -> None:
    task = TaskRun(generate(), store=maybe_store)
    deferral = first_leg(task)
    with pytest.raises(kind, match="submits nothing") as failed:
        task.resume_failed(deferral, message)
    assert failed.value.evolink_task_id == only_id(evolink)
    assert failed.value.retryable
    task.run()
    assert paid(evolink) == 1


def test_deferral_that_airflow_ends_itself_delivers_what_has_finished_meanwhile(
    evolink: SimulatorServer, store: StateStore, fake_time: FakeTime
) -> None:
    task = TaskRun(generate(), store=store)
    deferral = first_leg(task)
    fake_time.advance(600)
    assert task.resume_failed(deferral, "Trigger timeout")["evolink_task_id"] == only_id(evolink)


def test_event_of_another_version_fails_without_losing_the_generation(
    evolink: SimulatorServer, store: StateStore
) -> None:
    task = TaskRun(generate(), store=store)
    deferral = first_leg(task)
    with pytest.raises(EvoImageError, match="submits nothing"):
        task.resume(deferral, {"v": 99, "status": "completed"})
    task.run()
    assert paid(evolink) == 1


def test_links_that_died_before_they_were_saved_say_what_is_lost(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, fake_time: FakeTime
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), store=store)
    deferral = first_leg(task)
    event = task.wait_in_triggerer(task.stored(deferral))
    fake_time.advance(25 * 3600)
    with pytest.raises(LinkExpiredError, match="save_to") as failed:
        task.resume(deferral, event)
    assert failed.value.evolink_task_id == only_id(evolink)
    assert failed.value.billed is True
    assert list(tmp_path.rglob("*.png")) == []
    # Nothing is left to go on with, so a clear asks anew.
    task.clear()
    task.run()
    assert paid(evolink) == 2
