"""The sensor in its three modes: patient with the service, final about the generation, never retried for time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.exceptions import (
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    GenerationCancelledError,
    GenerationLostError,
    GenerationNotFoundError,
    GenerationRefusedError,
    InvalidRequestError,
    NoImagesError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import TaskRun, first_leg, generate, sense

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

Submit = Callable[..., str]
UNKNOWN = "task-unified-1-abcdefgh"

MODES: dict[str, dict[str, Any]] = {
    "deferrable": {"deferrable": True},
    "poke": {"deferrable": False, "mode": "poke"},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of the sensor's three modes."""
    return MODES[request.param]


def run(sensor: Any, fake_time: FakeTime) -> Any:
    """Run a sensor to its end; Airflow starts it again after each reschedule, within the same try."""
    task = TaskRun(sensor, task_id="sense")
    started = None
    while True:
        try:
            return task.run()
        except AirflowRescheduleException as later:
            # Airflow's own clock stands still here: its first date moves back by what has passed.
            started = started or later.reschedule_date - timedelta(seconds=task.operator().poke_interval)
            fake_time.advance(task.operator().poke_interval)
            begun = started - timedelta(seconds=fake_time.passed)
            task.ti.get_first_reschedule_date = lambda _, begun=begun: begun  # type: ignore[method-assign]
            task.ti.try_number -= 1


def test_manifest_of_the_finished_generation_is_returned(
    submitted: Submit, fake_time: FakeTime, evolink: SimulatorServer, mode: dict[str, Any]
) -> None:
    task = submitted(n=2)
    manifest = run(sense(task, **mode), fake_time)
    assert manifest["evolink_task_id"] == task
    assert manifest["made"] == len(manifest["images"]) == 2
    assert manifest["asked"] is None
    assert manifest["made_by"]["task_id"] == "sense"
    assert evolink.state.counters.submissions == 1


def test_manifest_of_the_submitting_task_can_be_given_and_is_kept(
    fake_time: FakeTime, mode: dict[str, Any], evolink: SimulatorServer
) -> None:
    requested = TaskRun(generate(wait_for_completion=False)).run()
    manifest = run(sense(requested, **mode), fake_time)
    assert manifest["request"] == requested["request"]
    assert (manifest["asked"], manifest["made"]) == (1, 1)
    assert evolink.state.counters.submissions == 1


def test_deferrable_holds_no_worker_unless_it_is_done_already(
    submitted: Submit, evolink: SimulatorServer
) -> None:
    with pytest.raises(TaskDeferred):
        TaskRun(sense(submitted()), task_id="sense").start()
    done = submitted("a red fox [[instant]]")
    assert TaskRun(sense(done), task_id="sense").start()["evolink_task_id"] == done


def test_reschedule_frees_the_worker_between_looks(submitted: Submit) -> None:
    sensor = sense(submitted(), **MODES["reschedule"], poke_interval=30)
    with pytest.raises(AirflowRescheduleException):
        TaskRun(sensor, task_id="sense").start()


BAD_ENDS: list[tuple[str, type[EvoImageError]]] = [
    ("[[fail:content_policy_violation]]", GenerationRefusedError),
    ("[[fail:service_error]]", GenerationRefusedError),
    ("[[fail:resource_exhausted]]", GenerationRefusedError),
    ("[[cancelled]]", GenerationCancelledError),
    ("[[results:0]]", NoImagesError),
]


@pytest.mark.parametrize("when", ["", "[[instant]]"], ids=["later", "already"])
@pytest.mark.parametrize(("word", "kind"), BAD_ENDS)
def test_failure_of_the_generation_is_final_also_where_a_new_request_could_help(
    submitted: Submit,
    fake_time: FakeTime,
    mode: dict[str, Any],
    word: str,
    kind: type[EvoImageError],
    when: str,
) -> None:
    task = submitted(f"a red fox {word}{when}")
    with pytest.raises(kind, match="No retry follows") as failed:
        run(sense(task, **mode), fake_time)
    assert not failed.value.retryable
    assert failed.value.evolink_task_id == task


@pytest.mark.parametrize("when", ["", "[[instant]]"], ids=["later", "already"])
@pytest.mark.parametrize(("word", "kind"), BAD_ENDS)
def test_soft_fail_softens_the_failure_in_each_mode(
    submitted: Submit,
    fake_time: FakeTime,
    mode: dict[str, Any],
    word: str,
    kind: type[EvoImageError],
    when: str,
) -> None:
    with pytest.raises(AirflowSkipException) as skipped:
        run(sense(submitted(f"a red fox {word}{when}"), soft_fail=True, **mode), fake_time)
    assert isinstance(skipped.value.__cause__, kind)


@pytest.mark.parametrize("soft_fail", [False, True])
def test_timeout_is_airflows_own_names_the_generation_and_is_not_retried(
    submitted: Submit, fake_time: FakeTime, mode: dict[str, Any], soft_fail: bool
) -> None:
    task = submitted("a red fox [[never]]")
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout) as ended:
        run(sense(task, timeout=100, poke_interval=10, soft_fail=soft_fail, **mode), fake_time)
    if not soft_fail:
        assert task in str(ended.value)
        assert isinstance(ended.value, EvoImageError)
        assert not ended.value.retryable
        assert ended.value.billed is None
    assert fake_time.passed == pytest.approx(100, abs=15)


