"""A worker that dies at any step pays once and loses nothing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.exceptions import (
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.money.crashes import STEPS, STEPS_WITHOUT_STORE, crash, only_id, paid
from tests.integration.task_driver import (
    KillAtLine,
    Killed,
    StateStore,
    TaskRun,
    first_leg,
    generate,
    lines_to_die_at,
)

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


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
    assert task.ti.xcoms["evolink_task_id"] == only_id(evolink)


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
    "result.py",
    "submit.py",
    "record.py",
    "run.py",
    "existing.py",
)


@pytest.mark.any_line
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
    for number, line in enumerate(lines_to_die_at(lines, one_in=10)):
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


@pytest.mark.any_line
@pytest.mark.parametrize("has_store", [True, False], ids=["3.3", "3.1"])
def test_crash_at_any_line_of_the_first_try_pays_once(evolink: SimulatorServer, has_store: bool) -> None:
    lines = lines_of_a_try(StateStore() if has_store else None)
    assert len(lines) > 150
    outcomes = {}
    for line in lines_to_die_at(lines, one_in=10):
        evolink.reset()
        task = TaskRun(generate(), store=StateStore() if has_store else None)
        with KillAtLine(line), pytest.raises((Killed, TaskDeferred)):
            task.start()
        with pytest.raises(TaskDeferred):
            task.start()
        generations = list(evolink.state.generations)
        if generations != [task.ti.xcoms["evolink_task_id"]]:
            outcomes[line] = generations
    assert outcomes == {}
