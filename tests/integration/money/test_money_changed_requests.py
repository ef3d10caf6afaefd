"""A request that differs between tries of one run: what was sent is delivered, described, and paid for once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    IdempotencyConflictError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.money.crashes import crash, only_id, paid
from tests.integration.task_driver import (
    CONNECTION,
    StateStore,
    TaskRun,
    batch,
    connection,
    first_leg,
    generate,
)

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def warnings(log_lines: list[dict[str, Any]]) -> str:
    return " ".join(str(line) for line in log_lines if line["log_level"] == "warning")


def varying(**by_leg: Callable[[int], Any]) -> Callable[[], Any]:
    """Make a generate operator some arguments of which are others on each leg."""
    legs = count(1)

    def make() -> Any:
        leg = next(legs)
        return generate(**{name: give(leg) for name, give in by_leg.items()})()

    return make


CHANGES: dict[str, dict[str, Callable[[int], Any]]] = {
    "clock in the prompt": {"prompt": lambda leg: f"a red fox at {leg} o'clock"},
    "size edited": {"size": lambda leg: "1:1" if leg == 1 else "2:3"},
    "callback edited": {"callback_url": lambda leg: f"https://hooks.example.com/{leg}?token={leg}"},
    "signed by a signer that we know": {
        "model": lambda leg: "gpt-image-1",
        "image_urls": lambda leg: [
            f"https://b.s3.amazonaws.com/x.png?X-Amz-Algorithm=AWS4&X-Amz-Signature=a{leg}&X-Amz-Date=2026{leg}"
        ],
    },
    "signed by a signer that we do not know": {
        "model": lambda leg: "gpt-image-1",
        "image_urls": lambda leg: [f"https://img.example.com/x.png?ticket=a{leg}&until={1000 + leg}"],
    },
}


@pytest.mark.parametrize("step", ["after POST", "before set 2", "before defer"])
@pytest.mark.parametrize("change", CHANGES)
def test_retry_whose_request_changed_delivers_and_describes_what_was_sent(
    evolink: SimulatorServer,
    store: StateStore,
    tmp_path: Path,
    step: str,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TaskRun(varying(**CHANGES[change], save_to=lambda leg: str(tmp_path)), retries=3, store=store)
    crash(task, step, monkeypatch)
    manifest = task.run()
    assert (paid(evolink), manifest["evolink_task_id"]) == (1, only_id(evolink))
    assert evolink.state.counters.conflicts == 0
    (made,) = evolink.state.generations.values()
    assert manifest["request"]["prompt"] == made.order.prompt
    if change == "size edited":
        assert manifest["request"]["size"] == "1:1"


@pytest.mark.parametrize("step", ["after POST", "before defer"])
def test_retry_says_that_its_request_changed(
    evolink: SimulatorServer,
    store: StateStore,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[dict[str, Any]],
) -> None:
    task = TaskRun(varying(prompt=lambda leg: f"a red fox at {leg} o'clock"), retries=3, store=store)
    crash(task, step, monkeypatch)
    task.run()
    assert "The request has changed since" in warnings(log_lines)
    assert "on_change='submit'" in warnings(log_lines)
    assert paid(evolink) == 1


@pytest.mark.parametrize("step", ["after POST", "before defer"])
def test_author_can_have_the_changed_request_submitted(
    evolink: SimulatorServer,
    store: StateStore,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[dict[str, Any]],
) -> None:
    task = TaskRun(
        varying(prompt=lambda leg: f"a red fox at {leg} o'clock", on_change=lambda leg: "submit"),
        retries=3,
        store=store,
    )
    crash(task, step, monkeypatch)
    assert task.run()["request"]["prompt"] == "a red fox at 2 o'clock"
    assert paid(evolink) == 2
    assert "collect" in warnings(log_lines).lower()


def test_request_that_never_arrived_is_sent_as_it_was(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(varying(prompt=lambda leg: f"a red fox at {leg} o'clock"), retries=3, store=store)
    crash(task, "before POST", monkeypatch)
    assert task.run()["request"]["prompt"] == "a red fox at 1 o'clock"
    assert paid(evolink) == 1


def test_template_that_moves_during_the_wait_changes_no_record(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    task = TaskRun(
        varying(prompt=lambda leg: f"a red fox at {leg} o'clock", save_to=lambda leg: str(tmp_path)),
        store=store,
    )
    deferred = first_leg(task)
    task.ti.xcoms.clear()
    assert task.go_on(deferred)["request"]["prompt"] == "a red fox at 1 o'clock"
    assert paid(evolink) == 1


@contextmanager
def rotated_key(evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the account another API key."""
    with monkeypatch.context() as patch:
        patch.setenv(CONNECTION, connection(evolink, api_key="sk-evo-another-key-of-the-account"))
        yield