@pytest.mark.parametrize("soft_fail", [False, True])
def test_deferral_that_airflow_times_out_names_the_generation(submitted: Submit, soft_fail: bool) -> None:
    task = submitted("a red fox [[never]]")
    run_ = TaskRun(sense(task, soft_fail=soft_fail), task_id="sense")
    with pytest.raises(TaskDeferred) as deferred:
        run_.start()
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout) as ended:
        run_.resume_failed(deferred.value, "Trigger timeout")
    if not soft_fail:
        assert task in str(ended.value)


def test_deferral_that_airflow_times_out_delivers_what_has_finished_meanwhile(
    submitted: Submit, fake_time: FakeTime
) -> None:
    task = TaskRun(sense(submitted()), task_id="sense")
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    fake_time.advance(600)
    assert task.resume_failed(deferred.value, "Trigger timeout")["status"] == "completed"


PASSING_TROUBLES = [
    pytest.param(Fault("status", 502, page=True, times=9), id="page"),
    pytest.param(Fault("status", 403, page=True, times=9), id="firewall"),
    pytest.param(Fault("status", 404, page=True, times=9), id="404 page"),
    pytest.param(Fault("status", 429, times=9), id="429"),
    pytest.param(Fault("junk", times=9), id="junk"),
    pytest.param(Fault("cut", times=9), id="cut"),
]


@pytest.mark.parametrize("fault", PASSING_TROUBLES)
def test_passing_trouble_of_the_service_does_not_end_the_sensor(
    submitted: Submit, fake_time: FakeTime, evolink: SimulatorServer, mode: dict[str, Any], fault: Fault
) -> None:
    task = submitted("a red fox [[duration:60]]")
    evolink.state.faults.post("task", fault)
    assert run(sense(task, **mode), fake_time)["evolink_task_id"] == task
    assert evolink.state.faults.drawn["task"] == 9


def test_lost_wait_can_be_retried(submitted: Submit, fake_time: FakeTime, evolink: SimulatorServer) -> None:
    task = TaskRun(sense(submitted("a red fox [[never]]")), task_id="sense")
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    row = task.stored(deferred.value)
    evolink.state.faults.post("task", Fault("status", 500))
    event = task.wait_in_triggerer(row)
    evolink.state.faults.clear()
    with pytest.raises(GenerationLostError) as lost:
        task.resume(deferred.value, event)
    assert lost.value.retryable


@pytest.mark.parametrize("soft_fail", [False, True])
def test_unknown_generation_is_final(fake_time: FakeTime, mode: dict[str, Any], soft_fail: bool) -> None:
    with pytest.raises(AirflowSkipException if soft_fail else GenerationNotFoundError):
        run(sense(UNKNOWN, soft_fail=soft_fail, **mode), fake_time)


def test_refused_key_is_final(
    submitted: Submit,
    fake_time: FakeTime,
    mode: dict[str, Any],
    airflow_connection: Any,
    evolink: SimulatorServer,
) -> None:
    task = submitted()
    evolink.state.configure({"api_keys": ["sk-evo-another-key"]})
    with pytest.raises(AuthenticationError, match="fix the cause"):
        run(sense(task, **mode), fake_time)


@pytest.mark.parametrize(
    "junk", [None, "", "None", [], {}, 7, "../../v1/credits", [UNKNOWN, f"{UNKNOWN}2"]], ids=repr
)
def test_what_names_no_single_generation_is_refused_unasked(
    fake_time: FakeTime, evolink: SimulatorServer, mode: dict[str, Any], junk: object
) -> None:
    with pytest.raises(InvalidRequestError):
        run(sense(junk, **mode), fake_time)
    assert evolink.state.counters.reads["task"] == 0


def test_sensor_submits_and_pays_nothing(
    submitted: Submit, fake_time: FakeTime, evolink: SimulatorServer, mode: dict[str, Any]
) -> None:
    task = submitted("a red fox [[fail:service_error]]")
    for _ in range(3):
        with contextlib.suppress(GenerationRefusedError):
            run(sense(task, **mode), fake_time)
    assert evolink.state.counters.submissions == 1


def test_poking_sensor_logs_no_link_and_no_prompt(
    submitted: Submit, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    run(sense(submitted(), **MODES["poke"]), fake_time)
    text = json.dumps([line["event"] for line in log_lines])
    assert "/files/" not in text
    assert "red fox" not in text


def test_generation_that_is_not_readable_at_once_is_waited_for(
    submitted: Submit, evolink: SimulatorServer, fake_time: FakeTime, mode: dict[str, Any]
) -> None:
    task = submitted()
    evolink.state.faults.post("task", Fault("status", 404, code="task_not_found", times=2))
    assert run(sense(task, **mode), fake_time)["evolink_task_id"] == task


def test_deferral_that_airflow_times_out_is_no_skip_where_the_generation_is_there(
    submitted: Submit, fake_time: FakeTime
) -> None:
    task = submitted()
    run_ = TaskRun(sense(task, soft_fail=True), task_id="sense")
    deferral = first_leg(run_)
    fake_time.advance(2000)
    assert run_.resume_failed(deferral, "Trigger timeout")["status"] == "completed"