def test_changed_request_after_a_new_api_key_is_refused_rather_than_paid_twice(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(varying(prompt=lambda leg: f"a red fox at {leg} o'clock"), retries=3, store=store)
    crash(task, "after POST", monkeypatch)
    with rotated_key(evolink, monkeypatch), pytest.raises(IdempotencyConflictError):
        task.run()
    assert paid(evolink) == 1


def test_cleared_task_with_another_request_buys_it_and_names_what_may_be_lost(
    evolink: SimulatorServer,
    store: StateStore,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[dict[str, Any]],
) -> None:
    task = TaskRun(varying(prompt=lambda leg: f"a red fox at {leg} o'clock"), retries=3, store=store)
    crash(task, "after POST", monkeypatch)
    task.clear()
    assert task.run()["request"]["prompt"] == "a red fox at 2 o'clock"
    assert paid(evolink) == 2
    assert "no response arrived: it may be paid for" in warnings(log_lines)


def test_default_model_of_the_connection_that_changed_pays_once(
    evolink: SimulatorServer, store: StateStore, airflow_connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_connection(default_model="gpt-image-1.5")
    task = TaskRun(generate(), retries=3, store=store)
    crash(task, "after POST", monkeypatch)
    airflow_connection(default_model="gpt-image-1")
    assert task.run()["request"]["model"] == "gpt-image-1.5"
    assert paid(evolink) == 1


def test_limit_is_held_for_the_request_that_is_sent(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first try's request fits the limit, and the edited one would not.
    task = TaskRun(
        varying(quality=lambda leg: "low" if leg == 1 else "high", max_credits=lambda leg: 2),
        retries=3,
        store=store,
    )
    crash(task, "before POST", monkeypatch)
    assert task.run()["request"]["quality"] == "low"
    assert paid(evolink) == 1


@pytest.mark.parametrize("conn_id", ["evoimage_default", "evoimage_other"])
def test_unknown_outcome_is_not_repeated_at_another_account(
    evolink: SimulatorServer, store: StateStore, conn_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = ["evoimage_default"]
    task = TaskRun(varying(evoimage_conn_id=lambda leg: used[0]), retries=3, store=store)
    crash(task, "after POST", monkeypatch)
    used[0] = conn_id
    with SimulatorServer(speed=1) as other:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection(other))
        with pytest.raises(UnrepeatableSubmissionError, match=evolink.url):
            task.start()
        assert (paid(evolink), paid(other)) == (1, 0)
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection(evolink))
    used[0] = "evoimage_default"
    task.clear()
    task.run()
    assert paid(evolink) == 1


def test_batch_item_signed_anew_after_a_lost_answer_is_paid_once(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    legs = count(1)

    def make() -> Any:
        url = f"https://b.s3.amazonaws.com/x.png?X-Amz-Algorithm=AWS4&X-Amz-Signature=a{next(legs)}"
        return batch([{"prompt": "a red fox", "image_urls": [url]}], tmp_path)()

    task = TaskRun(make, retries=3, store=StateStore())
    evolink.state.faults.post("submit", Fault("cut", after=True, times=20))
    with pytest.raises((EvoImageError, TaskDeferred)):
        task.start()
    evolink.state.faults.clear()
    assert task.run()["saved"] == 1
    assert (paid(evolink), evolink.state.counters.conflicts) == (1, 0)
